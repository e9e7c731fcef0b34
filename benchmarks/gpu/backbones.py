"""Students on random weights: the three classes at their true sizes on a GPU, as toys on a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from benchmarks.gpu.record import device
from student.batch import IGNORE, Batch, Grid, PreparedExample, collate
from student.config import BlockConfig, HeadConfig, ModelConfig, Recipe, StreamConfig, TinyConfig
from student.data.examples import ask
from student.data.prompts import Prompter
from student.distill.streams import Stream
from student.model.backbones.registry import named_backbone
from student.model.quantized import quantization_config
from student.model.student import Student, build_student
from student.model.tiny import train_tokenizer
from student.plan.checkpoints import FAMILIES, KNOWN, config_of

STREAMS = {"asr.encoder": ("features", 384), "emotion.lld": ("features", 25),
           "pitch.salience": ("pitch", 361), "sound_event.events": ("multilabel", 521),
           "music.notes": ("multilabel", 88), "music.onsets": ("multilabel", 88),
           "music.contours": ("multilabel", 264)}  # fmt: skip
"""Those of the embedded experts."""
SECONDS, POSITIONS, ANSWER = 10, 32, 24
"""Length of a clip; positions in the block; tokens of an answer."""
QUESTION = "Which sounds can be heard, in which order, and what do the people say about them?"
SYSTEM = "system\nYou are a helpful assistant. user\nAudio 1: assistant\n"
PATHS = {config_of(path).model_type: path for path in KNOWN}
"""`model_type` -> the checkpoint whose sizes are taken."""
TOY = {"hidden_size": 64, "layers": 2, "attention_heads": 4, "feed_forward": 128,
       "tower_width": 32, "tower_layers": 2, "window_s": 10, "whisper_weights": False}  # fmt: skip


def recipe_of(arm: str, *, toy: bool) -> Recipe:
    """K = 32 and the default heads; small heads for a toy."""
    heads = HeadConfig(width=32, layers=1) if toy else HeadConfig()
    block = BlockConfig(tokens=4 if toy else POSITIONS)
    return Recipe(model=ModelConfig(build="tiny"), arm=arm, heads=heads, block=block)  # pyright: ignore[reportArgumentType]


def streams_of(recipe: Recipe) -> dict[str, Stream]:
    """The streams that an arm learns."""
    if not recipe.distils:
        return {}
    return {
        name: Stream(name=name, kind=kind, dim=dim, config=StreamConfig())
        for name, (kind, dim) in STREAMS.items()
    }


def bare(
    model_type: str, *, toy: bool, attention: str = "", four_bits: bool = False
) -> tuple[Any, Any, Any]:
    """Backbone, model on the device, and processor."""
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
    config = config_of(PATHS[model_type])
    config.audio_token_id = audio_token_id
    if attention:
        config._attn_implementation = attention
    model_class = getattr(transformers, FAMILIES[model_type].class_name)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device()):
            model = model_class(config)
    finally:
        torch.set_default_dtype(before)
    return _in_four_bits(model) if four_bits else model


def _in_four_bits(model: Any) -> Any:
    """The language model's projections replaced by 4-bit ones, as `model.quantize` loads them."""
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
    """An arm's student with LoRA, ready for a step of `joint`."""
    backbone, model, processor = bare(model_type, toy=toy, attention=attention, four_bits=four_bits)
    recipe = recipe_of(arm, toy=toy)
    student = build_student(recipe, backbone, model, processor, streams_of(recipe)).to(device())
    student.train_only("lora")
    return student, Prompter(backbone, processor), recipe


def wave(seconds: float = SECONDS) -> np.ndarray:
    """Noise at 16 kHz."""
    samples = np.random.default_rng(0).standard_normal(int(16_000 * seconds))
    return samples.astype(np.float32) * 0.1


def batch_of(
    student: Student, prompter: Prompter, recipe: Recipe, size: int, *, packed: bool = False
) -> Batch:
    """A training batch of one example, `size` times, with targets as wide as the experts'."""
    inputs = prompter.prompt(ask(QUESTION), [wave()])
    prompt_S = inputs.pop("input_ids")[0]
    answer_S = torch.arange(20, 20 + ANSWER)
    num_frames = recipe.block.tokens * recipe.heads.frames_per_position
    streams = streams_of(recipe)
    torch.manual_seed(0)
    audio_id = student.backbone.audio_token_id(student.base)
    example = PreparedExample(
        ids_S=torch.cat([prompt_S, answer_S]),
        labels_S=torch.cat([torch.full_like(prompt_S, IGNORE), answer_S]),
        audio={name: value for name, value in inputs.items() if name != "attention_mask"},
        targets={name: torch.rand(num_frames, each.dim) for name, each in streams.items()},
        audio_weights_NS=(
            _spans(prompt_S == audio_id, num_frames) if recipe.switches.distill_audio else None
        ),
    )
    grid = Grid.from_recipe(recipe, streams)
    return collate([example] * size, grid=grid, pad_id=0, packed=packed).to(device())


def _spans(is_audio_S: Tensor, num_frames: int) -> Tensor:
    """weights_NS that average audio tokens over equal spans."""
    weights_NS = torch.zeros(num_frames, len(is_audio_S))
    tokens = is_audio_S.nonzero()[:, 0]
    for frame in range(num_frames):
        first = frame * len(tokens) // num_frames
        last = max((frame + 1) * len(tokens) // num_frames, first + 1)
        weights_NS[frame, tokens[first:last]] = 1 / (last - first)
    return weights_NS
