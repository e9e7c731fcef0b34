"""Measures the size and the loss of the codecs on real experts and real audio.

    python -m benchmarks.codecs --corpus demo/corpus --clips 20

The embedded experts run on clips spread over a corpus. Every stream is stored with our codec
(including the zstd that the cache applies to uint8, topk16 and pitch), as raw fp16, as zstd(fp16),
and with lilcom as in lhotse (tick 2^-5). Bytes are per second of audio. Fidelity is against the
experts' float32: mean cosine per frame, largest error of one value (of features as a share of the
largest value in their column) and, for posteriors, the loss of mean average precision, with the
expert's own values of 0.5 or more as the truth; for pitch, the share of voiced frames whose
strongest bin changes.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import lilcom
import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.hardware import describe
from manifests import audio
from manifests.cache.encoded_frames import encode
from manifests.corpus.corpus import Corpus
from manifests.streams.kinds import KINDS, VOICED
from manifests.streams.specs import StreamSpec
from pipeline.build.setup import teachers
from pipeline.config import BuildConfig

console = Console(highlight=False, width=160)
ZSTD = pa.Codec("zstd", 1)
TICK_POWER = -5
"""lilcom's precision as in lhotse: values are rounded to multiples of 2^-5."""
POSITIVE = 0.5

Stored = dict[str, tuple[int, np.ndarray]]
"""Name of a packing -> (bytes, frames_TD after a round trip)."""


def stored(frames_TD: np.ndarray, spec: StreamSpec) -> Stored:
    """Stores one clip's frames in each of the formats."""
    half = frames_TD.clip(-65504, 65504).astype("<f2")
    encoded = encode(frames_TD, spec)
    blob = bytes(encoded.blob)
    ours = len(blob) if spec.codec in ("int8", "fp16") else _zstd(blob)
    # A copy: lilcom rounds its input in place.
    by_lilcom = lilcom.compress(frames_TD.copy(), tick_power=TICK_POWER)
    return {
        "fp16": (half.nbytes, half.astype(np.float32)),
        "ours": (ours, encoded.decode()),
        "zstd": (_zstd(half.tobytes()), half.astype(np.float32)),
        "lilcom": (len(by_lilcom), lilcom.decompress(by_lilcom)),
    }


def _zstd(data: bytes) -> int:
    return len(ZSTD.compress(data, asbytes=True))


def cosine(first_TD: np.ndarray, second_TD: np.ndarray) -> float:
    """Returns the mean cosine over frames that are not zero."""
    norms_T = np.linalg.norm(first_TD, axis=1) * np.linalg.norm(second_TD, axis=1)
    products_T = (first_TD * second_TD).sum(1)
    return float((products_T[norms_T > 0] / norms_T[norms_T > 0]).mean())


def average_precision_lost(truth_TD: np.ndarray, kept_TD: np.ndarray) -> float:
    """Returns 1 - mean over columns of the average precision of `kept_TD` for `truth_TD` >= 0.5."""
    scores = []
    for truth_T, kept_T in zip(truth_TD.T >= POSITIVE, kept_TD.T, strict=True):
        if 0 < truth_T.sum() < len(truth_T):
            # Among ties, wrong values come first, so that a codec that makes values equal is
            # penalised.
            hits_T = truth_T[np.lexsort((truth_T, -kept_T))]
            precision_T = hits_T.cumsum() / np.arange(1, len(hits_T) + 1)
            scores.append(precision_T[hits_T].mean())
    return 1 - float(np.mean(scores)) if scores else 0.0


def strongest_bin_changes(truth_TD: np.ndarray, kept_TD: np.ndarray) -> float:
    """Returns the share of voiced frames whose strongest pitch bin changes."""
    voiced_T = truth_TD[:, -1] >= VOICED
    moved_T = truth_TD[:, :-1].argmax(1) != kept_TD[:, :-1].argmax(1)
    return float(moved_T[voiced_T].mean()) if voiced_T.any() else 0.0


def fidelity(truth_TD: np.ndarray, kept_TD: np.ndarray, spec: StreamSpec) -> str:
    """Returns the measures of fidelity for a kind."""
    lost_TD = np.abs(truth_TD - kept_TD)
    if KINDS[spec.kind].is_physical:
        lost_TD /= np.abs(truth_TD).max(0).clip(1e-12)
    text = f"cos {cosine(truth_TD, kept_TD):.5f}, max {lost_TD.max():.3g}"
    if KINDS[spec.kind].has_classes:
        text += f", mAP -{average_precision_lost(truth_TD, kept_TD):.4f}"
    if KINDS[spec.kind].has_pitch_bins:
        text += f", moved {strongest_bin_changes(truth_TD, kept_TD):.2%}"
    return text


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--corpus", default="demo/corpus")
    parser.add_argument("--clips", type=int, default=20, help="clips, spread evenly over it")
    options = parser.parse_args()
    every = list(Corpus(options.corpus).clips())
    chosen = np.linspace(0, len(every) - 1, min(options.clips, len(every))).astype(int)
    waves = [audio.decode(every[place]) for place in chosen]
    seconds = sum(wave.seconds for wave in waves)
    table = Table(title=f"Bytes per second of audio, {len(waves)} clips, {seconds:.0f} s")
    numbers = ("columns", "Hz", "raw fp16", "ours", "of fp16", "zstd", "lilcom")
    for heading in ("stream", "codec", *numbers, "kept by ours", "kept by lilcom"):
        table.add_column(heading, justify="left" if "kept" in heading else "right")
    total: defaultdict[str, float] = defaultdict(float)
    for setup in teachers(BuildConfig(corpus=options.corpus, cache="")):
        expert = setup.make()
        expert.load(device="cpu", num_threads=1)
        results = [
            expert.extract([audio.resample(wave, setup.spec.sample_rate)])[0].frames
            for wave in track(waves, setup.name, console=Console(stderr=True))
        ]
        for spec in setup.spec.streams:
            truth = [frames[spec.name] for frames in results]
            ways = [stored(frames_TD, spec) for frames_TD in truth]
            size = {how: sum(way[how][0] for way in ways) / seconds for how in ways[0]}
            for how, value in size.items():
                total[how] += value
            truth_TD = np.concatenate(truth)
            kept = {how: np.concatenate([way[how][1] for way in ways]) for how in ways[0]}
            table.add_row(
                f"{setup.name}.{spec.name}",
                spec.codec,
                str(spec.dim),
                f"{spec.frame_rate:.1f}",
                f"{size['fp16']:,.0f}",
                f"{size['ours']:,.0f}",
                f"{size['ours'] / size['fp16']:.3f}",
                f"{size['zstd'] / size['fp16']:.3f}",
                f"{size['lilcom'] / size['fp16']:.3f}",
                fidelity(truth_TD, kept["ours"], spec),
                fidelity(truth_TD, kept["lilcom"], spec),
            )
    ratios = [f"{total[how] / total['fp16']:.3f}" for how in ("ours", "zstd", "lilcom")]
    sums = [f"{total['fp16']:,.0f}", f"{total['ours']:,.0f}"]
    table.add_row("all", "", "", "", *sums, *ratios, "", "", style="bold")
    console.print(describe())
    console.print(table)


if __name__ == "__main__":
    main()
