"""Measures the preparation of training data: targets, features, order of clips, table of examples.

    python -m benchmarks.student_data

The columns "before" stand for commit 652e439, and are computed in this run, by this code:

- targets: the dense weights and products of that commit, copied here, with the current `decode()`;
- features: its call of transformers, which pads to the whole window;
- order: a permutation of all clips. Reads are counted, not timed.

The peer uses `datasets` and torch's DataLoader on the same Parquet files. It joins teachers by row
number, which is only correct while no clip has failed, and averages whole frames, including
unvoiced ones, with `adaptive_avg_pool1d`.

Times are CPU seconds of one process, with one thread in BLAS and torch, the best of some passes.
(`datasets` and pyarrow may use more threads where they open files; those count too.) The table of
examples is that of `benchmarks.student_examples`.

With `--keep FOLDER`, each measured table is stored there, and an interrupted run resumes with the
next one.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import adaptive_avg_pool1d
from torch.utils.data import DataLoader, Dataset
from transformers import WhisperFeatureExtractor

from benchmarks.hardware import describe
from benchmarks.stored_results import print_stored
from benchmarks.student_examples import examples_table
from manifests.cache import shards
from manifests.cache.encoded_frames import EncodedFrames, encode
from manifests.cache.layout import Layout
from manifests.cache.shards import Row
from manifests.cache.stream_sums import Sums
from manifests.clips import Clip
from manifests.corpus.corpus import build
from manifests.streams.kinds import VOICED
from manifests.streams.specs import StreamSpec, TeacherSpec
from student.batch import Grid
from student.config import TaskConfig, TinyConfig
from student.data.block_shuffle import BlockShuffle
from student.data.dataset import ExampleDataset
from student.data.examples import build_examples
from student.data.prompts import Prompter
from student.data.workers import limit_worker_threads
from student.distill.alignment import student_frames
from student.distill.streams import Stream, open_streams
from student.model.backbones.log_mel import fill_window, samples_needed
from student.model.backbones.registry import named_backbone
from student.model.tiny import build_tiny

console = Console(highlight=False, width=110)
RATE, NUM_SPANS = 16_000, 128
STREAMS = {
    "asr.encoder": ("features", "int8", 1280, 0.02),
    "pitch.salience": ("pitch", "pitch", 361, 0.01),
    "emotion.lld": ("features", "int8", 25, 0.01),
    "music.notes": ("multilabel", "uint8", 88, 0.0116),
    "music.contours": ("multilabel", "uint8", 264, 0.0116),
    "sound_event.events": ("multilabel", "topk16", 521, 0.48),
}

FED = tuple(STREAMS)[:3]
"""The streams in the shuffled batches."""


def milliseconds(run: Callable[[], object], times: int = 7) -> float:
    """Returns the CPU time of the best of some runs, in milliseconds."""
    durations = []
    for _ in range(times):
        start = time.process_time()
        run()
        durations.append(time.process_time() - start)
    return 1000 * min(durations)


def make_clips(count: int) -> list[Clip]:
    """Returns clips with a text and a label."""
    return [
        Clip(
            clip_id=f"clip-{n:09d}",
            uri=f"/data/recordings/{n:09d}.flac",
            duration=10.0,
            text=f"some eight words of the clip with number {n}",
            labels={"sound": f"sound {n % 50}"},
        )
        for n in range(count)
    ]


def load_parquet(paths: list[str], folder: str) -> object:
    """Opens Parquet files with `datasets`; the first call copies them to Arrow files."""
    import datasets

    cache_dir = str(Path(folder) / "datasets")
    return datasets.load_dataset("parquet", data_files=paths, split="train", cache_dir=cache_dir)


def dense_frames(encoded: EncodedFrames) -> np.ndarray:
    """Targets of a clip of 30 s by dense weights and products: the code of 652e439."""
    frames_TD, spec = encoded.decode(), encoded.spec
    midpoints = spec.start_s + spec.hop_s * (np.arange(1, len(frames_TD)) - 0.5)
    edges = np.concatenate([[0.0], midpoints.clip(0.0, 30.0), [30.0]])
    spans = np.linspace(0.0, 30.0, NUM_SPANS + 1)
    begin_NT = np.maximum(spans[:-1, None], edges[None, :-1])
    end_NT = np.minimum(spans[1:, None], edges[None, 1:])
    overlap_NT = (end_NT - begin_NT).clip(0.0)
    weights_NT = (overlap_NT / overlap_NT.sum(1, keepdims=True)).astype(np.float32)
    frames_ND = weights_NT @ frames_TD
    if spec.kind == "pitch":
        voiced_T = frames_TD[:, -1] >= VOICED
        share_N = weights_NT @ voiced_T.astype(np.float32)
        salience_ND = (weights_NT * voiced_T) @ frames_TD[:, :-1]
        frames_ND[:, :-1] = salience_ND / np.maximum(share_N, 1e-6)[:, None]
    return frames_ND


def stream_spec(name: str) -> StreamSpec:
    """Returns the spec of one of `STREAMS`."""
    kind, codec, dim, hop_s = STREAMS[name]
    return StreamSpec(
        name=name.partition(".")[2], kind=kind, dim=dim, codec=codec,
        start_s=hop_s / 2, hop_s=hop_s, window_s=hop_s,
    )  # fmt: skip


def noise(spec: StreamSpec, seconds: float, *, seed: int) -> EncodedFrames:
    """Returns frames of noise; for pitch, some of them are voiced."""
    shape = int(seconds / spec.hop_s), spec.dim
    frames_TD = np.random.default_rng(seed).uniform(0, 1, shape).astype(np.float32)
    return encode(frames_TD, spec)


def targets_table() -> Table:
    """Measures the milliseconds for the targets of a clip of 30 s."""
    table = Table(title=f"Targets of a clip of 30 s on {NUM_SPANS} student frames, ms")
    for heading in ("", "before: dense", "sparse", "ratio"):
        table.add_column(heading, justify="right" if heading else "left")
    sums = np.zeros(2)
    for name in STREAMS:
        encoded = noise(stream_spec(name), 30, seed=0)
        both = [
            milliseconds(functools.partial(dense_frames, encoded)),
            milliseconds(functools.partial(student_frames, encoded, 30.0, NUM_SPANS)),
        ]
        np.testing.assert_allclose(
            dense_frames(encoded), student_frames(encoded, 30.0, NUM_SPANS), atol=1e-4
        )
        sums += both
        table.add_row(name, *(f"{ms:.2f}" for ms in both), f"{both[0] / both[1]:.1f}")
    table.add_row("all", *(f"{ms:.2f}" for ms in sums), f"{sums[0] / sums[1]:.1f}")
    return table


def features_table() -> Table:
    """Measures the milliseconds for the features of a clip of 10 s."""
    table = Table(title="Features of a clip of 10 s, 128 bands, ms")
    for heading in ("window", "before: padded", "of what is there", "ratio"):
        table.add_column(heading, justify="right")
    wave = np.random.default_rng(0).standard_normal(10 * RATE).astype(np.float32)
    options = {"sampling_rate": RATE, "return_tensors": "pt"}

    def short(extractor: WhisperFeatureExtractor, window_s: int) -> object:
        needed = samples_needed(extractor, [wave])
        features = extractor(wave, max_length=needed, **options)["input_features"]
        return features if window_s == 300 else fill_window(features, extractor.nb_max_frames)

    for window_s in (30, 300):
        extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=window_s)
        padded = milliseconds(functools.partial(extractor, wave, **options), 3)
        ours = milliseconds(functools.partial(short, extractor, window_s))
        table.add_row(f"{window_s} s", f"{padded:.1f}", f"{ours:.1f}", f"{padded / ours:.1f}")
    return table


def order_table(clips: int) -> Table:
    """Counts the bytes that are read and the pages that are checked for all clips.

    A worker reads a row group of 8 clips once in an epoch, as its window of shards fits in memory,
    and a page is checked once by the workers of a process.
    """
    table = Table(title=f"Orders of {clips:,} clips for 8 processes of 8 workers (counted)")
    checked_in = ("checks of a page, epoch 1", "epoch 2")
    for heading in ("order", "bytes read, x an epoch's", "shards of a worker", *checked_in):
        table.add_column(heading, justify="right" if heading != "order" else "left")
    processes, lanes, batch = 8, 64, 8
    lane = np.arange(clips) // batch % lanes
    groups = -(-clips // 8)
    blocks = BlockShuffle(np.arange(clips) // 256, batch_size=batch, lanes=lanes, seed=0)
    for name in ("clips", "blocks"):
        read, opened, checks = 0, 0, []
        checked = np.empty(0, np.int64)
        for epoch in range(2):
            blocks.set_epoch(epoch)
            plain = np.random.default_rng(epoch).permutation(clips)
            order = plain if name == "clips" else np.fromiter(blocks, np.int64, clips)
            read = len(np.unique(order // 8 * lanes + lane)) / groups
            opened = len(np.unique(order // 256 * lanes + lane)) / lanes
            known = np.union1d(checked, order // 8 * processes + lane % processes)
            checks.append((len(known) - len(checked)) / groups)
            checked = known
        cells = (read, opened, *checks)
        table.add_row(name, f"{cells[0]:.2f}", f"{cells[1]:,.0f}", *(f"{n:.2f}" for n in cells[2:]))
    return table


def preparing_table(clips: int) -> Table:
    """Measures a worker's time for a whole example: audio, features, tokens, targets."""
    table = Table(title=f"Examples of clips of 10 s, 16-bit WAV, {', '.join(FED)}, one core")
    for heading in ("backbone", "ms an example", "clips/s", "8 cores, computed"):
        table.add_column(heading, justify="right" if heading != "backbone" else "left")
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="coat-bench-") as name:
        folder = Path(name)
        streams = open_streams([str(make_cache(folder, clips))], None)
        sound = folder / "sound.wav"
        soundfile.write(sound, rng.uniform(-0.1, 0.1, 10 * RATE), RATE)
        by_id = {clip.clip_id: replace(clip, uri=str(sound)) for clip in make_clips(clips)}
        task = TaskConfig(questions=["What is said?"], answer=["text"])
        examples = list(build_examples(by_id.values(), [task]))
        tiny = TinyConfig(hidden_size=32, layers=1, feed_forward=32, tower_width=64,
                          tower_layers=1, whisper_weights=False)  # fmt: skip
        for family, window_s in (("qwen2_audio", 30), ("qwen2_5_omni", 300)):
            place = folder / family
            build_tiny(place, replace(tiny, family=family, window_s=window_s), ["a b"], seed=0)
            backbone = named_backbone(family)
            processor = backbone.load_processor(str(place))
            extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=window_s)
            field = "extractor" if family == "qwen2_5_omni" else "feature_extractor"
            setattr(processor, field, extractor)
            dataset = ExampleDataset(
                examples, by_id, Prompter(backbone, processor),
                Grid(streams=streams, num_frames=NUM_SPANS),
                audio_token_id=processor.tokenizer.get_vocab()["<|AUDIO|>"],
            )  # fmt: skip
            ms = milliseconds(lambda: [dataset[row] for row in range(clips)], 3) / clips  # noqa: B023
            table.add_row(family, f"{ms:.1f}", f"{1000 / ms:,.0f}", f"{8 * 1000 / ms:,.0f} clips/s")
    return table


