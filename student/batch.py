"""The types that data, model and losses exchange: an example, a batch, an output.

A dataset prepares examples. `collate` combines examples into a `Batch`, the student maps a batch to
a `StudentOutput`, and `stream_targets` pairs each head's output with its target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from student.config import Recipe
from student.distill.streams import RECONSTRUCTION, Stream

# Legend: B examples, S tokens, N student frames (K * R), D columns, A answer tokens, V vocabulary,
# H backbone width.

IGNORE = -100
"""The label of tokens that are excluded from the loss."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The student's time grid, and the streams on it."""

    streams: Mapping[str, Stream]
    num_frames: int
    """N = K * R, of each block. With `per_token`, the frames of an example are its audio tokens."""
    at_audio: bool = False
    """Whether heads read the audio's own tokens."""
    frame_s: float | None = None
    """Fixed length of a frame, in seconds; None divides each clip into equal parts."""
    per_token: bool = False
    """Whether each audio token is a frame."""

    @classmethod
    def from_recipe(cls, recipe: Recipe, streams: Mapping[str, Stream]) -> Grid:
        """Builds the grid of a recipe, for the given streams."""
        num_frames = recipe.block.tokens * recipe.heads.frames_per_position
        position_s = recipe.block.position_seconds
        return cls(
            streams=streams,
            num_frames=num_frames,
            at_audio=recipe.switches.distill_audio,
            frame_s=position_s and position_s / recipe.heads.frames_per_position,
            per_token=recipe.heads.per_token,
        )

    def extent(self, num_frames: int, clip_s: float, token_s: float) -> float:
        """Returns the seconds that the frames cover: the clip's length, unless frames are fixed."""
        fixed_s = token_s if self.per_token else self.frame_s
        return clip_s if fixed_s is None else num_frames * fixed_s

    @property
    def cached_streams(self) -> list[Stream]:
        """The streams whose targets come from a cache."""
        return [stream for stream in self.streams.values() if stream.name != RECONSTRUCTION]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedExample:
    """One example as tensors."""

    ids_S: Tensor
    """Tokens of the prompt, block included, and of the answer."""
    labels_S: Tensor
    """The answer's tokens; `IGNORE` elsewhere."""
    audio: dict[str, Tensor]
    """Inputs of the audio tower; the first dimension counts audios, or windows of audios."""
    targets: dict[str, Tensor] = field(default_factory=dict)
    """Stream -> frames_ND, for streams with targets of the clip; N frames for each block,
    concatenated. Frames of fixed length end with the clip, so there may be fewer."""
    audio_weights_NS: Tensor | None = None
    """Weights that average the last audio's tokens to student frames, if they are used."""
    num_blocks: int = 1
    """Number of blocks that the last clip has, or would have in an arm with a block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Several examples, one per row, or packed into one row (B = 1 in ids and labels)."""

    inputs: dict[str, Tensor]
    """Keyword arguments of the backbone."""
    labels_BS: Tensor
    targets: dict[str, Tensor]
    """Stream -> frames_BND; here B counts blocks, of which a long clip may have several. With a
    frame for each audio token, N is that of the clip with the most, and B counts clips."""
    covered: dict[str, Tensor]
    """Stream -> bool_BN: which frames have targets."""
    num_blocks_B: Tensor
    """Blocks of each example."""
    audio_weights_BNS: Tensor | None = None
    """N for each block of the example with most blocks; the remaining ones of other examples are
    zero. For a packed row, B counts blocks."""

    def __len__(self) -> int:
        return len(self.labels_BS)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Returns the same batch on another device."""
        return self._map(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Returns the same batch in page-locked memory; data loaders call this."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        def apply(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: change(tensor) for name, tensor in value.items()}
            return None if value is None else change(value)

        return replace(
            self, **{item.name: apply(getattr(self, item.name)) for item in fields(self)}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentOutput:
    """The result of one forward pass of the student."""

    logits_AV: Tensor | None = None
    """Logits at the positions that predict the answer; None if they were not requested."""
    labels_A: Tensor | None = None
    frames: dict[str, Tensor] = field(default_factory=dict)
    """Stream -> the head's output, (B, N, D)."""
    audio_frames: dict[str, Tensor] = field(default_factory=dict)
    """The same for the heads at the audio tokens, if there are such heads in addition to the
    block's."""
    tower_BNH: Tensor | None = None
    """The target of `reconstruction`: the projected audio features, standardised."""


# DDP and FSDP find tensors in a model's output through PyTorch's tree functions.
torch.export.register_dataclass(StudentOutput)


def collate(
    examples: Sequence[PreparedExample],
    *,
    grid: Grid,
    pad_id: int,
    packed: bool = False,
) -> Batch:
    """Combines examples into a batch, padded on the right to the longest, or packed into one row.

    Args:
        examples: The rows.
        grid: The shapes of targets that are missing.
        pad_id: Token for padding.
        packed: One row without padding. Positions restart with each example, so that the language
            model restricts attention to it.
    """
    text = _pack(examples) if packed else _pad(examples, pad_id=pad_id)
    num_blocks_B = torch.tensor([example.num_blocks for example in examples])
    targets, covered = {}, {}
    num_frames = grid.num_frames
    if grid.per_token:
        weights = [row.audio_weights_NS for row in examples]
        num_frames = max(len(own_NS) for own_NS in weights if own_NS is not None)
    for stream in grid.cached_streams:
        frames, known = [], []
        for row in examples:
            own_ND = row.targets.get(stream.name, torch.zeros(0, stream.dim))
            missing = row.num_blocks * num_frames - len(own_ND)
            frames.append(torch.nn.functional.pad(own_ND, (0, 0, 0, missing)))
            known += [True] * len(own_ND) + [False] * missing
        targets[stream.name] = torch.cat(frames).unflatten(0, (-1, num_frames))
        covered[stream.name] = torch.tensor(known).unflatten(0, (-1, num_frames))
    inputs = text.pop("inputs") | collate_audio([example.audio for example in examples])
    return Batch(inputs=inputs, targets=targets, covered=covered, num_blocks_B=num_blocks_B, **text)


