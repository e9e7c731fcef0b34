"""Backbones in 4 bits (QLoRA), and what bitsandbytes needs to be told about CPUs.

On a CPU with AVX512-BF16, bitsandbytes (seen in 0.50.2) repacks a layer's weights the first time
that it is evaluated. The packed layout needs widths in multiples of 64, and a training that goes on
after a validation would read it. Training on a CPU is for tests and small trials, so it is off.
"""

from __future__ import annotations

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

PACKS_ON_CPU = "support_avx512bf16_for_cpu"
"""Attribute of `bitsandbytes.nn.Linear4bit`; its canary: tests/student/model/test_quantized.py."""
NOT_QUANTIZED = ["lm_head", "audio_tower", "multi_modal_projector", "visual"]


def quantization_config() -> BitsAndBytesConfig:
    """NF4 with bfloat16 products, for the language model's projections alone."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=NOT_QUANTIZED,
    )


def keep_weights_unpacked(model: PreTrainedModel) -> None:
    """Turns the repacking of 4-bit weights on a CPU off."""
    for module in model.modules():
        if hasattr(module, PACKS_ON_CPU):
            setattr(module, PACKS_ON_CPU, False)
