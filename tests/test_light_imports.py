"""Rooms that are not about Ray or models import where Ray and the model libraries are missing.

What only a cluster or a model needs must not be a condition for planning, labelling, measuring or
reading a run.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCKED = ("ray", "deepspeed", "diffusers", "transformers")
# on_ray is about Ray. The other two are about models, and may need the model libraries.
EXCEPTED = ("on_ray", "models", "miniature")

PROGRAM = """
import importlib, json, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(f"{name} is blocked")

modules, blocked = json.load(sys.stdin)
sys.meta_path.insert(0, Blocker())
failed = {}
for module in modules:
    try:
        importlib.import_module(module)
    except ImportError as error:
        failed[module] = str(error)
print(json.dumps(failed))
"""


def failures(modules: list[str]) -> dict[str, str]:
    """Import modules in a process without the blocked packages; return what failed, and why."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([modules, BLOCKED]),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
        timeout=120,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_rooms_import_without_ray_and_model_libraries() -> None:
    files = (file.relative_to(ROOT).with_suffix("") for file in ROOT.glob("valign/**/*.py"))
    names = [file.parts for file in files if file.parts[1] not in EXCEPTED]
    modules = sorted(".".join(name).removesuffix(".__init__") for name in names)
    assert "valign.storage.tables" in modules
    assert failures(modules) == {}


def test_the_block_works() -> None:
    assert failures(["ray", "diffusers"]).keys() == {"ray", "diffusers"}
