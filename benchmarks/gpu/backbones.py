"""Students with random weights: three classes at real size on a GPU, or at toy size on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from benchmarks.gpu.record import device
from benchmarks.student_setup import POSITIONS, QUESTION, SYSTEM, build_streams
from student.config import BlockConfig, HeadConfig, ModelConfig, Recipe, TinyConfig
from student.data.prompts import Prompter
from student.model.backbones.registry import named_backbone
from student.model.quantized import quantization_config
from student.model.student import Student, build_student
from student.model.tiny import train_tokenizer
from student.plan.checkpoints import FAMILIES, KNOWN, load_config

PATHS = {load_config(path).model_type: path for path in KNOWN}
"""`model_type` -> the checkpoint that gives the sizes."""
TOY = {"hidden_size": 64, "layers": 2, "attention_heads": 4, "feed_forward": 128,
       "tower_width": 32, "tower_layers": 2, "window_s": 10, "whisper_weights": False}  # fmt: skip


def build_recipe(arm: str, *, toy: bool) -> Recipe:
    """Returns a recipe with K = 32 and the default heads, or small heads for a toy."""
    heads = HeadConfig(width=32, layers=1) if toy else HeadConfig()
    block = BlockConfig(tokens=4 if toy else POSITIONS)
    return Recipe(model=ModelConfig(build="tiny"), arm=arm, heads=heads, block=block)  # pyright: ignore[reportArgumentType]


def load_bare(
    model_type: str, *, toy: bool, attention: str = "", four_bits: bool = False
) -> tuple[Any, Any, Any]:
    """Returns the backbone, the model on the device, and the processor."""
    backbone = named_backbone(model_type)
    torch.manual_seed(0)
    tokenizer = train_tokenizer([QUESTION, SYSTEM], 900, backbone.special_tokens)
    family: Any = model_type.removesuffix("_thinker")
    model, processor = backbone.tiny(TinyConfig(family=family, **TOY), tokenizer)
    if not toy:
        window_s = FAMILIES[model_type].pads_to_s or 300
        extractor = transformers.WhisperFeatureExtractor(
            feature_size=128, chunk_length=int(window_s), return_attention_mask=True
        )
        name = "extractor" if hasattr(processor, "extractor") else "feature_extractor"
        setattr(processor, name, extractor)
        model = _true_size(model_type, model.config.audio_token_id, attention, four_bits)
    elif attention:
        model.set_attn_implementation(attention)
    return backbone, model.requires_grad_(False).eval().to(device()), processor


def _true_size(model_type: str, audio_token_id: int, attention: str, four_bits: bool) -> Any:
    config = load_config(PATHS[model_type])
    config.audio_token_id = audio_token_id
    if attention:
        config._attn_implementation = attention
    model_class = named_backbone(model_type).model_class
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device()):
            model = model_class(config)
    finally:
        torch.set_default_dtype(before)
    return _in_four_bits(model) if four_bits else model


def _in_four_bits(model: Any) -> Any:
    """Replaces the language model's projections by 4-bit ones, as with `model.quantize`."""
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    config = quantization_config()
    weights = {name: value.detach() for name, value in model.state_dict().items()}
    model = replace_with_bnb_linear(
        model, modules_to_not_convert=config.llm_int8_skip_modules, quantization_config=config
    )
    model.load_state_dict(weights, strict=False, assign=False)
    return model.to(device())


def build(
    model_type: str, arm: str, *, toy: bool, attention: str = "", four_bits: bool = False
) -> tuple[Student, Prompter, Recipe]:
    """Returns an arm's student with LoRA for a step of `joint`."""
    backbone, model, processor = load_bare(
        model_type, toy=toy, attention=attention, four_bits=four_bits
    )
    recipe = build_recipe(arm, toy=toy)
    student = build_student(recipe, backbone, model, processor, build_streams(recipe)).to(device())
    student.train_only("lora")
    return student, Prompter(backbone, processor), recipe
