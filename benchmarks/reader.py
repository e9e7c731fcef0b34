"""Compares reading targets with bare pyarrow on the same bytes, and with `datasets`.

    python -m benchmarks.reader

A synthetic cache of one int8 stream (2,000 clips x 500 frames x 384 columns, 384 MB). Sequential:
`StreamReader` in storage order, with clip ids checked and page checksums verified, against pyarrow
reading the same columns in the same batches, which is the limit. Shuffled: clips by id in random
order, against `datasets` by row number. "As stored" returns views of the bytes without reading
them; "decoded" converts every blob to float32 frames, on both sides. The files are in the page
cache; the best of five alternating passes counts.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.hardware import describe
from manifests.cache import shards
from manifests.cache.encoded_frames import EncodedFrames, encode
from manifests.cache.layout import Layout
from manifests.cache.reader import CacheReader
from manifests.cache.shards import Row
from manifests.cache.stream_sums import Sums
from manifests.clips import Clip
from manifests.corpus.corpus import build
from manifests.streams.specs import StreamSpec, TeacherSpec

console = Console(highlight=False, width=110)

STREAM = StreamSpec(
    name="encoder", kind="features", dim=384, start_s=0.0, hop_s=0.02, window_s=0.02, codec="int8"
)
SPEC = TeacherSpec(
    name="asr",
    family="none",
    revision=1,
    settings={},
    weights={},
    sample_rate=16_000,
    streams=(STREAM,),
    license="none",
)


def make_cache(folder: Path, clips: int, frames: int) -> Layout:
    """Builds a cache of noise."""
    made = [Clip(clip_id=f"clip{place:06d}", uri=f"/{place}.wav") for place in range(clips)]
    corpus = build(made, folder / "corpus")
    layout = Layout.create(folder / "cache")
    layout.register(corpus)
    layout.add_teacher(SPEC)
    rng = np.random.default_rng(0)
    for number in range(corpus.num_shards):
        ids = corpus.shard_ids(number)
        frames_NTD = rng.standard_normal((len(ids), frames, STREAM.dim), np.float32)
        rows = [
            Row(
                clip_id=clip_id,
                duration=frames * STREAM.hop_s,
                audio_digest=f"{place:032x}",
                metadata={},
                frames={STREAM.name: encode(frames_NTD[place], STREAM)},
            )
            for place, clip_id in enumerate(ids)
        ]
        sums = Sums.from_frames(frames_NTD[0], rows[0].frames[STREAM.name])
        shards.write(
            layout.shards(SPEC, corpus.name),
            SPEC,
            shard=number,
            clip_ids=ids,
            rows=rows,
            failures=[],
            sums={STREAM.name: sums},
            extract_seconds=1.0,
            finished="",
        )
    return layout


def best(first: Callable[[], int], second: Callable[[], int]) -> tuple[float, float]:
    """Returns the targets per second of both readers, the best of five alternating passes."""
    speeds: tuple[list[float], list[float]] = ([], [])
    for _ in range(5):
        for run, speed in zip((first, second), speeds, strict=True):
            start = time.perf_counter()
            count = run()
            speed.append(count / (time.perf_counter() - start))
    return max(speeds[0]), max(speeds[1])


def sequential(cache: Path, *, decode: bool, check_pages: bool) -> int:
    """Reads every row with our reader."""
    count = 0
    for _, frames in CacheReader(cache, check_pages=check_pages).stream("asr.encoder"):
        if decode:
            frames.decode()
        count += 1
    return count


def bare_pyarrow(paths: list[Path], *, decode: bool, check_pages: bool) -> int:
    """Reads every row with pyarrow: batches of the same columns and, for decoding, blobs as
    buffers."""
    count = 0
    for path in paths:
        file = pq.ParquetFile(path, memory_map=True, page_checksum_verification=check_pages)
        columns = ["clip_id", "encoder.frames", "encoder.num_frames"]
        for batch in file.iter_batches(64, columns=columns, use_threads=False):
            count += len(batch)
            if decode:
                counts = batch.column(2).to_pylist()
                for blob, frames in zip(batch.column(1), counts, strict=True):
                    EncodedFrames(STREAM, blob.as_buffer(), frames).decode()
    return count


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--frames", type=int, default=500)
    options = parser.parse_args()
    import datasets

    datasets.disable_progress_bars()
    folder = Path(tempfile.mkdtemp(prefix="coat-bench-"))
    make_cache(folder, options.clips, options.frames)
    cache = folder / "cache"
    paths = sorted(cache.rglob("data/*.parquet"))
    size = sum(path.stat().st_size for path in paths) / 1e6
    console.print(describe())
    console.print(f"{options.clips:,} clips x {options.frames} frames x 384 int8, {size:,.0f} MB")
    per_target = size / options.clips

    table = Table(title="Sequential")
    for heading in ("", "targets/s", "MB/s", "of the limit"):
        table.add_column(heading, justify="right" if heading else "left")
    for decode in (False, True):
        for check in (True, False):
            what = f"{'decoded' if decode else 'as stored'}, pages {'' if check else 'un'}checked"
            limit, reached = best(
                lambda d=decode, c=check: bare_pyarrow(paths, decode=d, check_pages=c),
                lambda d=decode, c=check: sequential(cache, decode=d, check_pages=c),
            )
            for name, speed in (("bare pyarrow", limit), ("StreamReader", reached)):
                table.add_row(
                    f"{name}, {what}",
                    f"{speed:,.0f}",
                    f"{speed * per_target:,.0f}",
                    f"{speed / limit:.2f}",
                )
    console.print(table)

    order = np.random.default_rng(1).permutation(options.clips)
    others = datasets.load_dataset(
        "parquet", data_files=[str(path) for path in paths], split="train", cache_dir=str(folder)
    )
    column = others.select_columns(["clip_id", "encoder.frames", "encoder.num_frames"])
    stream = CacheReader(cache).stream("asr.encoder")
    ids = [f"clip{place:06d}" for place in order]

    def ours(decode: bool) -> int:
        for clip_id in ids:
            frames = stream[clip_id]
            if decode:
                frames.decode()
        return len(ids)

    def theirs(decode: bool) -> int:
        for place in order:
            row = column[int(place)]
            if decode:
                EncodedFrames(STREAM, row["encoder.frames"], row["encoder.num_frames"]).decode()
        return len(order)

    table = Table(title="Shuffled, one clip at a time")
    for heading in ("", "targets/s", "MB/s", "of datasets"):
        table.add_column(heading, justify="right" if heading else "left")
    for decode in (False, True):
        base, reached = best(lambda d=decode: theirs(d), lambda d=decode: ours(d))
        for name, speed in (("datasets", base), ("StreamReader", reached)):
            table.add_row(
                f"{name}, {'decoded' if decode else 'as stored'}",
                f"{speed:,.0f}",
                f"{speed * per_target:,.0f}",
                f"{speed / base:.2f}",
            )
    console.print(table)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
