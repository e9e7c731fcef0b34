"""Tests for unusual but valid tars, Parquet files and web servers, and for unreadable ones."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests import audio
from manifests.errors import UserError
from tests.manifests.corpus.test_tars import flac, read, write_tar
from tests.manifests.web_folder import Ranged, Whole, serve


def link(kind: bytes, name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def write_linked(path: Path, *links: tarfile.TarInfo) -> Path:
    """Writes a tar with `a/0.flac`, the links, and a text for `a/1`."""
    with tarfile.open(path, "w") as tar:
        for name, data in (("a/0.flac", flac(0)), (None, b""), ("a/1.txt", b"one")):
            if name is None:
                for info in links:
                    tar.addfile(info)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("kind", "target"), [(tarfile.LNKTYPE, "a/0.flac"), (tarfile.SYMTYPE, "../a/0.flac")]
)
def test_links_in_a_tar_are_resolved(tmp_path: Path, kind: bytes, target: str):
    first, second = read(write_linked(tmp_path / "a.tar", link(kind, "a/1.flac", target)))
    assert (second.clip_id, second.text) == ("a/1", "one")
    assert audio.decode(first).digest == audio.decode(second).digest
    with pytest.raises(UserError, match=r"is a link to gone\.flac, which is not a file in the tar"):
        read(write_linked(tmp_path / "b.tar", link(kind, "a/1.flac", "gone.flac")))


def test_names_of_members_and_tars_are_case_insensitive_and_checked(tmp_path: Path):
    (clip,) = read(write_tar(tmp_path / "A.TAR", ("X.FLAC", flac(0)), ("X.TXT", b"hi")))
    assert (clip.clip_id, clip.text) == ("X", "hi")
    with pytest.raises(UserError, match=r"key ends at the first dot .*rename utt\.001\.flac"):
        read(write_tar(tmp_path / "b.tar", ("u.1.flac", flac(0)), ("u.2.flac", flac(1))))
    with pytest.raises(UserError, match=r"the member .json cannot be read .*surrogates"):
        read(write_tar(tmp_path / "c.tar", ("0.flac", flac(0)), ("0.json", b'["\\ud83d"]')))
    with pytest.raises(UserError, match=r"patterns are written as \{000..012\}"):
        read(tmp_path / "x-*.tar")


@pytest.mark.parametrize("suffix", ["tar", "parquet"])
def test_folder_with_nested_files_only_raises_an_error(tmp_path: Path, suffix: str):
    (tmp_path / "set" / "train").mkdir(parents=True)
    (tmp_path / "set" / "train" / f"0.{suffix}").write_bytes(b"x")
    with pytest.raises(UserError, match=f"{suffix} files in folders within it; give a folder"):
        read(tmp_path / "set")


@pytest.mark.parametrize(
    "kind",
    [pa.binary(), pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int32(), pa.binary())],
)
def test_audio_bytes_are_read_from_any_arrow_layout(tmp_path: Path, kind: pa.DataType):
    column = pa.array([flac(0), flac(1)])
    column = (
        column.dictionary_encode() if isinstance(kind, pa.DictionaryType) else column.cast(kind)
    )
    pq.write_table(pa.table({"audio": column}), tmp_path / "A.PARQUET")
    clips = read(tmp_path)
    assert [clip.estimated_duration for clip in clips] == [0.1, 0.1]
    assert [audio.decode(clip).seconds for clip in clips] == [0.1, 0.1]


class RedirectingServer(Ranged):
    """A server that redirects /old/ to its root."""

    def do_GET(self) -> None:
        """Answers a request for /old/ with a redirect."""
        if not self.path.startswith("/old/"):
            return super().do_GET()
        self.send_response(307)
        self.send_header("Location", self.path.removeprefix("/old"))
        self.send_header("Content-Length", "0")
        return self.end_headers()


def test_server_without_ranges_is_rejected_and_redirects_are_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    write_tar(tmp_path / "a-0.tar", ("0.flac", flac(0)))
    with (
        serve(tmp_path, Whole) as address,
        pytest.raises(UserError, match="ignores ranges"),
    ):
        read(f"{address}/a-{{0..0}}.tar")
    with serve(tmp_path, RedirectingServer) as address:
        (clip,) = read(f"{address}/old/a-{{0..0}}.tar")
        assert audio.decode(clip).seconds == 0.1
