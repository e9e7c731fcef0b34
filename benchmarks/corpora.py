"""Measures cuts of hour-long recordings on an S3 server, tars and Parquet, and other packages that
read them.

    python -m benchmarks.corpora [--minutes 60] [--members 100000] [--clips 2000] [--keep FOLDER]

1. Recordings in WAV, FLAC, MP3 and Opus are on a local server that answers HEAD and ranged GET
   like S3 (moto copies the whole object for each range). Each is cut into clips of 10 s, which are
   decoded block by block like in a build. Fetched bytes are stated as a multiple of the
   file, processor time as a multiple of decoding the whole file once. The bytes of a single clip in
   the middle of the file are stated as a multiple of its share of the file.
2. Members of tars indexed per minute and core, corpus rows included.
3. Clips decoded from tars per second, compared with the package webdataset with soundfile, and from
   Parquet, compared with the package datasets with soundfile.

With --keep, each measured row is stored in a folder, and an interrupted run resumes after it; use a
separate folder for each machine and size.

Targets (issue 17): 1.1 x the file or 1.2 x the share, 1.2 x the time, 100,000 members, at least as
fast. Processor time is used because other programs share this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import io
import json
import os
import re
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from benchmarks.hardware import describe
from benchmarks.stored_results import load_or_measure
from manifests import audio
from manifests.clips import Clip
from manifests.corpus.sources import detect
from manifests.decoders import kept as open_decoders
from manifests.decoders import ranged, seeking
from manifests.storage import Folder
from pipeline.build.messages import cut

RATE = 16_000
FORMS = {
    "wav": "-c:a pcm_s16le",
    "flac": "-c:a flac",
    "mp3": "-c:a libmp3lame -b:a 64k",
    "mp3, variable": "-c:a libmp3lame -q:a 5",
    "opus, 48k audio": "-c:a libopus -b:a 48k -application audio",
    "opus, 20k voice": "-c:a libopus -b:a 20k -application voip",
}
CUT_S = 10.0
BLOCK_CLIPS = 4


def main() -> None:
    """Runs the three parts and prints a table for each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--members", type=int, default=100_000)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--keep", type=Path, help="folder of rows that are measured already")
    options = parser.parse_args()
    keep = options.keep
    print(describe())
    print(f"load {os.getloadavg()[0]:.0f} at the start")
    with tempfile.TemporaryDirectory() as name, serve_bucket(Path(name)):
        folder = Path(name)
        print(f"\n{options.minutes:g} min in cuts of {CUT_S:g} s, blocks of {BLOCK_CLIPS}")
        print(f"{'form':16} {'MB':>6} {'bytes/file':>10} {'one cut/share':>13} {'time/whole':>10}")
        for form in FORMS:
            row = load_or_measure(
                keep, f"cuts of {form}", partial(cut_recording, folder, form, options)
            )
            print(f"{form:16} {row}", flush=True)
        print(
            load_or_measure(keep, "index", partial(index_tars, folder, options.members)), flush=True
        )
        for form in ("tar", "parquet"):
            row = load_or_measure(
                keep, f"clips of {form}", partial(read_clips, folder, form, options.clips)
            )
            print(row, flush=True)


def speech_like(seconds: float, seed: int) -> np.ndarray:
    """Returns coloured noise in bursts of a syllable's length."""
    rng = np.random.default_rng(seed)
    count = int(seconds * RATE)
    noise = np.convolve(rng.standard_normal(count), np.hanning(9), "same").astype(np.float32)
    time_N = np.arange(count) / RATE
    return 0.05 * noise * np.clip(np.sin(2 * np.pi * 3.1 * time_N) + 0.3, 0, 1).astype(np.float32)


def processor_seconds(call: Callable[[], Any]) -> float:
    """Returns the processor time of this process for a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


@contextlib.contextmanager
def serve_bucket(folder: Path) -> Iterator[None]:
    """Serves a folder as a bucket of S3, and sets its address in the environment."""
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(ObjectServer, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "no_proxy": "127.0.0.1",
    }
    try:
        yield
    finally:
        server.shutdown()


def cut_recording(folder: Path, form: str, options: argparse.Namespace) -> str:
    """Measures a recording in one form for part 1, and returns the row of its figures."""
    minutes = options.minutes
    source = folder / "long.wav"
    if not source.exists():
        soundfile.write(source, np.tile(speech_like(60.0, 0), round(minutes)), RATE)
    (folder / "data").mkdir(exist_ok=True)
    path = folder / "data" / f"x.{form.partition(',')[0]}"
    command = ["ffmpeg", "-v", "error", "-y", "-i", str(source)]
    subprocess.run([*command, *FORMS[form].split(), str(path)], check=True)
    size, uri = path.stat().st_size, f"s3://data/{path.name}"
    clips = [
        Clip(clip_id=str(number), uri=uri, offset=CUT_S * number, duration=CUT_S)
        for number in range(round(minutes * 60 / CUT_S))
    ]
    with count_bytes() as fetched:
        clear_caches()
        audio.decode(clips[len(clips) // 2])
        share = sum(fetched) / (size / len(clips))
        clear_caches()
        fetched.clear()
        blocks = cut(clips, max_clips=BLOCK_CLIPS, max_seconds=240)
        in_cuts = processor_seconds(lambda: [decode(block) for block in blocks])
        total = sum(fetched) / size
    whole = Clip(clip_id="whole", uri=uri)
    once = processor_seconds(lambda: audio.decode(whole, max_seconds=1e5))
    return f"{size / 1e6:6.1f} {total:10.2f} {share:13.2f} {in_cuts / once:10.2f}"


class ObjectServer(http.server.SimpleHTTPRequestHandler):
    """Serves files of a folder as objects of a bucket, whole or by ranges."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Responds like S3 for an existing object."""
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        size = path.stat().st_size
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        first, last = (int(match[1]), min(int(match[2]), size - 1)) if match else (0, size - 1)
        self.send_response(206 if match else 200)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Last-Modified", self.date_time_string(path.stat().st_mtime))
        if match:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        if self.command == "GET":
            with path.open("rb") as file:
                file.seek(first)
                self.wfile.write(file.read(last - first + 1))

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


