"""A folder on a disk that is full, or may only be read: told plainly, and nothing half-written."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from valign.storage.objects import open_store

OWN_DISK = ["unshare", "--map-root-user", "--mount", "sh", "-ec"]

QUOTA = """
import resource, signal, sys
from valign.storage.objects import open_store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
store = open_store(sys.argv[1])
store.write("part-0", bytes(1 << 20))
for change in (store.write, store.create):
    try:
        change("part-1", bytes(2 << 20))
    except OSError as error:
        print(error)
print(list(store.list()))
"""

FULL = """
import sys
from valign.storage.objects import open_store
store = open_store(sys.argv[1])
store.write("part-0", bytes(1 << 20))
for change in (store.write, store.create):
    try:
        change("part-1", bytes(2 << 20))
    except OSError as error:
        print(error)
store.delete("part-0")
store.write("part-1", bytes(1 << 20))  # what failed took no room
print(list(store.list()))
"""

READ_ONLY = """
import sys
from valign.storage.objects import open_store
store = open_store(sys.argv[1])
for change in (store.write, store.create):
    try:
        change("part-1", b"1")
    except OSError as error:
        print(error)
print(list(store.list()))
"""


def on_a_disk_of_its_own(script: str, folder: Path, mount: str) -> list[str]:
    """Run a script on a folder over which a small disk is mounted, seen by the script only."""
    if not shutil.which("unshare"):
        pytest.skip("there is no unshare on this machine")
    words = [*OWN_DISK, f'{mount}; exec "$0" -c "$1" "$2"', sys.executable, script, str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"this machine lets no user mount a disk: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_used_up_quota_is_told(tmp_path: Path) -> None:
    words = [sys.executable, "-c", QUOTA, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    *errors, listed = done.stdout.splitlines()
    assert len(errors) == 2
    for error in errors:
        assert "no room is left for it: make room" in error
        assert str(tmp_path / "part-1") in error
    assert listed == "['part-0']"
    assert [file.name for file in tmp_path.iterdir()] == ["part-0"]
    assert len(open_store(str(tmp_path)).read("part-0")) == 1 << 20


def test_a_full_disk_is_told_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=2m none {tmp_path}"
    *errors, listed = on_a_disk_of_its_own(FULL, tmp_path, mount)
    assert len(errors) == 2
    assert all("no room is left for it: make room" in error for error in errors)
    assert listed == "['part-1']"


def test_a_disk_that_may_only_be_read_is_told(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o ro none {tmp_path}"
    *errors, listed = on_a_disk_of_its_own(READ_ONLY, tmp_path, mount)
    assert len(errors) == 2
    assert all("may not be written: take a root" in error for error in errors)
    assert listed == "[]"
