"""Tests for builds, audits and reports over a corpus of tars."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from manifests import cli as corpus_cli
from manifests.audio_address import ByteRange, split_address
from manifests.cache.reader import CacheReader
from manifests.corpus.corpus import Corpus
from pipeline import cli
from tests.pipeline.build.test_scheduler import InProcessBuild, failures
from tests.pipeline.conftest import MakeCorpus
from tests.pipeline.in_process import Process, ProcessDies
from tests.pipeline.report.test_report import report_data


def pack(files: Corpus, folder: Path, first: int, last: int) -> None:
    """Packs clips of a corpus of files into one tar."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / f"{first:03d}.tar", "w") as tar:
        for clip in list(files.clips())[first:last]:
            tar.add(clip.uri, arcname=f"{clip.clip_id}.wav")


def build(tars: Path, out: Path) -> Corpus:
    corpus_cli.build(str(tars), str(out), clips_per_shard=4)
    return Corpus(out)


def read_blobs(cache: Path) -> dict[str, bytes]:
    stream = CacheReader(cache).stream("energy.bands")
    return {clip_id: bytes(frames.blob) for clip_id, frames in stream}


def test_killed_and_grown_build_of_tars_equals_a_build_of_files(
    make_corpus: MakeCorpus, tmp_path: Path
):
    files = make_corpus(12)
    InProcessBuild(files, tmp_path / "undisturbed").go()
    tars, out = tmp_path / "tars", tmp_path / "packed" / "corpus"
    pack(files, tars, 0, 8)
    commits = 0

    def fault(process: Process, method: str, arguments: tuple) -> None:
        nonlocal commits
        commits += method == "commit"
        if commits == 2 and method == "commit":
            raise RuntimeError("the driver is killed")
        if method == "decode" and commits == 0:
            commits = 1
            raise ProcessDies("killed")

    with pytest.raises(RuntimeError):
        InProcessBuild(build(tars, out), tmp_path / "cache", fault).go()
    InProcessBuild(build(tars, out), tmp_path / "cache").go()
    pack(files, tars, 8, 12)
    grown = build(tars, out)
    assert grown.num_clips == 12
    InProcessBuild(grown, tmp_path / "cache").go()
    assert not failures(tmp_path / "cache")
    assert read_blobs(tmp_path / "cache") == read_blobs(tmp_path / "undisturbed")


def test_audit_and_report_read_clips_in_tars(
    make_corpus: MakeCorpus, tmp_path: Path, capsys: pytest.CaptureFixture
):
    tars, out, cache = tmp_path / "tars", tmp_path / "packed" / "corpus", tmp_path / "cache"
    pack(make_corpus(8), tars, 0, 8)
    corpus = build(tars, out)
    InProcessBuild(corpus, cache).go()
    audit = {"sample": 0, "trust_remote_code": True}
    assert cli.audit_cache(str(cache), **audit) == 0
    assert "8 of 8 rows equal" in capsys.readouterr().out
    reported = report_data(cache, tmp_path / "report")
    assert (reported["listened"], reported["unheard"]) == (8, [])
    assert [line["rows"] for line in reported["teachers"]] == [8]

    # The samples of one member are overwritten within the tar.
    file, part = split_address(corpus.clip(5).uri)
    assert isinstance(part, ByteRange)
    with Path(file).open("r+b") as tar:
        tar.seek(part.first + 100)
        tar.write(b"\x11" * 600)
    assert cli.audit_cache(str(cache), **audit) == 1
    output = capsys.readouterr().out
    assert "7 of 8 rows equal" in output
    assert corpus.clip(5).clip_id in output
    kinds = {
        (each["kind"], each["clip_id"]) for each in report_data(cache, tmp_path / "two")["findings"]
    }
    assert ("other audio", corpus.clip(5).clip_id) in kinds
