"""The student: a backbone with the block, and the heads that are used in training."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from manifests.errors import UserError
from student.batch import IGNORE, StudentOutput, select_blocks
from student.config import Blinded, HeadConfig, ModelConfig, Recipe
from student.distill.streams import RECONSTRUCTION, Stream
from student.library_internals import is_token_row
from student.model.adapters import add_lora, add_trained_rows
from student.model.backbones.protocol import Backbone, Processor
from student.model.backbones.registry import backbone_for
from student.model.block import Block, add_block, template_with_block, template_without_block
from student.model.bottleneck import (
    as_attention_mask,
    check_kernel,
    constant_keys_and_values,
    text_that_is_blind,
    visible,
)
from student.model.heads import StreamHead, TokenHead, find_head_layer
from student.model.quantized import keep_weights_unpacked, quantization_config
from student.model.tower_cache import cache_tower_outputs

# Legend: B examples, S tokens, K positions, N frames (K * R), H width, A answer tokens, V tokens.

BUFFERS = ("tower_mean_H", "tower_std_H")
Part = Literal["rows", "backbone", "heads"]
"""The part of a parameter, which determines its learning rate."""


class Student(nn.Module):
    """A backbone, the block's ids, and one head per stream.

    `model` is the backbone inside PEFT's wrapper (block rows and LoRA), or the bare backbone in an
    arm without a block that trains it in full.
    """

    tower_mean_H: Tensor
    tower_std_H: Tensor

    def __init__(
        self,
        backbone: Backbone,
        model: PreTrainedModel | PeftModel,
        block: Block | None,
        streams: Mapping[str, Stream],
        config: HeadConfig,
        num_positions: int,
        *,
        audio_heads: bool = False,
        reaches_audio: bool = True,
    ) -> None:
        """
        Args:
            backbone: The adapter of the model's family.
            model: The backbone's model.
            block: The thinking positions, if the arm has them.
            streams: The streams that the heads predict, from the block or from the audio tokens.
            config: Sizes of the heads.
            num_positions: K.
            audio_heads: Whether there are heads at the audio tokens in addition to the block's.
            reaches_audio: Whether the block's heads may change keys and values of audio tokens.
        """
        super().__init__()
        self.backbone = backbone
        self.model = model
        self.block = block
        text_config = self.base.config.get_text_config()
        self.head_layer = find_head_layer(config, text_config.num_hidden_layers)
        width = text_config.hidden_size
        self.num_positions = num_positions
        self.num_frames = num_positions * config.frames_per_position
        self.per_token = config.per_token
        self.reaches_audio = reaches_audio

        def make_head(stream: Stream) -> nn.Module:
            dim = stream.dim or width
            if config.per_token:
                return TokenHead(hidden_size=width, dim=dim, config=config)
            return StreamHead(
                hidden_size=width, num_positions=num_positions, dim=dim, config=config
            )

        def make_heads(predicted: Mapping[str, Stream]) -> nn.ModuleDict:
            return nn.ModuleDict({each.key: make_head(each) for each in predicted.values()})

        self.heads = make_heads(streams)
        self.audio_heads = make_heads(streams if audio_heads else {})
        self.names = {stream.key: stream.name for stream in streams.values()}
        # Not persistent, because accelerate treats all persistent state as sharded weights.
        self.register_buffer(BUFFERS[0], torch.zeros(width), persistent=False)
        self.register_buffer(BUFFERS[1], torch.ones(width), persistent=False)

    @property
    def base(self) -> PreTrainedModel:
        """The backbone itself, with adapters in place."""
        base = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        assert isinstance(base, PreTrainedModel)
        return base

    @property
    def is_sharded(self) -> bool:
        """Whether its parameters are sharded over processes (FSDP)."""
        return any(isinstance(value, DTensor) for value in self.parameters())

    def forward(
        self,
        inputs: dict[str, Tensor],
        labels_BS: Tensor,
        audio_weights_BNS: Tensor | None = None,
        *,
        with_answer: bool = True,
        bottleneck: Blinded | None = None,
    ) -> StudentOutput:
        """Runs one forward pass over prompts and answers.

        Logits are computed only at the answer's positions, to save memory.

        Args:
            inputs: Inputs of the backbone, padded or packed.
            labels_BS: The answers' tokens; everything else is ignored.
            audio_weights_BNS: Weights that average the last audio's tokens to the student's frames.
            with_answer: Whether to compute the answers' logits.
            bottleneck: The text that can attend to audio only through the block, if any.

        Returns:
            Frames of the heads, the target of `reconstruction`, and logits with `with_answer`.
        """
        inputs = self.cast(inputs)
        masked = (
            inputs | self.backbone.positions(inputs) | self._mask(inputs, labels_BS, bottleneck)
        )

        def read() -> Any:
            return self.base.model(**masked, output_hidden_states=bool(self.heads), use_cache=False)

        outputs = read()
        logits_AV = labels_A = tower_BNH = None
        frames: dict[str, Tensor] = {}
        audio_frames: dict[str, Tensor] = {}
        if with_answer:
            answer_BS = labels_BS[:, 1:] != IGNORE
            states_AH = outputs.last_hidden_state[:, :-1][answer_BS]
            logits_AV = self.base.lm_head(states_AH)
            labels_A = labels_BS[:, 1:][answer_BS]
        if self.heads:
            layer_BSH = outputs.hidden_states[self.head_layer]
            per_position = 1 if self.per_token else self.num_frames // self.num_positions
            if self.block is not None:
                block_BSH = layer_BSH
                if not self.reaches_audio and torch.is_grad_enabled():
                    audio_BS = inputs["input_ids"] == self.backbone.audio_token_id(self.base)
                    with constant_keys_and_values(self.base, audio_BS):
                        block_BSH = read().hidden_states[self.head_layer]
                hidden_BKH = self._thinking(block_BSH, inputs["input_ids"], self.block)
            else:
                assert audio_weights_BNS is not None
                hidden_BKH = self._average_audio(layer_BSH, audio_weights_BNS, per_position)
            frames = {self.names[key]: head(hidden_BKH) for key, head in self.heads.items()}
            if self.audio_heads:
                assert audio_weights_BNS is not None
                hidden_BKH = self._average_audio(layer_BSH, audio_weights_BNS, per_position)
                audio_frames = {
                    self.names[key]: head(hidden_BKH) for key, head in self.audio_heads.items()
                }
        if RECONSTRUCTION in self.heads and audio_weights_BNS is not None:
            embedded_BSH = outputs.hidden_states[0].detach().float()
            with torch.autocast(embedded_BSH.device.type, enabled=False):
                tower_BNH = self._average_audio(embedded_BSH, audio_weights_BNS.float(), 1)
            tower_BNH = (tower_BNH - self.tower_mean_H) / self.tower_std_H
        return StudentOutput(
            logits_AV=logits_AV,
            labels_A=labels_A,
            frames=frames,
            audio_frames=audio_frames,
            tower_BNH=tower_BNH,
        )

    def cast(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Converts audio features to the tower's precision, which some classes require."""
        dtype = next(self.backbone.audio_tower(self.base).parameters()).dtype
        return {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in inputs.items()
        }

    def _mask(
        self, inputs: dict[str, Tensor], labels_BS: Tensor, bottleneck: Blinded | None
    ) -> dict[str, Tensor]:
        """The attention mask of the bottleneck, which replaces the padding mask."""
        if bottleneck is None:
            return {}
        assert self.block is not None
        ids_BS = inputs["input_ids"]
        audio_id = self.backbone.audio_token_id(self.base)
        blind_BS = text_that_is_blind(
            ids_BS,
            labels_BS,
            audio_id=audio_id,
            content_ids=self.block.content_ids,
            blinds=bottleneck,
        )
        visible_BSS = visible(inputs, blind_BS=blind_BS, hidden_BS=ids_BS == audio_id)
        mask_B1SS = as_attention_mask(visible_BSS, self.base)
        return {"attention_mask": mask_B1SS, **self.backbone.masked_positions(inputs)}

    def _thinking(self, hidden_BSH: Tensor, ids_BS: Tensor, block: Block) -> Tensor:
        """hidden_BKH at the thinking positions; B counts blocks, also within packed rows."""
        content = torch.tensor(block.content_ids, device=ids_BS.device)
        thinking_BS = torch.isin(ids_BS, content)
        return hidden_BSH[thinking_BS].view(-1, len(content), hidden_BSH.shape[-1])

    def _average_audio(
        self, hidden_BSH: Tensor, audio_weights_BNS: Tensor, frames_per_mean: int
    ) -> Tensor:
        """Averages the last audio's tokens over frames, or over several frames at a time.

        Returns:
            One row per block; one row per clip if each token is a frame.
        """
        weights_BMRS = audio_weights_BNS.unflatten(1, (-1, frames_per_mean))
        has_audio_BMR = weights_BMRS.any(-1)
        num_frames_BM = has_audio_BMR.sum(2).clamp(min=1)
        weights_BMS = weights_BMRS.sum(2) / num_frames_BM[..., None]
        means_BMH = weights_BMS @ hidden_BSH.to(weights_BMS.dtype)
        if self.per_token:
            return means_BMH
        return select_blocks(means_BMH, has_audio_BMR.any(2), self.num_frames // frames_per_mean)

    def part(self, name: str) -> Part:
        """The part to which the parameter of this name belongs."""
        if name.startswith(("heads.", "audio_heads.")):
            return "heads"
        return "rows" if is_token_row(name) else "backbone"

    def train_only(self, what: Literal["embeddings", "lora", "projector+lora", "full"]) -> None:
        """Freezes all parameters except the heads, the block's rows, and those of the stage."""
        projector = re.compile(r"model\.(base_model\.model\.)?" + self.backbone.projector)
        full = re.compile(r"model\.(base_model\.model\.)?" + self.backbone.trained_in_full)
        for name, parameter in self.named_parameters():
            chosen = self.part(name) != "backbone"
            if what in ("lora", "projector+lora"):
                chosen |= ".lora_" in name
            if what == "projector+lora":
                chosen |= projector.fullmatch(name) is not None
            elif what == "full":
                chosen |= full.fullmatch(name) is not None
            if parameter.is_floating_point():
                parameter.requires_grad_(chosen)

    def trained_state(self, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The trained state: the tensors that require gradients, and the buffers."""
        state = self.state_dict() if state is None else state
        trainable = {name for name, value in self.named_parameters() if value.requires_grad}
        kept = {name: value for name, value in state.items() if name in trainable}
        kept |= {name: self.get_buffer(name) for name in BUFFERS}
        return {name: value.detach().contiguous() for name, value in kept.items()}

    def load(self, path: Path) -> None:
        """Loads a trained state; heads that this student does not have are ignored.

        Raises:
            UserError: the file belongs to another model, block or adapter.
        """
        own = self.state_dict()
        content = load_file(path)
        statistics = {name: content.pop(name) for name in BUFFERS}
        saved = {
            name: _placed_as(own.get(name), value)
            for name, value in content.items()
            if not name.startswith(("heads.", "audio_heads.")) or name in own
        }
        try:
            for name, value in statistics.items():
                self.get_buffer(name).copy_(value)
            problems = self.load_state_dict(saved, strict=False).unexpected_keys
        except RuntimeError as error:
            problems = str(error).splitlines()[1:2]
        if problems:
            raise UserError(f"{path} does not fit this recipe's model: {problems[0].strip()}")


def _placed_as(own: Tensor | None, value: Tensor) -> Tensor:
    """Shards a whole tensor like the student's own (FSDP)."""
    if not isinstance(own, DTensor) or own.shape != value.shape:
        return value
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)


def load_backbone(
    config: ModelConfig, path: str, *, with_weights: bool = True
) -> tuple[Backbone, PreTrainedModel, Processor]:
    """Loads a checkpoint and its adapter; without weights, the model is on the meta device.

    Raises:
        UserError: a mixture of experts is to be loaded in 4 bits.
    """
    backbone = backbone_for(path)
    options: dict[str, Any] = {} if with_weights else {"device_map": "meta"}
    if config.attention:
        options["attn_implementation"] = config.attention
    if config.quantize == "4bit":
        if backbone.expert_parameters:
            raise UserError(
                f"model.quantize is 4bit, and bitsandbytes cannot store the experts of {path} in 4 "
                "bits, which are nearly all of its weights; remove model.quantize, and shard the "
                "model over several GPUs (student/recipes/accelerate/fsdp_8gpu.yaml)"
            )
        options["quantization_config"] = quantization_config()
    model, processor = backbone.load(path, dtype=config.dtype, **options)
    keep_weights_unpacked(model)
    model.requires_grad_(False)
    return backbone, model, processor


def build_student(
    recipe: Recipe,
    backbone: Backbone,
    model: PreTrainedModel,
    processor: Processor,
    streams: Mapping[str, Stream],
) -> Student:
    """Adds the recipe's block, adapters and heads to a backbone.

    The processor gets the block's tokens and template. New weights are drawn with `recipe.seed`.
    """
    torch.manual_seed(recipe.seed)
    block = None
    num_positions = recipe.block.tokens
    if recipe.joint is not None and recipe.joint.bottleneck:
        check_kernel(model)
    set_template(processor, recipe, backbone.audio_end)
    if recipe.has_block:
        block = add_block(model, processor.tokenizer, num_positions)
    if recipe.model.cache_audio_tower:
        if not backbone.tower_by_rows:
            raise UserError("model.cache_audio_tower is not supported by this backbone; remove it")
        cache_tower_outputs(backbone.audio_tower(model))
    wrapped = _with_adapters(recipe, backbone, model, block)
    switches = recipe.switches
    return Student(
        backbone, wrapped, block, streams if recipe.distils else {}, recipe.heads, num_positions,
        audio_heads=switches.distill_audio and switches.distill_block,
        reaches_audio=recipe.distill_reaches_audio,
    )  # fmt: skip


def set_template(processor: Processor, recipe: Recipe, audio_end: str) -> None:
    """Sets the chat template with the block of the recipe, or without one.

    Raises:
        UserError: the checkpoint has no template, or a block with another length or place.
    """
    if not processor.chat_template:
        raise UserError("the checkpoint has no chat template; use an instruction-tuned one")
    template = str(processor.chat_template)
    if recipe.has_block:
        template = template_with_block(
            template,
            recipe.block.tokens,
            placement=recipe.block.placement,
            audio_end=audio_end,
            seconds=recipe.block.span_seconds,
        )
    else:
        template = template_without_block(template)
    processor.chat_template = processor.tokenizer.chat_template = template


def _with_adapters(
    recipe: Recipe, backbone: Backbone, model: PreTrainedModel, block: Block | None
) -> PreTrainedModel | PeftModel:
    rows = list(block.ids) if block else None
    if recipe.joint is not None and recipe.joint.train == "full":
        return model if rows is None else add_trained_rows(model, rows)
    return add_lora(model, backbone, recipe.lora, rows=rows)
