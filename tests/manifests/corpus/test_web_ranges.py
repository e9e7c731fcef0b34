"""Tests clips that are parts of a file on a web server: refused if the server sends no parts."""

from __future__ import annotations

import json
import socketserver
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile

from manifests import audio, cli, web
from manifests.audio_address import split_address
from manifests.clips import Clip
from manifests.corpus import corpus
from manifests.corpus.sources import detect
from manifests.errors import AudioError, StoreError, UserError
from manifests.storage import Folder
from tests.manifests.corpus.test_tars import flac, write_tar
from tests.manifests.reference_audio import noise
from tests.manifests.web_folder import Ranged, Whole, serve


class Counted(Whole):
    """A server that ignores ranges, and counts requests and the bytes that it could send."""

    requests: ClassVar[list[str]] = []
    sent: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        """Sends a file in pieces, until the client goes away."""
        path = Path(self.translate_path(self.path))
        self.requests.append(self.path)
        if not path.is_file():
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(path.stat().st_size))
        self.send_header("ETag", '"1"')
        self.end_headers()
        data = path.read_bytes()
        for start in range(0, len(data), 1 << 16):
            try:
                self.wfile.write(data[start : start + (1 << 16)])
            except OSError:
                self.close_connection = True
                return None
            self.sent.append(1 << 16)
        return None


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server without ranges, which has a tar of 40 MB and its clips' parts in a manifest."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "set").mkdir()
    members = [(f"{n}.flac", flac(n)) for n in range(5)] + [("pad.bin", bytes(40 << 20))]
    tar = write_tar(tmp_path / "set/a.tar", *members)
    clips = list(detect.clips(str(tar), Folder("/nowhere")))
    monkeypatch.setattr(socketserver.BaseServer, "handle_error", lambda *_: None)
    Counted.requests.clear()
    Counted.sent.clear()
    with serve(tmp_path / "set", Counted) as served:
        for name, more in (("stated", {"duration": 0.05}), ("unknown", {})):
            parts = [clip.uri.rpartition("#")[2] for clip in clips]
            rows = [{"audio_filepath": f"{served}/a.tar#{part}", **more} for part in parts]
            (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        yield served


@pytest.mark.parametrize("name", ["stated", "unknown"])
def test_build_ends_after_one_request(tmp_path: Path, address: str, name: str) -> None:
    with pytest.raises(UserError, match=r"a\.tar: the web server ignores ranges of bytes, so"):
        cli.build(str(tmp_path / f"{name}.jsonl"), str(tmp_path / "corpus"))
    assert len(Counted.requests) == 1
    assert sum(Counted.sent) < 8 << 20, "and not the file's 40 MB"
    assert not (tmp_path / "corpus").exists()


def test_clips_of_an_older_corpus_load_no_whole_file(tmp_path: Path, address: str) -> None:
    """A corpus may be older than the check, or the server may have changed."""
    for line in (tmp_path / "stated.jsonl").read_text().splitlines():
        clip = Clip(clip_id="a", uri=json.loads(line)["audio_filepath"])
        with pytest.raises(AudioError, match="ignores ranges"):
            audio.decode(clip)
    assert sum(Counted.sent) < 10 * 8 << 20


def test_whole_files_are_fetched_once_each(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        soundfile.write(tmp_path / f"set/{number}.wav", noise(60.0, seed=number), 16_000)
    rows = [
        {"audio_filepath": f"{address}/{number}.wav", "offset": 20.0 * part, "duration": 20.0}
        for number in range(3)
        for part in range(3)
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    cli.build(str(tmp_path / "m.jsonl"), str(tmp_path / "corpus"))
    read, right = [], web._request

    def request(url: str, asked: tuple[int, int] | None) -> tuple[Any, bytes]:
        answer, data = right(url, asked)
        read.append(len(data))
        return answer, data

    monkeypatch.setattr(web, "_request", request)
    for clip in corpus.Corpus(tmp_path / "corpus").clips():
        number = int(Path(clip.uri).stem)
        expected, _ = soundfile.read(tmp_path / f"set/{number}.wav", dtype="float32")
        start = round(clip.offset * 16_000)
        assert np.array_equal(audio.decode(clip).samples, expected[start : start + 320_000])
    size = (tmp_path / "set/0.wav").stat().st_size
    assert 3 * size <= sum(read) < 3.2 * size


def test_lengths_are_read_from_whole_files(tmp_path: Path, address: str) -> None:
    soundfile.write(tmp_path / "set/long.wav", noise(200.0), 16_000)
    soundfile.write(tmp_path / "set/long.ogg", noise(20.0), 16_000)
    rows = [{"audio_filepath": f"{address}/long.{suffix}"} for suffix in ("wav", "ogg")]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    clips = list(detect.clips(str(tmp_path / "m.jsonl"), Folder("/nowhere")))
    assert [clip.estimated_duration for clip in clips] == [200.0, 20.0]


def test_ranges_are_checked_once_for_each_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for number in range(2):
        write_tar(tmp_path / f"{number}.tar", *((f"{number}{n}.flac", flac(n)) for n in range(4)))
    checked, right = [], web.ignores_ranges
    monkeypatch.setattr(web, "ignores_ranges", lambda url: checked.append(url) or right(url))
    with serve(tmp_path, Ranged) as served:
        local = [
            clip for n in range(2) for clip in detect.clips(f"{tmp_path}/{n}.tar", Folder("/"))
        ]
        rows = [
            {"audio_filepath": f"{served}/{Path(clip.uri).name}", "duration": 0.1} for clip in local
        ]
        (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
        monkeypatch.setattr("manifests.corpus.lengths.BATCH", 3)
        clips = list(detect.clips(str(tmp_path / "m.jsonl"), Folder("/nowhere")))
        assert sorted(checked) == sorted({split_address(clip.uri)[0] for clip in clips})
        assert audio.decode(clips[-1]).digest == audio.decode(local[-1]).digest
        (tmp_path / "1.tar").unlink()
        assert len(list(detect.clips(str(tmp_path / "m.jsonl"), Folder("/nowhere")))) == 8


def test_server_without_a_size_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = web.Answer(b"x", None, "", False)
    monkeypatch.setattr(web, "get", lambda *_: answer)
    with pytest.raises(StoreError, match="does not state the size"):
        web.WebHandler("http").open_input_file("host/a.tar")
