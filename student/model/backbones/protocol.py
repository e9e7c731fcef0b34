"""The interface to audio language models: everything that differs between their families.

Each model has an audio tower and a projector, whose audio embeddings replace placeholder tokens,
and a language model. An adapter defines how a checkpoint is loaded and written, how audio and text
are converted to inputs, and the names of its parts; block, heads, losses, training and generation
are the same for all. In all classes, `model.model` is the inner model that returns hidden states,
and `model.lm_head` is the head.
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
    """Tokenizer, feature extractor and chat template; transformers' own if possible."""

    tokenizer: Any
    chat_template: Any

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any:
        """Renders messages as text."""
        ...

    def save_pretrained(self, save_directory: Any) -> Any:
        """Writes its files to a checkpoint's folder."""
        ...


class Backbone(Protocol):
    """The adapter of one family of checkpoints.

    Methods with a body are defaults of most families; adapters override them if needed.
    """

    model_class: Any
    """The class of transformers, `...ForConditionalGeneration`."""
    processor_class: Any
    """Its processor, if transformers' own is used; other adapters override `load_processor`."""
    audio_end: str
    """Text that ends an audio in a rendered prompt."""
    sample_rate: int = 16_000
    """Hz of the waveforms that the processor expects."""
    lora_pattern: str = (
        r"model\.language_model\.layers\.\d+\."
        r"(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
    )
    """Regular expression that matches the full names of the language model's projections, but not
    those of the audio tower, whose layers have the same short names."""
    expert_parameters: tuple[str, ...] = ()
    """Ends of the names of a mixture's expert weights, which have LoRA with `lora.experts`."""
    projector: str = r"model\.multi_modal_projector\..*"
    """Regular expression for the parameters between audio tower and language model."""
    tower_by_rows: bool
    """Whether the audio tower has one row per audio, so that its outputs can be cached by row."""
    special_tokens: tuple[str, ...]
    """Special tokens of the family's tokenizer: padding comes first, end of turn third, the audio
    placeholder fourth."""

    tokens_per_second: float = 25.0
    """Audio tokens per second of audio: for most towers, 10 ms mel frames, a stride of 2 and a
    pooling of 2."""
    pads_audio: bool = False
    """Whether an audio is padded with silence to a whole window, and the silence has tokens,
    too."""

    def load(self, path: str, **options: Any) -> tuple[PreTrainedModel, Processor]:
        """Loads the checkpoint's model and its processor."""
        return self.model_class.from_pretrained(path, **options), self.load_processor(path)

    def load_processor(self, path: str) -> Processor:
        """Loads the checkpoint's processor."""
        return self.processor_class.from_pretrained(path)

    def tiny(self, config: TinyConfig, tokenizer: Any) -> tuple[PreTrainedModel, Processor]:
        """Builds a small model of the class with random weights."""
        ...

    def prepare(
        self, processor: Any, prompt: str, waves: Sequence[np.ndarray]
    ) -> dict[str, Tensor]:
        """Converts a rendered prompt and its audio to model inputs.

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
        """Arguments of the inner model in addition to `attention_mask`, with which padding on the
        left and on the right give the same states; packed rows have `position_ids` instead."""
        if "position_ids" in inputs:
            return {}
        mask_BS = inputs["attention_mask"]
        return {"position_ids": (mask_BS.cumsum(-1) - 1).clamp(min=0)}

    def masked_positions(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Arguments of the inner model for positions, which it cannot derive from a 4-D attention
        mask."""
        return self.positions(inputs)

    def audio_tower(self, model: Any) -> nn.Module:
        """The module whose output is the projector's input."""
        return model.model.audio_tower

    def audio_token_id(self, model: PreTrainedModel) -> int:
        """The placeholder that audio embeddings overwrite."""
        return model.config.audio_token_id

    def save(self, model: PreTrainedModel, processor: Processor, folder: Path, base: str) -> None:
        """Writes the merged model in the format of unmodified loaders and servers.

        Args:
            model: The model without adapters.
            processor: A processor with the block's tokens and template.
            folder: Folder to write to.
            base: The initial checkpoint of the training.
        """
        del base
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
