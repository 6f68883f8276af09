"""The policy and its reference: a batch with its noise in, denoising errors out.

One module holds everything that a step's forward needs, so that the hooks of DDP and ZeRO fire. The
context has the layout of inference: the prompt padded to the text encoder's length, plus the value
token where there is a value encoder. The reference is predicted first, without gradient.

`LivoPolicy` trains a value encoder and shares the frozen UNet with its reference; the policies in
`unet_policies` train a UNet, or adapters of it, and have a reference of their own.

Out of scope: loading networks (`models`), losses, optimisation.

Shapes: B pairs, C channels, H x W latent pixels, L tokens, D width of the context.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor, nn

from valign.models.pipeline_folder import NoiseSchedule
from valign.training.batch import Batch
from valign.training.errors import Errors
from valign.training.noise import ForwardProcess
from valign.training.shared_context import SharedContext, share_context

Mirrored = Iterator[tuple[str, nn.Parameter, nn.Parameter]]


class Policy(nn.Module, ABC):
    """What every policy shares: noise in, errors in float32 out.

    Args:
        schedule: the generator's noise schedule.
        autocast: dtype of the networks' computation, such as torch.bfloat16; None for the dtype of
            their weights. The trained weights and the errors stay in float32.
        min_snr: gamma of min-SNR weights on all errors (Hang et al. 2023 use 5); None for none.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        *,
        autocast: torch.dtype | None = None,
        min_snr: float | None = None,
    ) -> None:
        super().__init__()
        self.process = ForwardProcess(schedule)
        self.autocast = autocast
        self.min_snr = min_snr

    @abstractmethod
    def predict(self, noisy: Tensor, t: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return what policy and reference predict of the noisy winners, then losers."""

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield name and parameter of everything that trains."""
        return ((n, p) for n, p in self.named_parameters() if p.requires_grad)

    def mirrored(self) -> Mirrored:
        """Yield name, trained and reference parameter of all that a refresh copies; here nothing.

        The names are those of `trainable`.
        """
        return iter(())

    def forward(self, batch: Batch, noise_BCHW: Tensor, t_B: Tensor) -> Errors:
        """Return the errors of policy and reference on both images of each pair.

        Args:
            batch: B pairs.
            noise_BCHW: one noise per pair, shared by its two images.
            t_B: one timestep per pair, shared likewise.
        """
        latents = torch.cat([batch.latents_w_BCHW, batch.latents_l_BCHW])
        noise, t = torch.cat([noise_BCHW, noise_BCHW]), torch.cat([t_B, t_B])
        noisy = self.process.mix(latents, noise, t)
        target = self.process.target(latents, noise, t)
        with torch.autocast(t.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            predicted = self.predict(noisy, t, batch)
        policy, reference = (self._errors(p, target, t) for p in predicted)
        return Errors(*policy.chunk(2), *reference.chunk(2))

    def _errors(self, predicted: Tensor, target: Tensor, t: Tensor) -> Tensor:
        """Return mean squared errors of winners, then losers, in float32: (2B,)."""
        errors = (predicted.float() - target.float()).square().mean(dim=(1, 2, 3))
        return errors if self.min_snr is None else errors * self.process.min_snr(t, self.min_snr)


class LivoPolicy(Policy):
    """A frozen UNet that is conditioned on a trained value encoder's token (LiVO paper, Eq. 7, 8).

    The reference is the same UNet without the token, so no second network is needed. The UNet gets
    no weight gradients and stays in evaluation mode; only the value encoder trains.

    Args:
        unet: a diffusers UNet2DConditionModel of Stable Diffusion 1.x; its cross-attention learns
            to take a `SharedContext` and keeps its behaviour otherwise.
        value_encoder: ids_BL -> token_B1D.
        schedule, autocast, min_snr: see `Policy`.
    """

    def __init__(
        self,
        unet: nn.Module,
        value_encoder: nn.Module,
        schedule: NoiseSchedule,
        *,
        autocast: torch.dtype | None = None,
        min_snr: float | None = None,
    ) -> None:
        super().__init__(schedule, autocast=autocast, min_snr=min_snr)
        self.unet = share_context(unet).requires_grad_(False).eval()
        self.value_encoder = value_encoder.requires_grad_(True)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode of the value encoder; the UNet stays in evaluation mode."""
        super().train(mode)
        self.unet.eval()
        return self

    def predict(self, noisy: Tensor, t: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Predict with and without the value token; the prompts' keys and values are shared."""
        context = SharedContext(batch.context_BLD)
        with torch.no_grad():
            reference = self.unet(noisy, t, context, return_dict=False)[0]
        token_B1D = self.value_encoder(batch.value_ids_BL)
        policy = self.unet(noisy, t, context.plus(token_B1D), return_dict=False)[0]
        return policy, reference
