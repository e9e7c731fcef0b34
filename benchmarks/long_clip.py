"""Measures the memory for the frames of a long clip, from a network's windows to the stored bytes.

    python -m benchmarks.long_clip [--minutes 60] [--rate 50] [--columns 1280] [--pool 1]

A process creates the windows of one clip like a network's output, joins and averages them, encodes
them as int8 and computes sums. The peak of its memory, minus the memory before, is printed with the
size of the frames.
"""

from __future__ import annotations

import argparse
import resource

import numpy as np

from benchmarks.hardware import describe
from manifests.cache.encoded_frames import encode
from manifests.cache.stream_sums import Sums
from manifests.streams.specs import StreamSpec
from teachers.toolkit.windowing import join, pooled

WINDOW_S, OVERLAP_S = 30, 5


def peak_gb() -> float:
    """Returns the peak memory of this process in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    """Prints one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=int, default=50, help="frames per second")
    parser.add_argument("--columns", type=int, default=1280)
    parser.add_argument("--pool", type=int, default=1, help="frames that are averaged into one")
    options = parser.parse_args()
    spec = StreamSpec(
        name="frames", kind="features", dim=options.columns, start_s=0.0,
        hop_s=options.pool / options.rate, window_s=0.02, codec="int8",
    )  # fmt: skip
    before = peak_gb()
    total, size = int(60 * options.minutes * options.rate), WINDOW_S * options.rate
    rng = np.random.default_rng(0)
    pieces = [
        (first, rng.standard_normal((size, options.columns), np.float32))
        for first in range(0, total - size + 1, (WINDOW_S - OVERLAP_S) * options.rate)
    ]
    windows = peak_gb()
    frames_TD = pooled(join(pieces), options.pool)
    del pieces
    encoded = encode(frames_TD, spec)
    Sums.from_frames(frames_TD, encoded)
    native = total * options.columns * 4 / 1e9
    print(
        f"{options.minutes:g} min at {options.rate} Hz x {options.columns}, stored at "
        f"{options.rate / options.pool:g} Hz: frames {native:.2f} GB, windows "
        f"{windows - before:.2f} GB, peak {peak_gb() - before:.2f} GB"
    )
    print(describe())


if __name__ == "__main__":
    main()