def collate_audio(audios: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Concatenates the audio inputs of several prompts, each with any number of audios or windows.

    If a backbone accepts any number of frames, the last dimension is padded to the longest.
    """
    batch = {}
    for name in audios[0]:
        length = max(audio[name].shape[-1] for audio in audios)
        batch[name] = torch.cat([_padded(audio[name], length, 0) for audio in audios])
    return batch


def pad_prompts(prompts: Sequence[Tensor], *, pad_id: int) -> dict[str, Tensor]:
    """Pads prompts ids_S on the left, as needed for generation."""
    length = max(len(ids_S) for ids_S in prompts)
    return {
        "input_ids": torch.stack([_padded(ids_S, length, pad_id, left=True) for ids_S in prompts]),
        "attention_mask": torch.stack(
            [_padded(torch.ones_like(ids_S), length, 0, left=True) for ids_S in prompts]
        ),
    }


def stream_targets(batch: Batch, output: StudentOutput) -> dict[str, tuple[Tensor, Tensor]]:
    """Returns (target_BND, covered_BN) by stream, with the backbone's own audio features."""
    targets = {
        name: (target_BND, batch.covered[name])
        for name, target_BND in batch.targets.items()
        if name in output.frames
    }
    if output.tower_BNH is not None:
        assert batch.audio_weights_BNS is not None
        has_audio_BM = batch.audio_weights_BNS.any(-1)
        covered_BN = select_blocks(has_audio_BM, has_audio_BM, output.tower_BNH.shape[1])
        targets[RECONSTRUCTION] = (output.tower_BNH, covered_BN)
    return targets


def select_blocks(values_BM: Tensor, has_audio_BM: Tensor, length: int) -> Tensor:
    """Splits rows with several blocks into one row per block, without the blocks that only pad.

    Args:
        values_BM: Values of the M frames, or positions, of each row; more dimensions may follow.
        has_audio_BM: Whether a frame represents audio; the first frame of every block does.
        length: Number of frames, or positions, of a block.
    """
    if has_audio_BM.shape[1] == length:
        return values_BM
    is_block_BW = has_audio_BM.unflatten(1, (-1, length))[:, :, 0]
    return values_BM.unflatten(1, (-1, length))[is_block_BW]


def _padded(values: Tensor, length: int, value: float, *, left: bool = False) -> Tensor:
    amount = length - values.shape[-1]
    return torch.nn.functional.pad(values, (amount, 0) if left else (0, amount), value=value)


def _pad(examples: Sequence[PreparedExample], *, pad_id: int) -> dict[str, Any]:
    """Returns tokens, labels and audio weights, an example per row."""
    length = max(len(example.ids_S) for example in examples)
    weights = [row.audio_weights_NS for row in examples if row.audio_weights_NS is not None]
    return {
        "inputs": {
            "input_ids": torch.stack([_padded(row.ids_S, length, pad_id) for row in examples]),
            "attention_mask": torch.stack(
                [_padded(torch.ones_like(row.ids_S), length, 0) for row in examples]
            ),
        },
        "labels_BS": torch.stack([_padded(row.labels_S, length, IGNORE) for row in examples]),
        "audio_weights_BNS": _pad_weights(weights, length) if weights else None,
    }


def _pad_weights(weights: Sequence[Tensor], length: int) -> Tensor:
    """Pads weights of examples with S tokens and N frames each with zeros."""
    num_frames = max(map(len, weights))
    whole_BNS = torch.zeros(len(weights), num_frames, length)
    for row_NS, own_NS in zip(whole_BNS, weights, strict=True):
        row_NS[: own_NS.shape[0], : own_NS.shape[1]] = own_NS
    return whole_BNS


def _pack(examples: Sequence[PreparedExample]) -> dict[str, Any]:
    """Returns tokens, labels and audio weights, all examples in one row."""
    lengths = [len(example.ids_S) for example in examples]
    starts = np.cumsum([0, *lengths])
    weights_BNS = None
    if examples[0].audio_weights_NS is not None:
        pieces = []
        for row, start in zip(examples, starts, strict=False):
            own_NS = row.audio_weights_NS
            assert own_NS is not None
            after = sum(lengths) - start - own_NS.shape[1]
            padded_NS = torch.nn.functional.pad(own_NS, (int(start), int(after)))
            pieces += padded_NS.unflatten(0, (row.num_blocks, -1))
        weights_BNS = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True)
    return {
        "inputs": {
            "input_ids": torch.cat([example.ids_S for example in examples])[None],
            "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        },
        "labels_BS": torch.cat([example.labels_S for example in examples])[None],
        "audio_weights_BNS": weights_BNS,
    }
