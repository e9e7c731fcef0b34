"""Measures speed and GPU utilisation of each expert, of its bare network and of a peer.

For each expert and batch size: audio seconds per second of `extract`, peak memory, the share of the
time in which the GPU works, watt-hours per audio hour; beside it the bare network in a loop over a
batch that is already on the card (the limit), and transformers' own pipeline (the usual
alternative), both in the same run.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.gpu.experts import Expert, experts, save_checkpoint
from benchmarks.gpu.record import Record, device, half, measure_seconds, synchronize
from teachers import registry

CLIP_S = 10.0
CLIPS = 256
BATCHES_S = (120.0, 600.0, 2400.0)


def run(record: Record, *, toy: bool) -> None:
    """Measures all experts."""
    transformers.logging.set_verbosity_error()
    clips, batches = (4, (20.0,)) if toy else (CLIPS, BATCHES_S)
    with tempfile.TemporaryDirectory() as base:
        for name, expert in experts(toy=toy).items():
            folder = Path(base) / name.replace(" ", "-")
            for batch_s in batches:
                record.measure(
                    {"expert": name, "batch_s": batch_s},
                    lambda: _extract(expert, folder, batch_s, clips),  # noqa: B023
                )
            if expert.make is not None and expert.network is not None:
                record.measure(
                    {"expert": name, "batch_s": "bare network"},
                    lambda: _bare(expert, folder, clips),  # noqa: B023
                )
        record.measure(
            {"expert": "ast", "batch_s": "transformers pipeline"},
            lambda: _pipeline(experts(toy=toy)["ast"], Path(base) / "ast", clips),
        )
    record.finish(f"{clips} clips of {CLIP_S:g} s, {half()}")


def sounds(count: int, rate: int, seconds: float = CLIP_S) -> list[np.ndarray]:
    """Returns noise."""
    rng = np.random.default_rng(0)
    return [rng.normal(scale=0.1, size=int(seconds * rate)).astype(np.float32)
            for _ in range(count)]  # fmt: skip


def _extract(expert: Expert, folder: Path, batch_s: float, clips: int) -> dict[str, Any]:
    settings = save_checkpoint(expert, folder, half=half())
    knob = {"batch_frames": int(batch_s * 100)} if expert.family == "crepe" else {
        "batch_seconds": batch_s
    }  # fmt: skip
    teacher = registry.make("t", expert.family, {**settings, **knob})
    teacher.load(device=device(), num_threads=torch.get_num_threads())
    waves = sounds(clips, teacher.spec().sample_rate)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    teacher.extract(waves[: max(clips // 8, 1)])
    with _watts() as watts:
        took_s = measure_seconds(lambda: teacher.extract(waves), 1)
    audio_s = clips * CLIP_S
    result: dict[str, Any] = {"x real time": audio_s / took_s}
    if torch.cuda.is_available():
        result |= {
            "peak GiB": torch.cuda.max_memory_allocated() / 2**30,
            "GPU busy": _busy(lambda: teacher.extract(waves)),
        }
    if watts:
        result["Wh per audio hour"] = float(np.mean(watts)) * took_s / audio_s
    return result


def _bare(expert: Expert, folder: Path, clips: int) -> dict[str, Any]:
    """Measures only the network, on inputs that are already on the device."""
    assert expert.make is not None
    assert expert.network is not None
    save_checkpoint(expert, folder, half=half())
    model, extractor = expert.make()
    model = model.to(device(), half()).eval()
    if hasattr(model, "get_encoder") and "Whisper" in type(model).__name__:
        model = model.get_encoder()
    network = expert.network(model)
    count = min(clips, 32)
    rate = extractor.sampling_rate
    inputs = extractor(sounds(count, rate), sampling_rate=rate, return_tensors="pt")
    tensors = {
        name: value.to(device(), half()) if value.is_floating_point() else value.to(device())
        for name, value in inputs.items()
        if name in ("input_features", "input_values")
    }

    @torch.inference_mode()
    def forward() -> None:
        network(**tensors)

    return {"x real time": count * CLIP_S / measure_seconds(forward, 3)}


def _pipeline(expert: Expert, folder: Path, clips: int) -> dict[str, Any]:
    """Measures transformers' pipeline, which classifies whole clips."""
    save_checkpoint(expert, folder, half=half())
    pipe = transformers.pipeline("audio-classification", model=str(folder), device=device(),
                                 dtype=half(), batch_size=16)  # fmt: skip
    waves = sounds(clips, 16_000)
    took_s = measure_seconds(lambda: list(pipe(waves)), 1)
    return {"x real time": clips * CLIP_S / took_s}


def _busy(work: Any) -> float:
    """Measures the share of the wall time in which a kernel runs."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        start_s = time.perf_counter()
        work()
        synchronize()
        wall_s = time.perf_counter() - start_s
    return sum(event.self_device_time_total for event in profile.key_averages()) / 1e6 / wall_s


@contextlib.contextmanager
def _watts() -> Iterator[list[float]]:
    """Samples the GPU's power during the context; empty if the driver does not report it."""
    samples: list[float] = []
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.1):
            try:
                samples.append(torch.cuda.power_draw() / 1000)
            except Exception:  # noqa: BLE001  (no driver, no pynvml)
                return

    thread = threading.Thread(target=sample, daemon=True)
    if torch.cuda.is_available():
        thread.start()
    try:
        yield samples
    finally:
        over.set()
