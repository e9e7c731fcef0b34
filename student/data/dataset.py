"""Converts examples to tensors: prompt and audio as inputs, answer as labels, targets.

Labels are the answer's tokens and the end of the turn; all other tokens, including the block, are
ignored. Prompt and answer are tokenized separately, so training and generation use the same
prompts. For a clip without targets of a stream, that stream is masked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from manifests import audio
from manifests.clips import Clip
from manifests.errors import UserError
from student.batch import IGNORE, Grid, PreparedExample
from student.data.examples import Example
from student.data.prompts import Prompter
from student.data.workers import one_thread
from student.distill.alignment import span_matrix
from student.distill.streams import RECONSTRUCTION

# Legend: B examples, S tokens, N student frames (K * R), D columns.

TOKENS_PER_SECOND = 25
"""Audio tokens per second of most backbones, used to estimate the length of an example."""


class ExampleDataset(Dataset):
    """A dataset of examples as tensors, which are prepared on access."""

    def __init__(
        self,
        examples: Sequence[Example],
        clips: Mapping[str, Clip],
        prompter: Prompter,
        grid: Grid,
        *,
        audio_token_id: int,
        keep: bool = False,
    ) -> None:
        self.examples = examples
        self._clips = clips
        self._prompter = prompter
        self._grid = grid
        self._audio_token_id = audio_token_id
        self._token_s = 1 / prompter.backbone.tokens_per_second
        self._kept: dict[int, PreparedExample] | None = {} if keep else None

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> PreparedExample:
        if self._kept is not None and index in self._kept:
            return self._kept[index]
        with one_thread():
            prepared = self._make(self.examples[index])
        if self._kept is not None:
            self._kept[index] = prepared
        return prepared

    def _make(self, example: Example) -> PreparedExample:
        waves = [self._load_audio(self._clips[clip_id]) for clip_id in example.clip_ids]
        inputs = self._prompter.prompt(example.messages, waves)
        prompt_S = inputs.pop("input_ids")[0]
        answer_S = torch.tensor(self._prompter.answer(example.answer))
        clip_id = example.clip_ids[-1]
        tokens_A, audio_s = self._audio_tokens(prompt_S, waves[-1])
        if self._grid.per_token:
            num_blocks, num_frames, frame_s = 1, len(tokens_A), self._token_s
        else:
            num_blocks = self._prompter.count_blocks(waves[-1])
            num_frames, frame_s = num_blocks * self._grid.num_frames, self._grid.frame_s
        weights_NS = None
        if self._grid.at_audio or RECONSTRUCTION in self._grid.streams:
            weights_NS = torch.zeros(num_frames, len(prompt_S))
            weights_NA = span_matrix(
                len(tokens_A), start_s=self._token_s / 2, hop_s=self._token_s,
                duration=audio_s, num_spans=num_frames, span_s=frame_s,
            ).toarray()  # fmt: skip
            weights_NS[: len(weights_NA), tokens_A] = torch.from_numpy(weights_NA)
            # The last block may begin in the rest of the audio that has no token of its own.
            weights_NS[len(weights_NA) : num_frames - self._grid.num_frames + 1, tokens_A[-1]] = 1.0
        return PreparedExample(
            ids_S=torch.cat([prompt_S, answer_S]),
            labels_S=torch.cat([torch.full_like(prompt_S, IGNORE), answer_S]),
            audio=inputs,
            targets={
                stream.name: torch.from_numpy(stream.frames(clip_id, num_frames, frame_s))
                for stream in self._grid.cached_streams
                if stream.covers(clip_id)
            },
            audio_weights_NS=weights_NS,
            num_blocks=num_blocks,
        )

    def _load_audio(self, clip: Clip) -> np.ndarray:
        try:
            return audio.load(clip, self._prompter.backbone.sample_rate)
        except audio.AudioError as error:
            raise UserError(
                f"clip {clip.clip_id} cannot be read ({error}); repair the file, or leave the "
                "clip out of the corpus"
            ) from None

    def _audio_tokens(self, prompt_S: Tensor, wave: np.ndarray) -> tuple[np.ndarray, float]:
        """Positions of the last audio's tokens in the prompt, and the seconds that they cover."""
        backbone = self._prompter.backbone
        positions_A = np.flatnonzero((prompt_S == self._audio_token_id).numpy())
        starts = np.flatnonzero(np.diff(positions_A, prepend=-2) > 1)
        last_A = positions_A[starts[-1] :]
        duration = len(last_A) * self._token_s
        if backbone.pads_audio:
            # Tokens of the silence after the audio belong to no frame.
            duration = min(len(wave) / backbone.sample_rate, duration)
            last_A = last_A[: math.ceil(duration / self._token_s - 1e-6)]
        return last_A, duration
