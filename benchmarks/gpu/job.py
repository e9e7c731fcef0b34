"""Measures a whole build with GPU workers: audio hours per hour, and utilisation of the GPU.

Synthetic recordings of 30 s in FLAC go through `coat-cache build` with GPU workers, for an expert
of features (Whisper large-v3's size), one of pitch, and both on one GPU. Goal: the GPU is busy
0.9 of the time between the first block and the last. Needs Ray.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml

from benchmarks.gpu.experts import experts, save_checkpoint
from benchmarks.gpu.record import Record, half

BIN = Path(sys.executable).parent
CLIP_S = 30.0
HOURS, TOY_HOURS = 4.0, 0.02
DISTINCT = 64
"""Number of different recordings, which the corpus repeats under other names."""


def run(record: Record, *, toy: bool) -> None:
    """Builds once."""
    if importlib.util.find_spec("ray") is None:
        print("job: Ray is not installed here, so no build can run: pip install ray", flush=True)
        return
    for names in (["whisper large-v3"], ["crepe, full"], ["whisper large-v3", "crepe, full"]):
        record.measure({"experts": " + ".join(names)}, lambda: _build(names, toy=toy))  # noqa: B023
    record.finish(f"coat-cache build, clips of {CLIP_S:g} s")


def _build(names: list[str], *, toy: bool) -> dict[str, Any]:
    hours = TOY_HOURS if toy else HOURS
    has_gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base)
        manifest = _recordings(folder / "source", hours)
        _call("coat-corpus", "build", manifest, "--out", folder / "corpus",
              "--clips-per-shard", "2" if toy else "64")  # fmt: skip
        teachers: dict[str, Any] = {}
        for number, name in enumerate(names):
            expert = experts(toy=toy)[name]
            settings = save_checkpoint(
                expert, folder / f"expert{number}", half=half() if has_gpu else None
            )
            resources = {"num_gpus": 1 / len(names)} if has_gpu else {}
            teachers[f"expert{number}"] = {
                "family": expert.family, "settings": settings, "resources": resources
            }  # fmt: skip
        config = {"teachers": ",".join(teachers), "teacher": teachers}
        (folder / "build.yaml").write_text(yaml.safe_dump(config))
        busy: list[float] = []
        stopped = threading.Event()
        sampler = threading.Thread(target=_sample, args=(busy, stopped), daemon=True)
        sampler.start()
        start_s = time.monotonic()
        _call("coat-cache", "build", "--config", folder / "build.yaml", "--corpus",
              folder / "corpus", "--cache", folder / "cache")  # fmt: skip
        took_s = time.monotonic() - start_s
        stopped.set()
        megabytes = sum(file.stat().st_size for file in (folder / "cache").rglob("*.parquet")) / 1e6
    result: dict[str, Any] = {
        "audio hours": hours,
        "seconds, start included": took_s,
        "audio hours per hour": hours * 3600 / took_s,
        "MB": megabytes,
        "cores": len(os.sched_getaffinity(0)),
    }
    working = [value for value in busy if value > 0]
    if working:
        first = busy.index(working[0])
        last = len(busy) - busy[::-1].index(working[-1])
        result["GPU busy"] = float(np.mean(busy[first:last]))
    return result


def _recordings(folder: Path, hours: float) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    count = max(int(hours * 3600 / CLIP_S), 2)
    times = np.arange(int(16_000 * CLIP_S)) / 16_000
    for number in range(min(count, DISTINCT)):
        tone = np.sin(2 * np.pi * rng.uniform(100, 800) * times)
        noise = rng.normal(scale=0.05, size=len(times))
        soundfile.write(folder / f"{number}.flac", 0.3 * tone + noise, 16_000)
    rows = [{"id": f"clip{number}", "duration": CLIP_S,
             "audio_filepath": str((folder / f"{number % DISTINCT}.flac").absolute())}
            for number in range(count)]  # fmt: skip
    manifest = folder / "clips.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def _call(*command: str | Path) -> None:
    words = [str(word) for word in command]
    done = subprocess.run([str(BIN / words[0]), *words[1:]], check=False, capture_output=True,
                          text=True)  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(words[:2])}: {(done.stderr or done.stdout).strip()[-200:]}")


def _sample(busy: list[float], stopped: threading.Event) -> None:
    """Samples the share of each half second in which a kernel ran, according to the driver."""
    program = shutil.which("nvidia-smi")
    while program and not stopped.wait(0.5):
        command = [
            program,
            "--query-gpu=utilization.gpu",
            "--format=csv,noheader,nounits",
            "-i",
            "0",
        ]
        output = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        if output.isdigit():
            busy.append(int(output) / 100)
