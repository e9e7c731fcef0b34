"""Plain PyTorch on a cache, without the student: predicts one stream from another.

    python -m examples.plain_pytorch --cache cache/ --source asr.encoder --target emotion.lld

Trains a linear layer that predicts one expert's features from another's, frame by frame, and prints
the fraction of the variance that it explains on unseen clips. It shows three steps that most uses
of a cache need: joining streams by clip id, converting two frame rates to one grid, and batching
clips of different lengths.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Subset

from manifests.cache.encoded_frames import EncodedFrames
from manifests.cache.reader import CacheReader
from manifests.errors import UserError

# Legend: B clips, T frames of the target, S and D columns of source and target.


class Pairs(Dataset):
    """(source_TS, target_TD) of every clip that both experts have processed, standardised."""

    def __init__(self, cache: str, source: str, target: str) -> None:
        reader = CacheReader(cache)
        self._source, self._target = reader.stream(source), reader.stream(target)
        self._statistics = [stream.statistics() for stream in (self._source, self._target)]
        self.ids = [clip_id for clip_id in self._source.ids if clip_id in self._target]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        source, target = self._source[self.ids[index]], self._target[self.ids[index]]
        times_T = target.spec.start_s + target.spec.hop_s * np.arange(target.num_frames)
        frames = frames_at(source, times_T), target.decode()
        standard = [
            (values - statistics.mean_D) / statistics.std_D
            for values, statistics in zip(frames, self._statistics, strict=True)
        ]
        return torch.from_numpy(standard[0]), torch.from_numpy(standard[1])


def frames_at(frames: EncodedFrames, times_T: np.ndarray) -> np.ndarray:
    """Returns the frame nearest to each time: frame i describes `start_s + i * hop_s`."""
    nearest_T = np.rint((times_T - frames.spec.start_s) / frames.spec.hop_s).astype(int)
    return frames.decode()[nearest_T.clip(0, frames.num_frames - 1)]


def collate(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns source_BTS, target_BTD, and is_frame_BT, which is False for padding."""
    sources, targets = zip(*pairs, strict=True)
    is_frame = [torch.ones(len(target), dtype=torch.bool) for target in targets]
    return (
        pad_sequence(sources, batch_first=True),
        pad_sequence(targets, batch_first=True),
        pad_sequence(is_frame, batch_first=True),
    )


def explained(model: nn.Module, batches: DataLoader) -> float:
    """Returns R² over all frames and columns."""
    residual = total = 0.0
    with torch.no_grad():
        for source_BTS, target_BTD, is_frame_BT in batches:
            target_ND = target_BTD[is_frame_BT]
            residual += float((model(source_BTS[is_frame_BT]) - target_ND).square().sum())
            total += float(target_ND.square().sum())
    return 1 - residual / total


def main() -> None:
    """Trains the layer and prints what it explains."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", default="cache")
    parser.add_argument("--source", default="asr.encoder")
    parser.add_argument("--target", default="emotion.lld")
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()

    torch.manual_seed(0)
    pairs = Pairs(options.cache, options.source, options.target)
    learning = [index for index in range(len(pairs)) if index % 5]
    checking = [index for index in range(len(pairs)) if index % 5 == 0]
    batches = DataLoader(Subset(pairs, learning), 16, shuffle=True, collate_fn=collate)
    unseen = DataLoader(Subset(pairs, checking), 16, collate_fn=collate)
    source_TS, target_TD = pairs[0]
    model = nn.Linear(source_TS.shape[1], target_TD.shape[1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(options.epochs):
        for source_BTS, target_BTD, is_frame_BT in batches:
            loss = (model(source_BTS[is_frame_BT]) - target_BTD[is_frame_BT]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    print(
        f"{options.source} explains {explained(model, unseen):.1%} of {options.target} "
        f"on {len(checking)} unseen clips ({len(learning)} learnt from)"
    )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
