"""Figures of a training's speed: operations and memory are those of what ran."""

import numpy as np
import pytest
import torch

from valign.training.speed import PEAKS, Speed, peak_memory

CPU = torch.device("cpu")


def test_operations_follow_from_samples_and_no_peak_is_made_up():
    found = Speed(1.5, CPU, workers=2, bfloat16=True).of(4.0)
    assert found["tflop_per_s"] == 6.0
    assert "share_of_peak" not in found


def test_memory_is_the_most_that_was_held():
    before = peak_memory(CPU)
    held = np.ones(peak_memory(CPU) // 8 // 4 + (64 << 20) // 8)  # more than was ever free
    grown = peak_memory(CPU)
    del held
    assert before < grown <= peak_memory(CPU)
    assert Speed(1.0, CPU).of(1.0)["memory_gib"] == pytest.approx(peak_memory(CPU) / 2**30)


@pytest.mark.gpu
def test_a_listed_gpu_has_a_peak_that_it_does_not_reach():
    device = torch.device("cuda")
    peak = Speed(1.0, device, bfloat16=True).peak()
    name = torch.cuda.get_device_name(device)
    assert (peak is not None) == any(part in name for part in PEAKS)
    assert Speed(1.0, device, bfloat16=False).peak() is None
