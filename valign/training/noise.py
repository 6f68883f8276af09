"""What is added to the latents of a step: noise, timesteps, and the schedule that mixes them in.

Noise and timestep are drawn once per pair, shared by the pair's two images and by policy and
reference. They are a pure function of (seed, step, position in the global batch): however many
workers share a global batch, each pair gets the same noise. The draw is made on the CPU with a
counter-based generator, so that it is also the same for every device.

Out of scope: which pairs a step sees (`batches`) and what is predicted from them (`policy`).

Shapes: B pairs, C channels, H x W latent pixels, T timesteps of the schedule.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from valign.models.pipeline_folder import NoiseSchedule

# The last word of a Philox counter names the stream, so that no two uses of one key overlap.
ORDER_STREAM, NOISE_STREAM, VOTER_STREAM, CAPTION_STREAM = 1, 2, 3, 4


def generator(seed: int, number: int, *, stream: int, position: int = 0) -> np.random.Generator:
    """Return the generator of (seed, number) at a position of a stream; building it is cheap.

    Args:
        seed: the run's seed, 0 .. 2**64 - 1.
        number: step or epoch, 0 .. 2**64 - 1.
        stream: one of the streams named above.
        position: row within the step, 0 .. 2**64 - 1.
    """
    key = np.array([seed, number], dtype=np.uint64)
    counter = np.array([0, 0, position, stream], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def draw(
    seed: int, step: int, positions: Sequence[int], *, shape: tuple[int, ...], timesteps: int
) -> tuple[Tensor, Tensor]:
    """Draw noise and timestep of some rows of a global batch.

    Args:
        seed: the run's seed.
        step: number of the step, from 0.
        positions: the rows' positions in the global batch.
        shape: shape of one latent, (C, H, W).
        timesteps: number of timesteps T of the noise schedule.

    Returns:
        Standard normal noise_BCHW in float32 and t_B in int64, uniform over 0 .. T-1.
    """
    noise_BCHW = np.empty((len(positions), *shape), dtype=np.float32)
    t_B = np.empty(len(positions), dtype=np.int64)
    for row, position in enumerate(positions):
        rng = generator(seed, step, stream=NOISE_STREAM, position=position)
        t_B[row] = rng.integers(timesteps)
        rng.standard_normal(out=noise_BCHW[row], dtype=np.float32)
    return torch.from_numpy(noise_BCHW), torch.from_numpy(t_B)


def coins(seed: int, step: int, positions: Sequence[int], share: float) -> NDArray[np.bool_]:
    """Draw for some rows of a global batch which captions are dropped, (B,).

    Args:
        seed: the run's seed.
        step: number of the step, from 0.
        positions: the rows' positions in the global batch.
        share: probability of a drop, 0..1.
    """
    return np.array(
        [
            generator(seed, step, stream=CAPTION_STREAM, position=position).random() < share
            for position in positions
        ],
        dtype=np.bool_,
    )


class ForwardProcess(nn.Module):
    """Mixes noise into latents as the generator's schedule says, and names what is to be predicted.

    Holds sqrt(alpha_bar) and sqrt(1 - alpha_bar) of all T timesteps as float32 buffers.
    """

    signal_T: Tensor
    noise_T: Tensor

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        if schedule.prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(
                f"prediction_type {schedule.prediction_type!r} cannot be trained; use a generator "
                "that predicts epsilon or v_prediction"
            )
        alphas_T = schedule.alphas_cumprod_T
        self.register_buffer("signal_T", alphas_T.sqrt(), persistent=False)
        self.register_buffer("noise_T", (1 - alphas_T).sqrt(), persistent=False)
        self.prediction_type = schedule.prediction_type

    def mix(self, latents_BCHW: Tensor, noise_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """Return the latents with their timestep's share of noise, (B, C, H, W)."""
        signal_B111, share_B111 = self._at(t_B)
        return signal_B111 * latents_BCHW + share_B111 * noise_BCHW

    def target(self, latents_BCHW: Tensor, noise_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """Return what the UNet should predict: the noise, or the velocity of v-prediction."""
        if self.prediction_type == "epsilon":
            return noise_BCHW
        signal_B111, share_B111 = self._at(t_B)
        return signal_B111 * noise_BCHW - share_B111 * latents_BCHW

    def min_snr(self, t_B: Tensor, gamma: float) -> Tensor:
        """Return min-SNR weights of errors, (B,) (Hang et al. 2023, Eq. 5 and section 3.4).

        min(SNR, gamma) / SNR for a model that predicts the noise; over SNR + 1 for velocities.
        """
        snr_B = (self.signal_T[t_B] / self.noise_T[t_B]).square()
        over_B = snr_B if self.prediction_type == "epsilon" else snr_B + 1
        return snr_B.clamp(max=gamma) / over_B

    def _at(self, t_B: Tensor) -> tuple[Tensor, Tensor]:
        return self.signal_T[t_B].view(-1, 1, 1, 1), self.noise_T[t_B].view(-1, 1, 1, 1)
