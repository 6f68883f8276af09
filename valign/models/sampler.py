"""How an image is sampled: the settings, and the diffusers scheduler that they name.

In: a `Sampler` and the scheduler folder of a pipeline. Out: a diffusers scheduler with that
folder's noise schedule, timestep spacing and prediction type, whatever class the folder was saved
as. What is not set here stays as the folder says.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEDULERS = ("dpmsolver++", "ddim", "euler")
PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """Steps, solver and size of an image, with classifier-free guidance.

    Solvers: multistep DPM-Solver++ (Lu et al. 2022), DDIM without noise (Song et al. 2021) and
    Euler (Karras et al. 2022).
    """

    steps: int = 10
    guidance: float = 7.5  # 1.0 is no guidance and halves the work
    height: int | None = None  # pixels; None is the generator's own size
    width: int | None = None
    scheduler: str = "dpmsolver++"
    solver_order: int | None = None  # of dpmsolver++: 1, 2 or 3; None is the folder's, else 2
    karras: bool | None = None  # Karras's spacing of noise levels; None is the folder's, else no

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"a sampler needs at least 1 step, got {self.steps}")
        if self.guidance < 1:
            raise ValueError(f"guidance {self.guidance} is below 1.0, which is no guidance")
        if self.scheduler not in SCHEDULERS:
            raise ValueError(f"scheduler {self.scheduler!r} is not one of {', '.join(SCHEDULERS)}")
        if self.solver_order is not None:
            if self.scheduler != "dpmsolver++":
                raise ValueError(
                    f"solver_order applies to dpmsolver++ only; leave it out for {self.scheduler}"
                )
            if self.solver_order not in (1, 2, 3):
                raise ValueError(f"solver_order {self.solver_order} is not 1, 2 or 3")
        if self.karras is not None and self.scheduler == "ddim":
            raise ValueError("karras does not apply to ddim, which has no noise levels to space")

    def size(self, own_px: int, scale: int) -> tuple[int, int]:
        """Return height and width of the images in pixels.

        Args:
            own_px: side of the image that the generator was made for.
            scale: pixels per latent.

        Raises:
            ValueError: the VAE cannot make that size.
        """
        height, width = self.height or own_px, self.width or own_px
        if height % scale or width % scale:
            raise ValueError(
                f"images of {height}x{width} pixels: both must be multiples of {scale}"
            )
        return height, width


def load_scheduler(folder: Path, sampler: Sampler | None = None) -> Any:
    """Load the scheduler a sampler names, with the noise schedule of a scheduler folder.

    Raises:
        ValueError: the schedule predicts neither noise nor velocity, or has fewer timesteps than
            the sampler has steps.
    """
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

    sampler = sampler or Sampler()
    chosen: dict[str, Any] = {}
    if sampler.karras is not None:
        chosen["use_karras_sigmas"] = sampler.karras
    kind: Any
    if sampler.scheduler == "dpmsolver++":
        kind, chosen["algorithm_type"] = DPMSolverMultistepScheduler, "dpmsolver++"
        if sampler.solver_order is not None:
            chosen["solver_order"] = sampler.solver_order
    elif sampler.scheduler == "euler":
        kind = EulerDiscreteScheduler
    else:
        # Latents are not bounded by 1, and Stable Diffusion's last step ends at its first timestep.
        kind, chosen = DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}
    scheduler = kind.from_pretrained(folder, **chosen)
    if scheduler.config.prediction_type not in PREDICTIONS:
        raise ValueError(
            f"the schedule in {folder} predicts {scheduler.config.prediction_type!r}; a generator "
            "must predict epsilon or v_prediction"
        )
    n_timesteps = scheduler.config.num_train_timesteps
    if sampler.steps > n_timesteps:
        raise ValueError(f"{sampler.steps} steps, but the model knows {n_timesteps}")
    return scheduler
