"""The run's generator: fetched to this node, checked, fingerprinted and loaded as the recipe says.

Everything that samples, encodes or trains gets it from here. A recipe names it by hub id, local
folder, `package:` URL, single-file checkpoint, or an object-store URL of a folder or checkpoint,
which each node copies once. Safetensors only.
"""

import functools
from typing import TYPE_CHECKING

from valign.config import Run
from valign.stages.device import prepare
from valign.storage.objects import resolve

if TYPE_CHECKING:
    from valign.models.generator import Generator, GeneratorOptions, Sampler
    from valign.models.pipeline_files import PipelineFiles


def fetched(run: Run) -> "PipelineFiles":
    """Return the files of the run's generator on this machine.

    Raises:
        ValueError: it is pickled, of another kind, or not the one that `generator_sha256` names.
        LookupError: nothing is there.
    """
    from valign.models import pipeline_files

    pipeline_files.refuse_pickle(run.generator)
    wanted = functools.partial(pipeline_files.is_wanted, variant=run.generator_variant)
    configs = functools.partial(pipeline_files.is_wanted, weights=False)
    files = pipeline_files.local_files(
        resolve(run.generator, wanted),
        config=run.generator_config and resolve(run.generator_config, configs),
        variant=run.generator_variant,
    )
    if run.generator_sha256 is not None:
        checkpoint = files.checkpoint
        found = (
            pipeline_files.file_sha256(checkpoint)
            if checkpoint
            else pipeline_files.fingerprint(files)
        )
        if found != run.generator_sha256:
            raise ValueError(
                f"the generator {run.generator} has sha256 {found}, and generator_sha256 names "
                f"{run.generator_sha256}: it is another one, or was damaged. Fetch it again, or "
                "correct the recipe (of a folder it is the fingerprint that `valign check` prints)"
            )
    return files


def fingerprint_of(run: Run) -> str:
    """Return the fingerprint of the run's generator: its weights, configs and vocabulary."""
    from valign.models.pipeline_files import fingerprint

    return fingerprint(fetched(run))


def check(run: Run) -> None:
    """Make sure, before any work, that the generator can be sampled as the recipe says.

    Reads configs and hashes weights. What depends on a worker's device is checked when one starts.

    Raises:
        ValueError: a setting that this model cannot follow, or a model that is no generator.
        LookupError: there is no such generator.
    """
    from valign.models.generator import check as check_generator
    from valign.models.pipeline_files import fingerprint

    files = fetched(run)
    check_generator(files, sampler(run))
    options(run, "cpu")
    fingerprint(files)


def options(run: Run, device: str, precision: str | None = None) -> "GeneratorOptions":
    """Return how the generator is loaded: to sample images, or in a `precision` for other uses."""
    from valign.models.generator import GeneratorOptions

    sampling = run.sampling
    return GeneratorOptions(
        device=device,
        dtype=precision or sampling.precision,
        attention="auto" if precision else sampling.attention,
        compile=not precision and sampling.compile,
        vae_tiling=sampling.vae_tiling,
        vae_slicing=sampling.vae_slicing,
    )


def load_generator(run: Run, precision: str | None = None, *, expected: str = "") -> "Generator":
    """Load the run's generator onto this process's device.

    Args:
        run: the run.
        precision: of its weights, for encoding and training; default: it is to sample images.
        expected: the fingerprint that the work was planned with, if it was planned elsewhere.

    Raises:
        ValueError: this node's copy is another one, or cannot be run here as the recipe says.
    """
    from valign.models.generator import Generator
    from valign.models.pipeline_files import fingerprint

    files = fetched(run)
    if expected and (found := fingerprint(files)) != expected:
        raise ValueError(
            f"{files} on this node has the fingerprint {found[:12]}, and the work was planned "
            f"with {expected[:12]}: give all nodes the same generator"
        )
    return Generator(files, options(run, prepare(), precision))


def sampler(run: Run) -> "Sampler":
    """Return how the run's images are sampled."""
    from valign.models.generator import Sampler

    sampling = run.sampling
    return Sampler(
        steps=sampling.steps,
        guidance=sampling.guidance,
        height=sampling.size_px,
        width=sampling.size_px,
        scheduler=sampling.scheduler,
        solver_order=sampling.solver_order,
        karras=sampling.karras,
    )
