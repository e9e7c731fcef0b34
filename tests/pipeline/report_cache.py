"""A small cache with everything that the report checks, written without any model.

Clip 0 has sound, words, notes and events from 1.0 to 1.5 s of its 2.0 s, so all its tracks must
begin and end at these times. Others are silent, clipped, misheard, missing or failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from manifests import audio
from manifests.cache import shards
from manifests.cache.encoded_frames import encode
from manifests.cache.layout import Layout
from manifests.cache.shards import AUDIO_WARNINGS, Failure, Row
from manifests.cache.stream_sums import Sums
from manifests.clips import Clip
from manifests.corpus.corpus import Corpus, build
from manifests.streams.specs import StreamSpec, TeacherSpec

RATE = 16_000
SECONDS = 2.0
ON, OFF = 1.0, 1.5
"""Start and end of the sound in clip 0, in seconds."""
FOREIGN = "</script><script>window.foreign = 1</script><b>bold</b>"
"""A text with markup that pages must show as text."""
KEYS = tuple(f"midi {key}" for key in range(21, 109))
MOOD = ("Loudness_sma3", "jitterLocal_sma3nz")
CLASSES = ("Speech", "Dog", "Siren")


def teacher(name: str, *streams: StreamSpec) -> TeacherSpec:
    """Returns the spec of a fictitious teacher."""
    return TeacherSpec(
        name=name, family=f"tests:{name}", revision=1, settings={}, weights={}, sample_rate=RATE,
        streams=streams, license="none", created=f"2026-01-01T00:00:0{len(name) % 10}+00:00",
    )  # fmt: skip


def stream(name: str, kind: Any, dim: int, hop: float, codec: Any, *names: str) -> StreamSpec:
    """Returns the spec of a stream with adjacent frames from 0 s on."""
    return StreamSpec(
        name=name, kind=kind, dim=dim, start_s=hop / 2, hop_s=hop, window_s=hop, codec=codec,
        names=names,
    )  # fmt: skip


TEACHERS = (
    teacher("asr", stream("encoder", "features", 20, 0.02, "int8")),
    teacher("pitch", stream("f0", "curve", 2, 0.01, "fp16", "f0", "voicing")),
    teacher("sounds", stream("events", "multilabel", 3, 0.1, "uint8", *CLASSES)),
    teacher("music", stream("notes", "multilabel", 88, 0.02, "uint8", *KEYS)),
    teacher("mood", stream("lld", "features", 2, 0.01, "int8", *MOOD)),
    teacher(
        "stranger",
        stream("bins", "distribution", 70, 0.05, "fp16"),
        stream("level", "curve", 1, 0.01, "fp16"),
    ),
)  # fmt: skip


def frames(spec: StreamSpec, loud: np.ndarray) -> np.ndarray:
    """Returns frames that are non-zero where `loud`, with a value for each 10 ms, is 1."""
    step = round(spec.hop_s / 0.01)
    on_T = loud[: len(loud) // step * step].reshape(-1, step).mean(1) > 0.5
    values_TD = np.zeros((len(on_T), spec.dim), np.float32)
    if spec.name == "f0":
        values_TD[on_T] = (220.0, 1.0)
    elif spec.name == "notes":
        values_TD[on_T, 60 - 21] = 0.9
    else:
        values_TD[on_T] = np.linspace(1.0, 0.7, spec.dim)
    return values_TD


def metadata(name: str, clip: Clip, loud: bool) -> dict[str, Any]:
    """Returns the words or notes of a teacher."""
    if name == "asr":
        text = clip.labels.get("transcript", clip.text or "")
        words = [[text, ON, OFF]] if text and loud else []
        return {"text": text, "words": words, "language": "en"}
    if name == "music":
        return {"notes": [[ON, OFF, 60, 0.9]] if loud else []}
    return {}


def make_clips(folder: Path, count: int) -> list[Clip]:
    """Writes the clips: 1 silent, 2 clipped, 3 with a wrong transcript, 4 without a file."""
    folder.mkdir(parents=True)
    clips = []
    time = np.arange(int(RATE * SECONDS)) / RATE
    burst = (time >= ON) & (time < OFF)
    for index in range(count):
        samples = np.sin(2 * np.pi * (220 + 10 * index) * time) * burst * 0.5
        if index == 1:
            samples *= 0
        if index == 2:
            samples = (samples * 8).clip(-1, 1)
        path = folder / f"{index:03d}.wav"
        if index != 4:
            soundfile.write(path, samples, RATE, subtype="FLOAT")
        labels: dict[str, Any] = {
            "kind": "speech" if index % 2 else "tone",
            "language": "en",
            "place": index,
        }
        text = {0: "tone", 3: "good morning", 5: FOREIGN}.get(index)
        if index == 3:
            labels["transcript"] = "something else entirely"
        name = f"clip{index:03d}"
        clips.append(Clip(clip_id=name, uri=str(path), duration=SECONDS, text=text, labels=labels))
    return clips


def make_cache(root: Path, *, count: int = 24, failures: bool = True) -> Path:
    """Writes a cache; with failures, `music` fails on clip 6 and `mood` lacks the last shard."""
    corpus = build(make_clips(root / "audio", count), root / "things", clips_per_shard=8)
    layout = Layout.create(root / "cache")
    layout.register(corpus)
    for spec in TEACHERS:
        layout.add_teacher(spec)
        for number in range(corpus.num_shards):
            if failures and spec.name == "mood" and number == corpus.num_shards - 1:
                continue
            failed = {"clip006": "the model failed"} if failures and spec.name == "music" else {}
            write_shard(layout, spec, corpus, number, failed)
    return root / "cache"


def write_shard(
    layout: Layout, spec: TeacherSpec, corpus: Corpus, number: int, failed: Mapping[str, str]
) -> None:
    """Writes one shard of one teacher."""
    rows, failures = [], []
    sums = {item.name: Sums.zero(item.dim) for item in spec.streams}
    clips = corpus.shard(number)
    for clip in clips:
        if clip.clip_id in failed:
            message = failed[clip.clip_id]
            failures.append(
                Failure(clip_id=clip.clip_id, stage="extract", error="expert", message=message)
            )
            continue
        wave = audio.decode(clip) if Path(clip.uri).exists() else None
        digest = wave.digest if wave else "gone"
        warned = {AUDIO_WARNINGS: [item.kind for item in wave.warnings]} if wave else {}
        loud = np.zeros(int(SECONDS * 100))
        loud[int(ON * 100) : int(OFF * 100)] = clip.clip_id != "clip001"
        encoded = {}
        for item in spec.streams:
            values_TD = frames(item, loud)
            encoded[item.name] = encode(values_TD, item)
            sums[item.name].add(Sums.from_frames(values_TD, encoded[item.name]))
        rows.append(
            Row(
                clip_id=clip.clip_id,
                duration=SECONDS,
                audio_digest=digest,
                metadata=metadata(spec.name, clip, bool(loud.any())) | warned,
                frames=encoded,
            )
        )
    shards.write(
        layout.shards(spec, corpus.name),
        spec,
        shard=number,
        clip_ids=[clip.clip_id for clip in clips],
        rows=rows,
        failures=failures,
        sums=sums,
        extract_seconds=0.5,
        finished=f"2026-01-01T00:{number:02d}:00+00:00",
    )
