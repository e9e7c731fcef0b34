"""Tests that a killed build of a corpus resumes without reading finished files again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests import audio, cli
from manifests.corpus import corpus, segment
from manifests.corpus.build_folder import open_build
from manifests.corpus.source_index import FOLDER, MOST_FILES, SourceIndex, number_key
from manifests.corpus.sources import detect, parquet, tar_index
from manifests.errors import UserError
from manifests.storage import Folder
from tests.manifests.corpus.test_tars import flac, write_tar
from tests.manifests.reference_audio import write_reference
from tests.manifests.web_folder import Ranged, serve

COMMAND = Path(sys.executable).with_name("coat-corpus")
UNGATED_FILES = 12
"""Number of files that the server sends before it delays its answers."""


class GatedServer(Ranged):
    """Counts the requests for more than one byte, and delays those for the last files."""

    gate_opened = threading.Event()
    reads: Counter[str]

    def do_GET(self) -> None:
        """Answers a request once the gate is open."""
        name = self.path.rpartition("/")[2]
        if self.headers.get("Range") != "bytes=0-0":
            self.reads[name] += 1
            if int(name[:2]) >= UNGATED_FILES:
                self.gate_opened.wait()
        super().do_GET()


def start_build(source: str, out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([COMMAND, "build", source, "--out", out])


def count_index_rows(out: Path) -> int:
    """Counts the tars and durations in the index of a corpus."""
    return sum(pq.read_metadata(file).num_rows for file in out.glob(f"{FOLDER}/*.parquet"))


def make_tars(folder: Path, address: str) -> str:
    for n in range(20):
        members = [(f"{n:02d}{k}.flac", flac(n)) for k in range(3)]
        notes = [(f"{n:02d}{k}.json", b'{"duration": 0.1}') for k in range(3)]
        write_tar(folder / f"{n:02d}.tar", *sorted(members + notes))
    return f"{address}/{{00..19}}.tar"


def make_manifest(folder: Path, address: str) -> str:
    for n in range(20):
        write_reference(folder / f"{n:02d}.wav", 0.2 + n / 100)
    rows = [{"audio_filepath": f"{address}/{n:02d}.wav"} for n in range(20)]
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder / "m.jsonl")


@pytest.mark.parametrize("make", [make_tars, make_manifest])
def test_killed_build_resumes_at_the_first_unread_file(
    tmp_path: Path, make: Callable[[Path, str], str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    out, server = tmp_path / "corpus", type("Server", (GatedServer,), {"reads": Counter()})
    server.gate_opened.clear()
    (tmp_path / "set").mkdir()
    with serve(tmp_path / "set", server) as address:
        source = make(tmp_path / "set", address)
        first = start_build(source, out)
        deadline = time.monotonic() + 240
        while count_index_rows(out) < UNGATED_FILES:
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL
        assert not (out / "corpus.json").exists()
        assert count_index_rows(out) == UNGATED_FILES

        (out / ".tmp-clips-00000.parquet-dead").write_bytes(b"half")
        (out / "clips-00007.parquet").write_bytes(b"left by a killed build")
        changed = next(iter(sorted((tmp_path / "set").glob("03.*"))))
        changed.write_bytes((tmp_path / "set" / f"04{changed.suffix}").read_bytes())
        changed.with_name(f"04{changed.suffix}").write_bytes(changed.read_bytes() + bytes(512))
        if make is make_tars:
            write_tar(changed, ("03a.flac", flac(99)))
        server.reads.clear()
        server.gate_opened.set()
        assert start_build(source, out).wait() == 0
        read = {int(name[:2]) for name in server.reads}
        assert read == {3, 4, *range(UNGATED_FILES, 20)}

        uninterrupted = list(detect.clips(source, Folder(tmp_path / "audio")))
    assert list(corpus.Corpus(out).clips()) == uninterrupted
    assert not list(out.glob(".*"))
    assert not (out / "clips-00007.parquet").exists()


def record_calls(monkeypatch: pytest.MonkeyPatch, module: object, name: str) -> list[tuple]:
    """Wraps a function of a module and returns the list of its calls' arguments."""
    calls, original = [], getattr(module, name)

    def call(*given: object, **more: object) -> object:
        calls.append(given)
        return original(*given, **more)

    monkeypatch.setattr(module, name, call)
    return calls


