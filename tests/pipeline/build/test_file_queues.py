"""Tests that clips of one file stay together: in blocks, in order, and on one worker."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import soundfile

from manifests.clips import Clip
from manifests.corpus import corpus as corpora
from pipeline.build.messages import cut
from tests.pipeline.build.test_scheduler import InProcessBuild, failures
from tests.pipeline.in_process import Process, ProcessDies


def make_clip(file: str, index: int, seconds: float = 2.0) -> Clip:
    return Clip(clip_id=f"{file}-{index}", uri=f"/{file}.wav", offset=2.0 * index, duration=seconds)


def test_blocks_contain_clips_of_one_file_in_order():
    long_clips = [make_clip("long", index, 1.0 + index % 3 / 4) for index in (3, 0, 4, 1, 2)]
    pair = [make_clip("pair", index) for index in (1, 0)]
    singles = [Clip(clip_id=str(n), uri=f"/{n}.wav", duration=float(n)) for n in (1, 9, 5)]
    rows = [
        Clip(clip_id=f"r{n}", uri=f"/a.parquet#row_group={n // 3}&row={n % 3}&column=audio")
        for n in range(6)
    ]
    blocks = cut(
        [singles[0], *long_clips, *pair, *singles[1:], *rows], max_clips=2, max_seconds=100
    )
    ids = [[clip.clip_id for clip in block] for block in blocks]
    assert ids[:3] == [["long-0", "long-1"], ["long-2", "long-3"], ["long-4"]]
    assert ids[3:7] == [["r0", "r1"], ["r2"], ["r3", "r4"], ["r5"]]
    assert ids[7:] == [["9", "5"], ["pair-0", "pair-1"], ["1"]]
    assert sorted(chain.from_iterable(ids)) == sorted(
        c.clip_id for c in [*long_clips, *pair, *singles, *rows]
    )


def test_each_file_is_decoded_in_order_by_one_worker_at_a_time(tmp_path: Path):
    clips = []
    for file in range(3):
        path = tmp_path / f"{file}.wav"
        soundfile.write(path, np.random.default_rng(file).normal(0, 0.1, 16000 * 12), 16000)
        clips += [
            Clip(clip_id=f"{file}-{index:02d}", uri=str(path), offset=float(index), duration=1.0)
            for index in range(12)
        ]
    corpus = corpora.build(clips, tmp_path / "corpus")
    decoded: list[tuple[Process, list[str]]] = []
    killed: list[Process] = []

    def fault(process: Process, method: str, arguments: tuple) -> None:
        if method != "decode":
            return
        block = [clip.clip_id for clip in arguments[0]]
        if block[0].startswith("1-04") and not killed:
            killed.append(process)
            raise ProcessDies("killed")
        decoded.append((process, block))

    InProcessBuild(corpus, tmp_path / "cache", fault, nodes={"a": {"CPU": 3}}).go()
    assert not failures(tmp_path / "cache")
    assert killed
    for file in range(3):
        from_file = [(process, ids) for process, ids in decoded if ids[0].startswith(f"{file}-")]
        order = [clip_id for _, ids in from_file for clip_id in ids]
        assert order == sorted(set(order))
        assert len({id(process) for process, _ in from_file}) == (2 if file == 1 else 1)
