"""Backbones in 4 bits (QLoRA), and a workaround for bitsandbytes on CPUs.

On a CPU with AVX512-BF16, bitsandbytes (seen in 0.50.2) repacks a layer's weights at its first
evaluation. The packed layout needs widths in multiples of 64, and training after a validation would
read it. Training on a CPU is only for tests and small trials, so repacking is disabled.
"""

from __future__ import annotations

import importlib.util

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from manifests.errors import UserError

PACKS_ON_CPU = "support_avx512bf16_for_cpu"
"""Attribute of `bitsandbytes.nn.Linear4bit`; its canary: tests/student/model/test_quantized.py."""
NOT_QUANTIZED = ["lm_head", "audio_tower", "multi_modal_projector", "visual"]


def check_bitsandbytes(setting: str) -> None:
    """Checks that bitsandbytes is installed, which a setting of the recipe needs.

    Raises:
        UserError: it is not.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"recipe: {setting}, which needs bitsandbytes: pip install -e '.[quantize]'"
        )


def quantization_config() -> BitsAndBytesConfig:
    """NF4 with bfloat16 computation, only for the language model's projections.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    check_bitsandbytes("model.quantize is 4bit")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=NOT_QUANTIZED,
    )


def keep_weights_unpacked(model: PreTrainedModel) -> None:
    """Disables the repacking of 4-bit weights on a CPU."""
    for module in model.modules():
        if hasattr(module, PACKS_ON_CPU):
            setattr(module, PACKS_ON_CPU, False)