def decode(block: list[Clip]) -> None:
    """Decodes a block, all of which must succeed."""
    for wave in audio.decode_many(block):
        assert isinstance(wave, audio.Waveform), wave


def clear_caches() -> None:
    """Clears all caches of file contents in this process."""
    ranged._kept.clear()
    seeking._seen.clear()
    open_decoders._kept.clear()


@contextlib.contextmanager
def count_bytes() -> Iterator[list[int]]:
    """Yields a list to which the size of each ranged request is appended."""
    sizes: list[int] = []
    original = ranged._open_object

    def counting(file: str, part: Any) -> Any:
        blocks = original(file, part)
        read = blocks.read

        def counted(position: int, count: int) -> bytes:
            sizes.append(count)
            return read(position, count)

        blocks.read = counted
        return blocks

    ranged._open_object = counting
    try:
        yield sizes
    finally:
        ranged._open_object = original


def index_tars(folder: Path, members: int) -> str:
    """Measures the time of indexing tars for part 2."""
    (folder / "many").mkdir()
    data = flac(0.05, 0)
    for tar in range(20):
        path = folder / "many" / f"{tar:03d}.tar"
        write_tar(path, range(tar * members // 40, (tar + 1) * members // 40), lambda _: data)
    used = processor_seconds(lambda: list(read(str(folder / "many"))))
    return (
        f"\n{members:,} members of 20 tars as {members // 2:,} corpus rows: {used:.1f} core s, "
        f"{members / used * 60:,.0f} members per minute and core"
    )


def read_clips(folder: Path, form: str, count: int) -> str:
    """Measures the decoding of clips in one of the two forms for part 3."""
    parts = [flac(5.0, seed) for seed in range(20)]
    source = folder / f"clips.{form}"
    if form == "tar":
        write_tar(source, range(count), lambda index: parts[index % 20])
        name, other = "webdataset", partial(read_by_webdataset, source)
    else:
        rows = [{"bytes": parts[index % 20], "path": f"{index}.flac"} for index in range(count)]
        table = pa.table({"audio": rows, "text": [str(index) for index in range(count)]})
        pq.write_table(table, source, row_group_size=200)
        name, other = "datasets", partial(read_by_datasets, source)
    clips = list(read(str(source)))

    def by_us() -> None:
        for first in range(0, len(clips), 64):
            decode(clips[first : first + 64])

    other()  # datasets converts to Arrow once; only reading is measured.
    ours, theirs = [], []
    for _ in range(3):
        ours.append(processor_seconds(by_us))
        theirs.append(processor_seconds(other))
    rates = (count / min(ours), count / min(theirs))
    return (
        f"\n{count:,} clips of 5 s from {form}: {rates[0]:,.0f} per core s, {name} with "
        f"soundfile {rates[1]:,.0f}: {rates[0] / rates[1]:.2f} x"
    )


def read_by_webdataset(source: Path) -> int:
    """Decodes all clips of a tar with webdataset and soundfile."""
    import webdataset

    stream = webdataset.WebDataset(str(source), shardshuffle=False)
    return sum(len(samples(each["flac"])) for each in stream)


def read_by_datasets(source: Path) -> int:
    """Decodes all clips of a Parquet file with datasets and soundfile."""
    import datasets

    datasets.disable_progress_bars()
    stored = datasets.Dataset.from_parquet(str(source), cache_dir=str(source.parent / "cache"))
    assert isinstance(stored, datasets.Dataset)
    return sum(len(samples(each["audio"]["bytes"])) for each in stored)  # type: ignore[index]


def read(source: str) -> Iterator[Clip]:
    """Returns the clips of a source."""
    return detect.clips(source, Folder("/nowhere"))


def samples(data: bytes) -> np.ndarray:
    """Decodes to float32, mono, with soundfile."""
    wave, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return wave.mean(1)


def flac(seconds: float, seed: int) -> bytes:
    """Returns a short recording in FLAC."""
    sink = io.BytesIO()
    soundfile.write(sink, speech_like(seconds, seed), RATE, format="FLAC")
    return sink.getvalue()


def write_tar(path: Path, indices: range, data: Callable[[int], bytes]) -> None:
    """Writes a tar of audio and JSON members."""
    with tarfile.open(path, "w") as tar:
        for index in indices:
            meta = json.dumps({"text": f"words {index}", "duration": 5.0}).encode()
            for suffix, content in (("flac", data(index)), ("json", meta)):
                info = tarfile.TarInfo(f"{index:07d}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


if __name__ == "__main__":
    main()