def test_growing_a_corpus_reads_only_new_tars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    read = record_calls(monkeypatch, tar_index, "_read")
    out = tmp_path / "corpus"
    for count in range(1, MOST_FILES + 4):
        write_tar(tmp_path / f"set/{count:02d}.tar", (f"{count}.flac", flac(count)))
        cli.build(str(tmp_path / "set"), str(out))
        assert [Path(uri).stem for uri, _ in read] == [f"{count:02d}"]
        read.clear()
    assert corpus.Corpus(out).num_clips == count
    assert len(list((out / FOLDER).iterdir())) <= 2 * MOST_FILES
    for file in (out / FOLDER).iterdir():
        file.write_bytes(b"damaged")
    cli.build(str(tmp_path / "set"), str(out))
    assert len(read) == count


def test_rebuilding_reads_audio_in_parquet_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    table = pa.table({"audio": [flac(n, 0.1 + n / 10) for n in range(6)], "text": list("abcdef")})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    read = record_calls(monkeypatch, parquet, "read_audio")
    for out in ("first", "first"):
        cli.build(str(tmp_path / "a.parquet"), str(tmp_path / out))
    assert len(read) == 3
    lengths = [clip.estimated_duration for clip in corpus.Corpus(tmp_path / "first").clips()]
    assert lengths == pytest.approx([0.1 + n / 10 for n in range(6)])


def test_resumed_segmentation_decodes_no_clip_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "set").mkdir()
    for n in range(3):
        write_reference(tmp_path / f"set/{n}.wav", 3.0)
    cli.build(str(tmp_path / "set"), str(tmp_path / "long"))
    decoded = record_calls(monkeypatch, audio, "decode")
    with monkeypatch.context() as killed:
        killed.setattr(segment, "_cut", interrupt_second_call(segment._cut))
        with pytest.raises(KeyboardInterrupt):
            cli.segment(str(tmp_path / "long"), str(tmp_path / "short"), max_seconds=2.0)
    assert len(decoded) > 2
    before = {clip.uri for (clip,) in decoded}
    decoded.clear()
    cli.segment(str(tmp_path / "long"), str(tmp_path / "short"), max_seconds=2.0)
    assert not before & {clip.uri for (clip,) in decoded}
    assert corpus.Corpus(tmp_path / "short").num_clips == 6


def interrupt_second_call(original: Callable) -> Callable:
    calls = []

    def cut(*given: object) -> object:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*given)

    return cut


def test_concurrent_builds_of_one_corpus_raise_an_error(tmp_path: Path):
    (tmp_path / "set").mkdir()
    write_reference(tmp_path / "set/a.wav", 0.2)
    with (
        open_build(Folder(tmp_path / "corpus")),
        pytest.raises(UserError, match="another build is writing"),
    ):
        cli.build(str(tmp_path / "set"), str(tmp_path / "corpus"))
    cli.build(str(tmp_path / "set"), str(tmp_path / "corpus"))


def test_source_index_returns_the_numbers_that_were_added(tmp_path: Path):
    with SourceIndex(Folder(tmp_path)) as index:
        for n in range(1000):
            index.add_numbers(number_key("length", f"{n}.wav", "1"), [n / 7] * (n % 4))
    with SourceIndex(Folder(tmp_path)) as index:
        for n in range(1000):
            assert index.numbers(number_key("length", f"{n}.wav", "1")) == [n / 7] * (n % 4)
        assert index.numbers(number_key("length", "0.wav", "2")) is None
