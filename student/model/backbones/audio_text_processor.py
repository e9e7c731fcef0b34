"""A processor without images: a tokenizer, Whisper's feature extractor and a chat template.

It is used for families whose own processor needs an additional package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import WhisperFeatureExtractor


class AudioTextProcessor:
    """Tokenizer, feature extractor and chat template."""

    def __init__(self, tokenizer: Any, extractor: WhisperFeatureExtractor, template: str) -> None:
        self.tokenizer = tokenizer
        self.extractor = extractor
        self.chat_template = template

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any:
        """Renders messages as text."""
        return self.tokenizer.apply_chat_template(
            conversation, chat_template=self.chat_template, **kwargs
        )

    def save_pretrained(self, save_directory: Any) -> None:
        """Writes its files to a checkpoint's folder."""
        self.tokenizer.chat_template = self.chat_template
        self.tokenizer.save_pretrained(save_directory)
        self.extractor.save_pretrained(save_directory)

    def tokenize(self, prompt: str, placeholder: str, num_tokens: Sequence[int]) -> Tensor:
        """Tokenizes a prompt whose audios have one placeholder each.

        Args:
            prompt: The rendered prompt.
            placeholder: Text of an audio token.
            num_tokens: Number of tokens of each audio, in order.

        Returns:
            ids_1S.
        """
        text, *pieces = prompt.split(placeholder)
        assert len(pieces) == len(num_tokens), "the prompt has a placeholder for each audio"
        for count, piece in zip(num_tokens, pieces, strict=True):
            text += placeholder * count + piece
        return self.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
