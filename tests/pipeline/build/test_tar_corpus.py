"""A corpus of tars goes through kills, resuming and growth as one of files does."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from manifests.cache.reader import CacheReader
from manifests.corpus import corpus as corpora
from manifests.corpus.corpus import Corpus
from manifests.corpus.sources import detect
from manifests.storage import Folder
from tests.pipeline.build.test_scheduler import Run, failures
from tests.pipeline.conftest import MakeCorpus
from tests.pipeline.in_process import Process, ProcessDies


def pack(files: Corpus, folder: Path, first: int, last: int) -> None:
    """Packs clips of a corpus of files into one tar."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / f"{first:03d}.tar", "w") as tar:
        for clip in list(files.clips())[first:last]:
            tar.add(clip.uri, arcname=f"{clip.clip_id}.wav")


def build(tars: Path, out: Path) -> Corpus:
    return corpora.build(detect.clips(str(tars), Folder(out / "audio")), out, clips_per_shard=4)


def rows(cache: Path) -> dict[str, bytes]:
    stream = CacheReader(cache).stream("energy.bands")
    return {clip_id: bytes(frames.blob) for clip_id, frames in stream}


def test_kills_and_growth_give_what_files_give(make_corpus: MakeCorpus, tmp_path: Path):
    files = make_corpus(12)
    Run(files, tmp_path / "calm").go()
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
        Run(build(tars, out), tmp_path / "cache", fault).go()
    Run(build(tars, out), tmp_path / "cache").go()
    pack(files, tars, 8, 12)
    grown = build(tars, out)
    assert grown.num_clips == 12
    Run(grown, tmp_path / "cache").go()
    assert not failures(tmp_path / "cache")
    assert rows(tmp_path / "cache") == rows(tmp_path / "calm")
