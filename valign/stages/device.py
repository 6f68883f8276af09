"""What a process computes on: its device, and how many threads it may use."""

import os


def prepare() -> str:
    """Set torch's threads (OMP_NUM_THREADS, else 1) and return the device, `cuda` or `cpu`.

    One thread per process: on busy cores more are up to a hundred times slower, and the number of
    threads can change an image's last bits.
    """
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    return "cuda" if torch.cuda.is_available() else "cpu"
