"""How fast a training is and what it takes, for the log: operations, share of peak, memory.

Out of scope: counting a network's operations (`models.flops`).
"""

import resource
import sys
from dataclasses import dataclass

import torch

# Dense bfloat16 TFLOP/s of the makers' data sheets, by what the device's name holds.
PEAKS = {"H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0}


@dataclass(frozen=True, slots=True)
class Speed:
    """What turns samples per second into the log's figures.

    Attributes:
        tflop_per_sample: operations of training on one sample.
        device: where the weights are.
        workers: how many devices share the samples.
        bfloat16: whether it computes in bfloat16: the peaks of float32 are not listed.
    """

    tflop_per_sample: float
    device: torch.device
    workers: int = 1
    bfloat16: bool = False

    def of(self, samples_per_s: float) -> dict[str, float]:
        """Return TFLOP/s of all workers, share of their peak where it is known, and memory.

        Memory is the peak of this worker so far: of its GPU, or resident where it has none.
        """
        found = {"tflop_per_s": samples_per_s * self.tflop_per_sample}
        if peak := self.peak():
            found["share_of_peak"] = found["tflop_per_s"] / (peak * self.workers)
        return {**found, "memory_gib": peak_memory(self.device) / 2**30}

    def peak(self) -> float | None:
        """Return the device's peak in TFLOP/s; None where it is not known."""
        if self.device.type != "cuda" or not self.bfloat16:
            return None
        name = torch.cuda.get_device_name(self.device)
        return next((peak for part, peak in PEAKS.items() if part in name), None)


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that this process has held so far, on its GPU or else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
