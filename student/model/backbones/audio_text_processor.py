"""A processor without images: a tokenizer, Whisper's feature extractor and a chat template.

It is used for families whose own processor needs an additional package.
"""

from __future__ import annotations

from typing import Any

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
