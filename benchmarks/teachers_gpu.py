"""Throughput of the hub families on a GPU, at true sizes with random weights.

    python -m benchmarks.teachers_gpu [--only whisper,ast] [--seconds 30] [--batches 120,600,2400]

For each family and batch size: audio seconds per second, peak memory, and the share of the time in
which the GPU works (kernel time of torch's profiler over wall time; the rest is decoding and
log-mels on the CPU, which in a build belong to other processes, and Python). Random weights cost
what real ones do; Whisper writes nothing (`transcribe: false`), since random words never end.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.table import Table

from benchmarks.hardware import describe
from teachers import registry

HALF = {"dtype": "float16"}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
         "intermediate_size": 4096, "feat_extract_norm": "layer",
         "do_stable_layer_norm": True}  # fmt: skip
LARGE_V3 = {
    "d_model": 1280, "encoder_layers": 32, "decoder_layers": 32, "encoder_attention_heads": 20,
    "decoder_attention_heads": 20, "encoder_ffn_dim": 5120, "decoder_ffn_dim": 5120,
    "num_mel_bins": 128, "vocab_size": 51866,
}  # fmt: skip


def makers() -> dict[str, tuple[Callable[[], Any], Any, str, dict[str, Any]]]:
    """Name -> model, feature extractor, family, settings."""
    hugging = transformers
    return {
        "whisper": (
            lambda: hugging.WhisperForConditionalGeneration(hugging.WhisperConfig(**LARGE_V3)),
            hugging.WhisperFeatureExtractor(feature_size=128), "whisper",
            {**HALF, "transcribe": False},
        ),
        "hubert": (
            lambda: hugging.HubertForSequenceClassification(
                hugging.HubertConfig(**LARGE, num_labels=4)),
            hugging.Wav2Vec2FeatureExtractor(), "audio_classifier", HALF,
        ),
        "ast": (
            lambda: hugging.ASTForAudioClassification(hugging.ASTConfig(num_labels=527)),
            hugging.ASTFeatureExtractor(), "audio_classifier", {**HALF, "scores": "sigmoid"},
        ),
        "clap": (
            lambda: hugging.ClapModel(hugging.ClapConfig()),
            hugging.ClapFeatureExtractor(truncation="rand_trunc"), "clap", HALF,
        ),
        "mert": (
            lambda: hugging.HubertModel(hugging.HubertConfig()),
            hugging.Wav2Vec2FeatureExtractor(sampling_rate=24_000), "mert", HALF,
        ),
    }  # fmt: skip


def measured(
    family: str, settings: dict[str, Any], seconds: float, clips: int
) -> tuple[float, float, float]:
    """x real time, peak GiB, and the GPU's busy share."""
    teacher = registry.make("t", family, settings)
    teacher.load(device="cuda", num_threads=torch.get_num_threads())
    rate = teacher.spec().sample_rate
    rng = np.random.default_rng(0)
    waves = [rng.normal(scale=0.1, size=int(seconds * rate)).astype(np.float32)
             for _ in range(clips)]  # fmt: skip
    teacher.extract(waves)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    teacher.extract(waves)
    torch.cuda.synchronize()
    speed = clips * seconds / (time.perf_counter() - began)
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        began = time.perf_counter()
        teacher.extract(waves)
        torch.cuda.synchronize()
        wall_s = time.perf_counter() - began
    busy_s = sum(event.self_device_time_total for event in profile.key_averages()) / 1e6
    return speed, torch.cuda.max_memory_allocated() / 2**30, busy_s / wall_s


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Throughput of the hub families on a GPU.")
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each clip")
    parser.add_argument("--clips", type=int, default=256, help="clips per run")
    parser.add_argument("--batches", default="120,600,2400", help="batch_seconds to try")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("teachers_gpu: error: no GPU here")
    transformers.logging.set_verbosity_error()
    shown = Table("family", title=f"{options.clips} clips of {options.seconds:g} s")
    for heading in ("batch s", "x real time", "peak GiB", "GPU busy"):
        shown.add_column(heading, justify="right")
    with tempfile.TemporaryDirectory() as base:
        runs = {"crepe, full": ("crepe", {"model": "full", "half": True, "batch_frames": 8192})}
        for name, (model, extractor, family, settings) in makers().items():
            if not options.only or name in options.only.split(","):
                folder = Path(base) / name
                model().half().save_pretrained(folder)
                extractor.save_pretrained(folder)
                runs[name] = (family, {"model": str(folder), **settings})
        for name, (family, settings) in runs.items():
            sizes = [None] if family == "crepe" else map(float, options.batches.split(","))
            for size in sizes:
                knob = {} if size is None else {"batch_seconds": size}
                speed, peak, busy = measured(
                    family, {**settings, **knob}, options.seconds, options.clips
                )
                shown.add_row(
                    name, "-" if size is None else f"{size:g}", f"{speed:,.0f}", f"{peak:.1f}",
                    f"{busy:.2f}",
                )  # fmt: skip
    console = Console(highlight=False, width=100)
    console.print(shown)
    console.print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; {describe()}")


if __name__ == "__main__":
    main()
