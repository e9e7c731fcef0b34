"""What differs between audio language models, as one interface.

All of them are an audio tower and a projector that write audio embeddings over placeholder tokens,
and a language model that reads the result. An adapter says how a checkpoint is loaded, how audio
and text become inputs, and what its parts are called; block, heads, losses, training and generation
are the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

# Legend: B clips, S tokens.


class Backbone(Protocol):
    """The adapter of one family of checkpoints."""

    audio_end: str
    """What ends an audio in a rendered prompt."""
    sample_rate: int
    """Hz of the waveforms that the processor expects."""
    lora_pattern: str
    """Regular expression that matches the full names of the language model's projections, and
    nothing of the audio tower, whose layers have the same short names."""
    trained_in_full: str
    """Regular expression for the parameters that `train: full` trains: all but the towers."""
    inputs_in_rows: bool
    """Audio inputs have one row per clip and are computed row by row."""

    def load(
        self, path: str, *, dtype: str | torch.dtype, quantization: Any
    ) -> tuple[PreTrainedModel, Any]:
        """The checkpoint's model, with class `...ForConditionalGeneration`, and its processor."""
        ...

    def prepare(
        self, processor: Any, prompt: str, waves: Sequence[np.ndarray]
    ) -> dict[str, Tensor]:
        """A rendered prompt and its audio as model inputs.

        Returns:
            `input_ids` (1, S) with audio placeholders at full length, and the audio tensors, whose
            first dimension counts the audios. No padding.
        """
        ...

    def positions(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the language model must be told besides `attention_mask`, so that padding on the
        left and on the right give the same states."""
        ...

    def audio_tower(self, model: PreTrainedModel) -> nn.Module:
        """The module whose output goes to the projector."""
        ...

    def language_model(self, model: PreTrainedModel) -> nn.Module:
        """The decoder stack."""
        ...

    def audio_token_id(self, model: PreTrainedModel) -> int:
        """The placeholder that audio embeddings overwrite."""
        ...

    def export(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model as stock loaders and servers expect it."""
        ...
