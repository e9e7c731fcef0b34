"""Measures CPU time around a GPU's network in stage 1, and the utilisation of a simulated GPU.

    python -m benchmarks.stage1_gpu_side [--only cpu,simulated] [--clips 120] [--seconds 30]

First table: processor time of one core around the network, per 30 s window of Whisper large-v3's
width (1500 x 1280 frames, stored as int8) and per second of audio of CREPE. "before" is the code of
commit 652e439, copied here; "after" is the current code. Their results are compared: frames, codes
and paths are bit-identical, sums agree to 1e-6. The current code averages the frames of a clip of
one window on the device (`teachers.toolkit.device.FramesCopy`), so that this takes no processor
time; the windows of longer clips are cross-faded and then averaged on the host.

Second table: `coat-cache build` on a local Ray cluster whose one GPU is simulated
(`benchmarks.simulated_gpu`): it sleeps for as long as an H100, or a share of one, needs for the
encoder's operations. "busy" is the network's share of the time from its first call to its last.
"series" runs the same without overlap. "core ms" is the processor time per window of all processes
of the build, between these two calls; "cores" is the number of cores that this makes at the rate at
which a whole H100 would take windows.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile
from rich.console import Console
from rich.table import Table

from benchmarks import simulated_gpu
from benchmarks.hardware import describe
from benchmarks.processor_time import ProcessorTime
from manifests.cache.encoded_frames import EncodedFrames, encode
from manifests.cache.stream_sums import Sums, encode_and_sum
from manifests.clips import Clip
from manifests.streams.specs import StreamSpec
from pipeline.build.worker import keep_freed_memory
from teachers.toolkit.pitch_path import GLIDE_BINS, GLIDE_COST, LEAP_COST, best_paths
from teachers.toolkit.windowing import pooled

# Legend: T frames, D columns, B pitch bins, M moves.

FRAMES, WIDTH = 1500, 1280
CACHED_PASSES = 10
"""Largest, smallest, difference from the mean, its sum, its squares; ratio, rounded, cast,
difference, its squares."""
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
"""Shares of an H100 that two cores feed."""


def old_pooled(frames_TD: np.ndarray, times: int) -> np.ndarray:
    """Averages frames like `pooled` of commit 652e439."""
    if times == 1:
        return frames_TD
    groups = max(1, int(len(frames_TD) / times + 0.5))
    return np.stack([part.mean(0) for part in (
        frames_TD[place * times : (place + 1) * times] for place in range(groups))])  # fmt: skip


def old_encode(frames_TD: np.ndarray) -> bytes:
    """Encodes as int8 like `encode` of commit 652e439."""
    assert np.isfinite(frames_TD).all()
    largest_D = np.abs(np.maximum(frames_TD.max(0), -frames_TD.min(0)))
    scale_D = (largest_D / 127).astype("<f4")
    divisor_D = np.where(scale_D > 0, scale_D, 1)
    levels_TD = np.empty(frames_TD.shape, np.int8)
    for first in range(0, len(frames_TD), 4096):
        block = slice(first, first + 4096)
        levels_TD[block] = np.rint(frames_TD[block] / divisor_D)
    return b"".join((scale_D.tobytes(), levels_TD.data))


def old_sums(frames_TD: np.ndarray, kept: EncodedFrames) -> Sums:
    """Computes sums like `Sums.from_frames` of commit 652e439."""
    kept_TD = kept.decode()
    part_TD = frames_TD.astype(np.float64)
    lost_TD = (frames_TD - kept_TD).astype(np.float64)
    return Sums(
        len(part_TD), part_TD.sum(0), np.square(part_TD).sum(0), np.square(lost_TD).sum(0),
        float(np.abs(lost_TD).max()),
    )  # fmt: skip


def old_path(salience_TB: np.ndarray) -> np.ndarray:
    """Computes the path like `best_path` of commit 652e439."""
    log_TB = np.log(salience_TB + 1e-6)
    num_frames, num_bins = log_TB.shape
    moves = np.arange(-GLIDE_BINS, GLIDE_BINS + 1)
    cost_M = GLIDE_COST * np.abs(moves)
    bins_B = np.arange(num_bins)
    before_TB = np.zeros((num_frames, num_bins), np.int16)
    score_B = log_TB[0].astype(np.float64)
    for place in range(1, num_frames):
        padded = np.pad(score_B, GLIDE_BINS, constant_values=-np.inf)
        reached_BM = np.lib.stride_tricks.sliding_window_view(padded, len(moves)) - cost_M
        move_B = reached_BM.argmax(1)
        glide_B = reached_BM[bins_B, move_B]
        best = score_B.argmax()
        leap = score_B[best] - LEAP_COST
        before_TB[place] = np.where(glide_B >= leap, bins_B + moves[move_B], best)
        score_B = np.maximum(glide_B, leap) + log_TB[place]
    path_T = np.empty(num_frames, np.intp)
    path_T[-1] = score_B.argmax()
    for place in range(num_frames - 1, 0, -1):
        path_T[place - 1] = before_TB[place, path_T[place]]
    return path_T


def milliseconds(work: Callable[[], object], times: int) -> float:
    """Returns the processor time of one call on this thread, the best of several."""
    best = float("inf")
    for _ in range(times):
        start = time.thread_time()
        work()
        best = min(best, time.thread_time() - start)
    return 1e3 * best


def window_times(pool: int, times: int) -> list[tuple[str, float, float]]:
    """Returns (step, ms before, ms after) for a window whose frames are averaged in groups."""
    frames_TD = np.random.default_rng(0).normal(size=(FRAMES, WIDTH)).astype(np.float32)
    spec = StreamSpec(
        name="encoder", kind="features", dim=WIDTH, start_s=0.0, hop_s=0.02 * pool, window_s=0.045,
        codec="int8",
    )  # fmt: skip
    small_TD = pooled(frames_TD, pool)
    kept = encode(small_TD, spec)
    assert np.array_equal(small_TD, old_pooled(frames_TD, pool)), "averages differ"
    assert kept.blob == old_encode(small_TD), "codes differ"
    old, new = old_sums(small_TD, kept), Sums.from_frames(small_TD, kept)
    deviation_D = np.sqrt(old.square_D)
    assert np.abs(old.total_D - new.total_D).max() < 1e-6 * deviation_D.max(), "sums differ"
    assert np.allclose(old.square_D, new.square_D, rtol=1e-6), "sums differ"
    steps: list[tuple[str, Callable[[], object], Callable[[], object]]] = [
        ("average", lambda: old_pooled(frames_TD, pool), lambda: pooled(frames_TD, pool)),
        (
            "encode and sum",
            lambda: (old_encode(small_TD), old_sums(small_TD, kept)),
            lambda: encode_and_sum(small_TD, spec),
        ),
    ]
    return [
        (name, milliseconds(before, times), milliseconds(after, times))
        for name, before, after in steps
    ]


def memory_limits(pool: int, times: int) -> float:
    """Returns the milliseconds of one core for memory accesses only.

    The frames are read and their averages written. The averages are read twice, because the size of
    a step depends on all of them; ten more passes over each average stay in the cache.
    """
    frames_TD = np.random.default_rng(0).normal(size=(FRAMES, WIDTH)).astype(np.float32)
    small_TD = pooled(frames_TD, pool)
    into_TD = np.empty_like(small_TD)
    rows = 65_536 // WIDTH
    block_RD, other_RD = np.ones((2, rows, WIDTH), np.float32)
    blocks = -(-len(small_TD) // rows)
    read = milliseconds(lambda: frames_TD.sum(), times) if pool > 1 else 0.0
    write = milliseconds(lambda: into_TD.fill(0), times) if pool > 1 else 0.0
    again = milliseconds(lambda: small_TD.sum(), times)
    cached = milliseconds(lambda: np.add(block_RD, block_RD, out=other_RD), times)
    return read + write + 2 * again + CACHED_PASSES * blocks * cached


def salience(seed: int, frames: int) -> np.ndarray:
    """Returns the salience of a pitch that glides and pauses, with noise."""
    rng = np.random.default_rng(seed)
    centre_T = (180 + rng.normal(0, 3, frames).cumsum()).clip(5, 350)
    peak_TB = np.exp(-0.5 * ((np.arange(360) - centre_T[:, None]) / 2) ** 2)
    sounding_T = rng.random(frames // 50 + 1).repeat(50)[:frames] > 0.3
    noise_TB = 0.01 * rng.random((frames, 360))
    return ((peak_TB + noise_TB).clip(0, 1) * sounding_T[:, None]).astype(np.float32)


def path_times(clips: int, seconds: int, times: int) -> tuple[float, float]:
    """Returns the ms per audio second of the best path, before and after, for clips of a block."""
    saliences = [salience(seed, 100 * seconds) for seed in range(clips)]
    before = milliseconds(lambda: old_path(saliences[0]), min(times, 3)) / seconds
    after = milliseconds(lambda: best_paths(saliences), min(times, 5)) / (clips * seconds)
    for salience_TB, path_T in zip(saliences[:4], best_paths(saliences), strict=False):
        assert np.array_equal(path_T, old_path(salience_TB)), "paths differ"
    return before, after


def cpu_table(times: int) -> Table:
    """Builds the table of processor time around the network."""
    keep_freed_memory()  # As every worker does.
    table = Table(title="Processor time beside the network, one core (ms)")
    table.add_column("work")
    for heading in ("before", "after", "ratio"):
        table.add_column(heading, justify="right")

    def add(name: str, before: float, after: float) -> None:
        ratio = f"{before / after:.1f}" if after > 0.01 else "-"
        table.add_row(name, f"{before:.2f}", f"{after:.2f}", ratio)

    for pool in (1, 2, 4):
        (_, average_before, average), (_, encode_before, encoding) = window_times(pool, times)
        if pool > 1:
            add("  average", average_before, average)
        add("  encode and sum", encode_before, encoding)
        before, title = average_before + encode_before, f"1500 x 1280, stored at {50 / pool:g} Hz"
        add(f"30 s window of {title}", before, encoding)
        if pool > 1:
            add("  of a clip of several windows", before, average + encoding)
        table.add_row("  its passes over memory and cache", "", f"{memory_limits(pool, times):.2f}")
        table.add_section()
    for clips, seconds in ((1, 10), (4, 10), (64, 10)):
        add(
            f"CREPE's path, per audio second, {clips} clips of {seconds} s",
            *path_times(clips, seconds, times),
        )
    return table


def simulated_table(clips: int, seconds: float, shares: Sequence[float]) -> Table:
    """Measures how busy two cores keep a simulated GPU."""
    table = Table(title=f"A simulated GPU, {clips} clips of {seconds:g} s (16-bit WAV, 16 kHz)")
    headings = (
        "of an H100", "ms/window", "windows/s", "x real time", "busy", "series", "core ms", "cores"
    )  # fmt: skip
    for heading in headings:
        table.add_column(heading, justify="right")
    whole = simulated_gpu.Simulated.Settings().seconds_per_window
    with tempfile.TemporaryDirectory(dir="/tmp") as base:
        corpus = _corpus(Path(base), clips, seconds)
        _connect()
        for share in shares:
            per_window = whole / share
            log, core_s = _build(corpus, Path(base) / f"{share}", per_window, overlaps=True)
            series, _ = _build(corpus, Path(base) / f"{share}-s", per_window, overlaps=False)
            table.add_row(
                f"1/{1 / share:g}",
                f"{1e3 * per_window:.1f}",
                f"{log.windows / log.span:.1f}",
                f"{clips * seconds / log.span:,.0f}",
                f"{log.busy / log.span:.3f}",
                f"{series.busy / series.span:.3f}",
                f"{1e3 * core_s / log.windows:.1f}",
                f"{core_s / log.windows / whole:.1f}",
            )
    return table


def _corpus(base: Path, clips: int, seconds: float) -> str:
    from manifests.corpus.corpus import build

    rng = np.random.default_rng(0)
    listed = []
    for number in range(clips):
        path = base / f"{number:04d}.wav"
        soundfile.write(path, 0.1 * rng.normal(size=int(seconds * 16_000)), 16_000)
        listed.append(Clip(clip_id=f"{number:04d}", uri=str(path), duration=seconds))
    build(listed, base / "corpus", name="noise")
    return str(base / "corpus")


def _connect() -> None:
    from pipeline.build import environment

    environment.prepare(local=True)
    # Ray lowers the priority of its workers below other processes.
    os.environ.setdefault("RAY_worker_niceness", "0")
    import ray

    ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)


def _build(
    corpus: str, place: Path, per_window: float, *, overlaps: bool
) -> tuple[simulated_gpu.Log, float]:
    """Returns the network's calls, and the processor seconds from the first to the last one."""
    from pipeline import job
    from pipeline.config import BuildConfig, Resources, TeacherConfig

    log = place / "log"
    log.mkdir(parents=True)
    teacher = TeacherConfig(
        family="benchmarks.simulated_gpu:Simulated",
        settings={"seconds_per_window": per_window, "log": str(log), "overlaps": overlaps},
        resources=Resources(num_cpus=1, num_gpus=1),
    )
    config = BuildConfig(
        corpus=corpus, cache=str(place / "cache"), preset="none", teacher={"asr": teacher}
    )
    with open(os.devnull, "w") as nothing, ProcessorTime() as used:
        job.build(config, Console(file=nothing))
    calls = simulated_gpu.read_log(log)
    return calls, used.between(calls.start, calls.end)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", default="cpu,simulated")
    parser.add_argument("--clips", type=int, default=1200)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--times", type=int, default=30, help="repetitions of a measurement")
    parser.add_argument("--shares", default=",".join(f"{share:g}" for share in SHARES))
    options = parser.parse_args()
    console = Console(highlight=False, width=110)
    if "cpu" in options.only:
        console.print(cpu_table(options.times))
    if "simulated" in options.only:
        shares = [float(share) for share in options.shares.split(",")]
        console.print(simulated_table(options.clips, options.seconds, shares))
        flops = simulated_gpu.flops_per_window()
        console.print(
            f"an H100 is taken to run {flops / 1e12:.2f} TFLOP per window at "
            f"{simulated_gpu.UTILISATION:.0%} of {simulated_gpu.H100_FLOPS / 1e12:.0f} TFLOP/s"
        )
    console.print(describe())


if __name__ == "__main__":
    main()