def make_cache(folder: Path, clips: int) -> Path:
    """Writes a cache of the first three streams of `STREAMS`, a teacher each, for clips of 10 s."""
    corpus = build(make_clips(clips), folder / "fed")
    layout = Layout.create(folder / "cache")
    layout.register(corpus)
    for name in FED:
        stream = stream_spec(name)
        spec = TeacherSpec(
            name=name.partition(".")[0], family="none", revision=1, settings={}, weights={},
            sample_rate=RATE, streams=(stream,), license="none",
        )  # fmt: skip
        layout.add_teacher(spec)
        encoded = [noise(stream, 10, seed=seed) for seed in range(8)]
        for number in range(corpus.num_shards):
            ids = corpus.shard_ids(number)
            rows = [
                Row(clip_id=clip_id, duration=10.0, audio_digest=f"{index:032x}", metadata={},
                    frames={stream.name: encoded[index % 8]})
                for index, clip_id in enumerate(ids)
            ]  # fmt: skip
            sums = {stream.name: Sums.from_frames(encoded[0].decode(), encoded[0])}
            shards.write(
                layout.shards(spec, corpus.name), spec, shard=number, clip_ids=ids, rows=rows,
                failures=[], sums=sums, extract_seconds=1.0, finished="",
            )  # fmt: skip
    return folder / "cache"


