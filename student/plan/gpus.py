"""GPUs by name, with their bfloat16 peak and memory.

Peak rates are those of the vendors' data sheets for dense bfloat16 operations, without sparsity.
Prices are not included, because they change often and depend on the vendor.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from manifests.errors import UserError


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card."""

    name: str
    tflops: float
    """Dense bfloat16 products, 10^12 operations per second."""
    memory_gb: float
    """10^9 bytes."""


GPUS = {
    "b200": Gpu("NVIDIA B200", 2250, 192),
    "h200": Gpu("NVIDIA H200 SXM", 989, 141),
    "h100": Gpu("NVIDIA H100 SXM", 989, 80),
    "h100-pcie": Gpu("NVIDIA H100 PCIe", 756, 80),
    "a100-80": Gpu("NVIDIA A100 80 GB", 312, 80),
    "a100-40": Gpu("NVIDIA A100 40 GB", 312, 40),
    "l40s": Gpu("NVIDIA L40S", 362, 48),
    "l4": Gpu("NVIDIA L4", 121, 24),
    "a10": Gpu("NVIDIA A10", 125, 24),
    "rtx4090": Gpu("NVIDIA GeForce RTX 4090", 165, 24),
    "rtx3090": Gpu("NVIDIA GeForce RTX 3090", 71, 24),
}


def named_gpu(name: str) -> Gpu:
    """Returns the GPU of this name; `RTX 4090` and `4090` are `rtx4090`.

    Raises:
        UserError: the GPU is not in the table.
    """
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    names = {key.replace("-", ""): key for key in GPUS}
    name = names.get(plain, names.get(f"rtx{plain}", name))
    if name not in GPUS:
        raise UserError(f"--gpu {name!r} is not known; there are {', '.join(GPUS)}")
    return GPUS[name]
