"""How a UNet is run: with which attention kernel, and compiled or not.

Each way computes the same images and rounds differently (at most 1/255 per pixel on a CPU), so it
is part of an image's identity like the batch size. All go through torch's own
`scaled_dot_product_attention` and `torch.compile`.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
ATTENTION = ("auto", *KERNELS)


@contextmanager
def attention(kernel: str, *, masked: bool = False) -> Iterator[None]:
    """Within, attention is computed by this kernel.

    `auto` leaves the choice to torch, and so does a masked context (a value token in a mixed
    batch), which not every kernel takes.
    """
    if kernel == "auto" or masked:
        yield
        return
    with sdpa_kernel(KERNELS[kernel]):
        yield


def check_attention(unet: Any, kernel: str) -> None:
    """Try a kernel on attention of this UNet's shapes.

    Raises:
        ValueError: it does not run on this device, in this precision.
    """
    widths = {
        module.to_q.out_features // module.heads
        for name, module in unet.named_modules()
        if name.endswith((".attn1", ".attn2"))
    }
    for width in sorted(widths):
        query = torch.zeros(1, 1, 64, width, device=unet.device, dtype=unet.dtype)
        try:
            with attention(kernel), torch.inference_mode():
                scaled_dot_product_attention(query, query, query)
        except RuntimeError as error:
            raise ValueError(
                f"the attention kernel {kernel!r} does not run here, on {unet.device} in "
                f"{unet.dtype} with heads of width {width} ({error}); set attention to auto"
            ) from error


def compiled(unet: Any) -> Callable[..., Any]:
    """Return the UNet compiled by torch; the first call of each shape takes a minute or so.

    Raises:
        ValueError: it is on the CPU, and there is no C++ compiler.
    """
    compiler = os.environ.get("CXX", "g++")
    if unet.device.type == "cpu" and shutil.which(compiler) is None:
        raise ValueError(
            f"compile needs a C++ compiler on this machine, and there is no {compiler!r}: install "
            "one, name it in CXX, or set compile to false"
        )
    called: Callable[..., Any] = torch.compile(unet, dynamic=False)
    return called
