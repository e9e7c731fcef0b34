"""The interface to audio language models: everything that differs between their families.

All of them are an audio tower and a projector that write audio embeddings over placeholder tokens,
and a language model that reads the result. An adapter says how a checkpoint is loaded and written,
how audio and text become inputs, and what its parts are called; block, heads, losses, training and
generation are the same for all. Their classes share this much: `model.model` is the inner model
that gives hidden states, `model.lm_head` the head on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn
from transformers import PreTrainedModel

from student.config import TinyConfig

# Legend: B prompts, S tokens.


class Processor(Protocol):
    """Tokenizer, feature extractor and chat template; transformers' own where it can be had."""

    tokenizer: Any
    chat_template: Any

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any:
        """Messages as text."""
        ...

    def save_pretrained(self, save_directory: Any) -> Any:
        """Writes its files into a checkpoint's folder."""
        ...


class Backbone(Protocol):
    """The adapter of one family of checkpoints.

    Methods with a body are what most families do; an adapter overrides what differs.
    """

    model_class: Any
    """The class of transformers, `...ForConditionalGeneration`."""
    processor_class: Any
    """Its processor, where transformers' own is used; an adapter with another overrides
    `load_processor`."""
    audio_end: str
    """Text that ends an audio in a rendered prompt."""
    sample_rate: int = 16_000
    """Hz of the waveforms that the processor expects."""
    lora_pattern: str = (
        r"model\.language_model\.layers\.\d+\."
        r"(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
    )
    """Regular expression that matches the full names of the language model's projections, and
    nothing of the audio tower, whose layers have the same short names."""
    projector: str = r"model\.multi_modal_projector\..*"
    """Regular expression for the parameters between audio tower and language model."""
    tower_by_rows: bool
    """The audio tower takes one row per audio, so its outputs can be remembered row by row."""
    special_tokens: tuple[str, ...]
    """Special tokens of the family's tokenizer: padding comes first, end of turn third, the audio
    placeholder fourth."""

    tokens_per_second: float = 25.0
    """Audio tokens for each second that the tower takes: of most, 10 ms mel frames, a stride of 2
    and a pooling of 2."""
    pads_audio: bool = False
    """An audio is filled with silence up to a whole window, and the silence has tokens too."""

    def load(self, path: str, **options: Any) -> tuple[PreTrainedModel, Processor]:
        """The checkpoint's model and its processor."""
        return self.model_class.from_pretrained(path, **options), self.load_processor(path)

    def load_processor(self, path: str) -> Processor:
        """The checkpoint's processor alone."""
        return self.processor_class.from_pretrained(path)

    def tiny(self, config: TinyConfig, tokenizer: Any) -> tuple[PreTrainedModel, Processor]:
        """A small model of the class with random weights."""
        ...

    def prepare(
        self, processor: Any, prompt: str, waves: Sequence[np.ndarray]
    ) -> dict[str, Tensor]:
        """A rendered prompt and its audio as model inputs.

        Returns:
            `input_ids` (1, S) with audio placeholders at full length, and the audio tensors, whose
            first dimension counts audios (or windows of audios). No padding.
        """
        ...

    @property
    def trained_in_full(self) -> str:
        """Regular expression for the parameters that `train: full` trains: all but the towers."""
        return rf"((model\.language_model|lm_head)\..*|{self.projector})"

    def window_s(self, processor: Any) -> float:
        """Longest audio of the model in seconds; the rest of a longer clip is dropped."""
        return processor.feature_extractor.chunk_length

    def tiny_window_s(self, config: TinyConfig) -> float:
        """The `window_s` of the model that `tiny` makes."""
        return config.window_s

    def positions(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Arguments of the inner model besides `attention_mask`, so that padding on the left
        and on the right give the same states; a packed row has `position_ids` in place of it."""
        if "position_ids" in inputs:
            return {}
        mask_BS = inputs["attention_mask"]
        return {"position_ids": (mask_BS.cumsum(-1) - 1).clamp(min=0)}

    def masked_positions(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Arguments of the inner model about positions when its attention mask is 4-D, from which
        it cannot count them."""
        return self.positions(inputs)

    def audio_tower(self, model: Any) -> nn.Module:
        """The module whose output goes to the projector."""
        return model.model.audio_tower

    def audio_token_id(self, model: PreTrainedModel) -> int:
        """The placeholder that audio embeddings overwrite."""
        return model.config.audio_token_id

    def save(self, model: PreTrainedModel, processor: Processor, folder: Path, base: str) -> None:
        """Writes the merged model as stock loaders and servers expect it.

        Args:
            model: Without adapters.
            processor: A processor with the block's tokens and template.
            folder: Folder to write to.
            base: The checkpoint that training began with.
        """
        del base
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
