"""Find out whether a run can work here: torch, storage and models, each with a remedy."""

import importlib.metadata
import os
import secrets

from valign.config import Run
from valign.settings import POOLS
from valign.storage.objects import open_store

Finding = tuple[str, bool, str, str]
"""What was looked at, whether it is fine, what was found, and what to do if it is not."""


def findings(run: Run) -> list[Finding]:
    """Look at everything but Ray."""
    return [_torch(run), storage(run), _generator(run), _scorers(run)]


def _torch(run: Run) -> Finding:
    import torch

    gpus = torch.cuda.device_count()
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(gpus)) or "no GPU"
    versions = f"{torch.__version__}, torchvision {importlib.metadata.version('torchvision')}"
    detail = f"{versions}; {names}; {os.cpu_count()} CPU cores"
    asked = any(run.resources.pool(stage).gpus_per_worker for stage in POOLS)
    if asked and not gpus and not os.environ.get("RAY_ADDRESS"):
        remedy = "The recipe asks for GPUs: set RAY_ADDRESS, or resources.gpus_per_worker=0."
        return ("torch", False, detail, remedy)
    return ("torch", True, detail, "")


def storage(run: Run) -> Finding:
    """Look whether the root can be written, read, listed, and claims in it hold."""
    remedy = "Set root= to a folder or URL you may write to."
    key = f"check-{secrets.token_hex(8)}.txt"
    try:
        store = open_store(run.root)
        try:
            store.write(key, b"written by valign check\n")
            store.read(key)
            replaced = store.create(key, b"")
            listed = list(store.list(key))
        finally:
            store.delete(key)
    except (OSError, ValueError, LookupError) as error:
        return ("storage", False, str(error), remedy)
    if replaced:
        detail = f"{run.root}: the service lets a claim be taken twice (it ignores If-None-Match)"
        remedy = "Use AWS S3, SeaweedFS, MinIO or another service with conditional writes."
        return ("storage", False, detail, remedy)
    if listed != [key]:
        return ("storage", False, f"{run.root}: what was written is not listed", remedy)
    return ("storage", True, f"{run.root} can be written, read and listed", "")


def _generator(run: Run) -> Finding:
    from valign.stages import generator

    try:
        generator.check(run)
        loaded = generator.load_generator(run)
    except (OSError, ValueError, LookupError) as error:
        remedy = "Set generator= to a hub id, folder, checkpoint or URL that exists; or sampling."
        return ("generator", False, str(error), remedy)
    detail = f"{run.generator} ({loaded.size_px} px, fingerprint {loaded.fingerprint})"
    return ("generator", True, detail, "")


def _scorers(run: Run) -> Finding:
    from valign.stages.score import load

    names = ", ".join(scorer.name for scorer in run.score.scorers)
    try:
        load(run.score.scorers)
    except (OSError, ValueError, LookupError, ImportError) as error:
        return ("scorers", False, str(error), "Mend the source of that scorer in the recipe.")
    return ("scorers", True, names or "none in this recipe", "")
