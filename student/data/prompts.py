"""Converts conversations to model inputs, and answers to tokens.

Texts of users contain no special tokens: a special token that is spelled out in a question, an
answer or a label is tokenized as plain characters, so it can neither end a turn nor act as a
placeholder of an audio or as the block.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manifests.errors import UserError
from student.data.examples import Message
from student.model.backbones.protocol import Backbone, Processor
from student.model.block import BLOCKS_ARGUMENT, block_seconds, count_blocks

# Legend: S tokens.

logger = logging.getLogger(__name__)

MIN_SECONDS = 0.1
"""Two audio tokens. With one, Qwen2-Audio uses an older method of merging audio and text."""
ROUNDING_S = 1e-3
"""Seconds beyond a limit that are due to rounding: an end minus a start of 30 s may give
30.000000000000004."""


class Prompter:
    """Converts conversations to model inputs, and answers to tokens."""

    def __init__(
        self, backbone: Backbone, processor: Processor, *, seconds_per_block: float | None = None
    ) -> None:
        """
        Args:
            backbone: The adapter of the model's family.
            processor: A processor with the chat template of the recipe or of an export.
            seconds_per_block: `block.seconds` of the recipe; that of the template if None.
        """
        self._seconds_per_block = seconds_per_block or block_seconds(str(processor.chat_template))
        self.backbone = backbone
        self.processor = processor
        self.tokenizer: Any = processor.tokenizer
        self.window_s = backbone.window_s(processor)
        added = self.tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special} | {*backbone.special_tokens}
        longest_first = sorted(special, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)))
        self._end = self._turn_end()

    def prompt(
        self,
        messages: list[Message],
        waves: Sequence[np.ndarray],
        *,
        names: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Inputs of one conversation up to the assistant's answer, including the block.

        An audio that is longer than the model's window is truncated, with a warning.

        Args:
            messages: The conversation.
            waves: Waveforms of its audio parts, in order.
            names: Their names in warnings.

        Raises:
            UserError: an audio is too short for the model.
        """
        cleaned, spelt = self._without_special(messages)
        fitting = [
            self._fit(wave, name)
            for wave, name in zip(waves, names or ["an audio"] * len(waves), strict=True)
        ]
        several: dict[str, Any] = {}
        if self._seconds_per_block is not None and fitting:
            several = {BLOCKS_ARGUMENT: self.count_blocks(fitting[-1])}
        text = self.processor.apply_chat_template(
            cleaned, tokenize=False, add_generation_prompt=True, **several
        )
        placeholder = self.backbone.special_tokens[3]
        if (count := str(text).count(placeholder)) != len(fitting):
            raise UserError(
                f"the chat template wrote {count} placeholders ({placeholder}) for {len(fitting)} "
                "recordings; use the template of the original checkpoint"
            )
        inputs = self.backbone.prepare(self.processor, str(text), fitting)
        if spelt:
            inputs["input_ids"] = self._with_spelt(inputs["input_ids"][0], spelt)[None]
        return inputs

    def count_blocks(self, wave: np.ndarray) -> int:
        """Returns the number of blocks that an audio has, or would have in an arm with a block."""
        seconds = min(len(wave) / self.backbone.sample_rate, self.window_s)
        return count_blocks(seconds, self._seconds_per_block)

    @property
    def turn_end(self) -> int | None:
        """The special token with which the template ends the assistant's turn, and with which
        trained answers end; None if there is none."""
        end = self._end[-1] if self._end else None
        return end if end in self.tokenizer.all_special_ids else None

    def answer(self, text: str) -> list[int]:
        """Tokens of an answer and of the end of the turn."""
        return self._as_text(text) + self._end

    def _fit(self, wave: np.ndarray, name: str) -> np.ndarray:
        seconds = len(wave) / self.backbone.sample_rate
        if seconds < MIN_SECONDS:
            raise UserError(
                f"the audio lasts {seconds:.3f} s; the model requires at least {MIN_SECONDS} s"
            )
        if seconds <= self.window_s:
            return wave
        if seconds > self.window_s + ROUNDING_S:
            logger.warning(
                "%s lasts %.2f s, and the model's window is %g s: the rest is left out",
                name, seconds, self.window_s,
            )  # fmt: skip
        return wave[: int(self.window_s * self.backbone.sample_rate)]

    def _without_special(self, messages: list[Message]) -> tuple[list[Message], list[str]]:
        """Replaces special tokens that are spelled out in messages by the padding token, and
        returns these tokens, too. Prompts contain no other padding, so the places can be found
        again."""
        spelt: list[str] = []

        def replace(text: str) -> str:
            spelt.extend(self._special.findall(text))
            return self._special.sub(lambda _: self.tokenizer.pad_token, text)

        cleaned = []
        for message in messages:
            content = message["content"]
            if isinstance(content, str):
                content = replace(content)
            else:
                content = [
                    {**part, "text": replace(part["text"])} if "text" in part else part
                    for part in content
                ]
            cleaned.append({**message, "content": content})
        return cleaned, spelt

    def _with_spelt(self, ids_S: Tensor, spelt: Sequence[str]) -> Tensor:
        places = (ids_S == self.tokenizer.pad_token_id).nonzero()[:, 0].tolist()
        if len(places) != len(spelt):
            raise UserError(
                f"a conversation spells out special tokens ({', '.join(spelt)}) where the chat "
                "template does not keep them; remove them from its text"
            )
        pieces, start = [], 0
        for place, token in zip(places, spelt, strict=True):
            pieces += [ids_S[start:place], torch.tensor(self._as_text(token))]
            start = place + 1
        return torch.cat([*pieces, ids_S[start:]])

    def _as_text(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def _turn_end(self) -> list[int]:
        """Tokens with which the template ends the assistant's turn, up to the first special one."""
        mark = "ANSWER"
        turns = [
            {"role": role, "content": [{"type": "text", "text": mark}]}
            for role in ("user", "assistant")
        ]
        text = str(self.processor.apply_chat_template(turns, tokenize=False))
        ids = self.tokenizer.encode(text.rpartition(mark)[2], add_special_tokens=False)
        special = [
            place for place, token in enumerate(ids) if token in self.tokenizer.all_special_ids
        ]
        return ids[: special[0] + 1] if special else ids