class Targets(Dataset):
    """The targets of each clip as in the trainer."""

    def __init__(self, streams: dict[str, Stream], ids: list[str]) -> None:
        self._streams, self._ids = streams, ids

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {
            name: torch.from_numpy(stream.frames(self._ids[index], NUM_SPANS))
            for name, stream in self._streams.items()
        }


def pool_rows(rows: dict[str, list], streams: dict[str, Stream]) -> dict[str, list[torch.Tensor]]:
    """Decodes each blob and averages its frames, as the peer's transform."""
    pooled = {}
    for name, stream in streams.items():
        spec, statistics = stream_spec(name), stream.statistics
        blobs, counts = rows[f"{spec.name}.frames"], rows[f"{spec.name}.num_frames"]
        pooled[name] = []
        for blob, count in zip(blobs, counts, strict=True):
            frames_DT = torch.from_numpy(EncodedFrames(spec, blob, count).decode()).T
            frames_ND = adaptive_avg_pool1d(frames_DT[None], NUM_SPANS)[0].T
            if statistics:
                mean_D, std_D = map(torch.from_numpy, (statistics.mean_D, statistics.std_D))
                frames_ND = (frames_ND - mean_D) / std_D
            pooled[name].append(frames_ND)
    return pooled


def feeding_table(clips: int) -> Table:
    """Measures clips per second of shuffled batches of targets, with our reader and the peer."""
    import datasets

    table = Table(title=f"Shuffled batches of 8 clips of 10 s, targets of {', '.join(FED)}")
    for heading in ("", "clips/s", "ms a clip", "opening, ms", "copied to disk first"):
        table.add_column(heading, justify="right" if heading else "left")
    with tempfile.TemporaryDirectory(prefix="coat-bench-") as name:
        folder = Path(name)
        cache = make_cache(folder, clips)
        start = time.process_time()
        streams = open_streams([str(cache)], None)
        ids = next(iter(streams.values())).reader.ids  # pyright: ignore[reportOptionalMemberAccess]
        opened = time.process_time() - start
        order = BlockShuffle(np.arange(clips) // 256, batch_size=8, lanes=1, seed=0)
        ours = DataLoader(Targets(streams, ids), 8, sampler=order)

        start = time.process_time()
        columns = [
            load_parquet(
                sorted(str(path) for path in cache.glob(f"teachers/{teacher}@*/*/data/*.parquet")),
                name,
            ).select_columns([f"{stream}.frames", f"{stream}.num_frames"])  # pyright: ignore
            for teacher, _, stream in (fed.partition(".") for fed in FED)
        ]
        joined = datasets.concatenate_datasets(columns, axis=1)
        transformed = joined.with_transform(functools.partial(pool_rows, streams=streams))
        theirs = DataLoader(transformed, 8, shuffle=True)  # pyright: ignore[reportArgumentType]
        peer_opened = time.process_time() - start
        copied = sum(path.stat().st_size for path in folder.rglob("*.arrow"))

        times = {"peer": [], "ours": []}
        for _ in range(3):
            for side, loader in (("peer", theirs), ("ours", ours)):
                times[side].append(milliseconds(functools.partial(exhaust, loader), 1) / clips)
    for label, ms, opening, copy in (
        ("peer: datasets + DataLoader", min(times["peer"]), peer_opened, f"{copied / 1e6:,.0f} MB"),
        ("ours, shuffled by blocks", min(times["ours"]), opened, "nothing"),
    ):
        table.add_row(label, f"{1000 / ms:,.0f}", f"{ms:.2f}", f"{1000 * opening:,.0f}", copy)
    return table


def exhaust(loader: DataLoader) -> None:
    """Iterates over every batch of an epoch."""
    for _ in loader:
        pass


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--clips", type=int, default=1_000_000, help="of the corpus that is opened")
    parser.add_argument("--fed", type=int, default=1024, help="clips of the cache that is read")
    parser.add_argument("--keep", type=Path, help="folder of tables that are measured already")
    options = parser.parse_args()
    console.print(describe())
    limit_worker_threads()
    torch.set_num_threads(1)
    import datasets

    datasets.disable_progress_bars()
    console.print(f"{datetime.date.today()}; datasets {datasets.__version__}")
    tables: dict[str, Callable[[], Table]] = {
        "targets": targets_table,
        "features": features_table,
        "order": functools.partial(order_table, 1_000_000),
        "feeding": functools.partial(feeding_table, options.fed),
        "preparing": functools.partial(preparing_table, 128),
        "examples": functools.partial(examples_table, options.clips, options.keep),
    }
    for name, build_table in tables.items():
        print_stored(console, options.keep, name, build_table)


if __name__ == "__main__":
    main()
