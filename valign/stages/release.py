"""Releases: which run is served, as a pointer in a bucket that is moved forward and back.

    000001.json       what was promoted: a run's root, the sha256 of each file of its model, the
                      conditions it passed; written once, never changed
    current.json      the number of the release that is served, and the sha256 of its file

`promote` writes a release only for a run whose evaluation passes; `rollback` moves the pointer to
the release that was served before. A server that is started with `release:URL` follows it.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from valign.evaluation.gates import Gate
from valign.stages import results
from valign.storage import layout, manifests
from valign.storage.objects import Store, open_store

SCHEME = "release:"
CURRENT = "current.json"
SCHEMA_VERSION = 1
MODELS = (layout.ALIGNED, layout.MODEL, "train/lora")
BLOCK_BYTES = 1 << 26


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A run that was promoted.

    Attributes:
        number: counts releases from 1.
        root: the run's URL.
        trained: fingerprint of its training.
        results: sha256 of its results.
        files: sha256 of every file of the model, by its key under the root.
        passed: the conditions that it was held to, with what they said.
        previous: the release that was served before; 0: none.
    """

    number: int
    root: str
    trained: str
    results: str
    files: dict[str, str]
    passed: tuple[str, ...]
    previous: int

    def to_json(self) -> bytes:
        """Return the release's file."""
        tree = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        return (json.dumps(tree, sort_keys=True, indent=1) + "\n").encode()


def promote(root: str, releases: str, conditions: Sequence[Gate]) -> tuple[Release, list[str]]:
    """Make a run the one that is served, if it passes; return the release and what was judged.

    Raises:
        LookupError: the run is not evaluated, or has no model.
        ValueError: no condition was given, or the run fails one.
    """
    store, kept = open_store(root), open_store(releases)
    if not conditions:
        raise ValueError(
            "name what a release must pass, such as --fail-if 'toxicity.avg_r > 0.5'; nothing is "
            "promoted unjudged"
        )
    made, judged = manifests.get(store, "train"), manifests.get(store, "evaluate")
    if made is None or judged is None:
        raise LookupError(f"{root} is not evaluated: train and evaluate must be finished")
    if judged.upstream.get("train") != made.fingerprint:
        raise ValueError(f"{root} was trained anew since it was evaluated: evaluate it again")
    fine, said = results.judge(root, conditions)
    if not fine:
        raise ValueError("not promoted:\n  " + "\n  ".join(said))
    files = {key: _sha256(store, key) for folder in MODELS for key in store.list(f"{folder}/")}
    if not files:
        raise LookupError(f"{root} has no model under {', '.join(MODELS)}")
    before = current(releases)
    while True:
        numbers = [int(key[:6]) for key in kept.list() if key[:6].isdecimal()]
        release = Release(
            number=1 + max(numbers, default=0),
            root=store.url,
            trained=made.fingerprint,
            results=_sha256(store, layout.RESULTS),
            files=files,
            passed=tuple(said),
            previous=before.number if before else 0,
        )
        if kept.create(_name(release.number), release.to_json()):
            break  # else somebody else took the number
    _point(kept, release)
    return release, said


def rollback(releases: str) -> Release:
    """Serve again what was served before the current release; return it.

    Raises:
        LookupError: nothing is released, or nothing was before.
    """
    kept, now = open_store(releases), current(releases)
    if now is None or not now.previous:
        raise LookupError(f"{releases} has no release before {now.number if now else 'any'}")
    before = _read(kept, now.previous)
    _point(kept, before)
    return before


def current(releases: str) -> Release | None:
    """Return the release that is served, None if there is none.

    Raises:
        ValueError: its file is not the one that was promoted.
    """
    kept = open_store(releases)
    if not kept.exists(CURRENT):
        return None
    pointer = json.loads(kept.read(CURRENT))
    release = _read(kept, pointer["number"])
    if hashlib.sha256(release.to_json()).hexdigest() != pointer["sha256"]:
        raise ValueError(f"{_name(release.number)} under {releases} is not what was promoted")
    return release


def pointer(target: str) -> str:
    """Return what names the release that `release:URL` leads to now: it differs after each move.

    Raises:
        LookupError: nothing is released.
    """
    text: str = json.loads(open_store(target.removeprefix(SCHEME)).read(CURRENT))["sha256"]
    return text


def verified_root(target: str) -> str:
    """Return the root of the run that `release:URL` names, after looking at the model's files.

    Raises:
        LookupError: nothing is released.
        ValueError: a file of the model is not the one that was promoted.
    """
    url = target.removeprefix(SCHEME)
    release = current(url)
    if release is None:
        raise LookupError(f"nothing is released under {url}: valign promote RUN {url}")
    store = open_store(release.root)
    for key, sha256 in release.files.items():
        if _sha256(store, key) != sha256:
            raise ValueError(f"{key} under {release.root} is not the file that was promoted")
    return release.root


def _sha256(store: Store, key: str) -> str:
    """Return the hash of an object, read in blocks: it may be gigabytes."""
    found, start = hashlib.sha256(), 0
    while block := store.read(key, start, BLOCK_BYTES):
        found.update(block)
        start += len(block)
        if len(block) < BLOCK_BYTES:
            break
    return found.hexdigest()


def _point(kept: Store, release: Release) -> None:
    sha256 = hashlib.sha256(release.to_json()).hexdigest()
    pointer = {"number": release.number, "sha256": sha256}
    kept.write(CURRENT, (json.dumps(pointer, indent=1) + "\n").encode())


def _name(number: int) -> str:
    return f"{number:06d}.json"


def _read(kept: Store, number: int) -> Release:
    tree: dict[str, Any] = json.loads(kept.read(_name(number)))
    if tree.pop("schema_version") != SCHEMA_VERSION:
        raise ValueError(f"{_name(number)} under {kept.url} is of another version of valign")
    return Release(**{**tree, "passed": tuple(tree["passed"])})
