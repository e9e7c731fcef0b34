"""Small real teachers for tests of the pipeline: cheap, deterministic, and failing on demand."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from manifests.streams.specs import StreamSpec, TeacherSpec
from teachers.protocol import Targets

HOP = 0.02


def _kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _fill_memory(gigabytes: float, seconds: float = 60.0) -> None:
    """Allocates memory and keeps it until the process is killed or the time is over."""
    block = np.ones(int(gigabytes * 1e9), np.uint8)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        block[:: 1 << 12] += 1
        time.sleep(0.1)


def _stop_once(path: str) -> dict:
    """Stops this process if it is the first; a stopped process neither answers nor ends."""
    with contextlib.suppress(FileExistsError), open(path, "x"):
        os.kill(os.getpid(), signal.SIGSTOP)
    return {}


class StoppingMetadata(dict):
    """A dict that stops the first process that unpickles it, and is empty in all others."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def __reduce__(self) -> tuple:
        return _stop_once, (self._path,)

    def __or__(self, other: dict) -> StoppingMetadata:
        return self


class CrashingMetadata(dict):
    """A dict that kills the process that unpickles it."""

    def __reduce__(self) -> tuple:
        return _kill_this_process, ()

    def __or__(self, other: dict) -> CrashingMetadata:
        # The worker adds the warnings about a clip's audio; the union must crash as well.
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergySettings:
    """Settings of `Energy`."""

    gain: float = 1.0
    """Factor on the spectrum, which changes the features."""
    sleep_s: float = 0.0
    """Seconds that `extract` sleeps for each second of audio."""
    raise_above: float = 2.0
    """Raises on a batch with a clip whose peak is above this value."""
    die_above: float = 2.0
    """Kills its process on a batch with a clip whose peak is above this value."""
    die_once_file: str = ""
    """Kills its process once; this file records that it has done so."""
    fill_memory_once_file: str = ""
    """Fills the node's memory once until it is killed; this file records that it has done so."""
    fill_memory_gb: float = 2.0
    broken_gpu_file: str = ""
    """The process that creates this file fails with a CUDA error from its second batch on."""
    fail_load_on: str = ""
    """Fails to load where the environment variable COAT_TEST_NODE has this value."""
    stop_load_file: str = ""
    """The first process that creates this file stops (SIGSTOP) while it loads."""
    stop_commit_file: str = ""
    """The first process that creates this file stops while it reads the results to commit."""
    kill_committer: bool = False
    """Kills the process that reads its results, like a commit that runs out of memory."""
    hang_above: float = 2.0
    """Never returns from a batch with a clip whose peak is above this value."""
    malformed: str = ""
    """Kind of an invalid result to return: few, stream, nan or numpy."""


class Energy:
    """Log energy in 16 bands of the spectrum, 50 frames a second."""

    Settings = EnergySettings

    def __init__(self, name: str, settings: EnergySettings) -> None:
        self._name = name
        self._settings = settings

    def spec(self) -> TeacherSpec:
        """See `teachers.protocol.Teacher`."""
        stream = StreamSpec(
            name="bands", kind="features", dim=16, start_s=HOP / 2, hop_s=HOP, window_s=HOP,
            codec="int8",
        )  # fmt: skip
        return TeacherSpec(
            name=self._name,
            family="tests.pipeline.fakes:Energy",
            revision=1,
            settings={"gain": asdict(self._settings)["gain"]},
            weights={},
            sample_rate=16_000,
            streams=(stream,),
            license="none",
        )

    def load(self, *, device: str, num_threads: int) -> None:
        """See `teachers.protocol.Teacher`."""
        broken = self._settings.fail_load_on
        if broken and os.environ.get("COAT_TEST_NODE") == broken:
            raise RuntimeError("uncorrectable ECC error encountered")
        if self._settings.stop_load_file:
            time.sleep(1)  # Meanwhile, Ray delivers the result of the call before.
            _stop_once(self._settings.stop_load_file)

    def extract(self, waves: Sequence[np.ndarray]) -> list[Targets]:
        """See `teachers.protocol.Teacher`."""
        settings = self._settings
        peak = max(float(np.abs(wave).max(initial=0)) for wave in waves)
        if settings.die_once_file and not os.path.exists(settings.die_once_file):
            open(settings.die_once_file, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        if settings.fill_memory_once_file and not os.path.exists(settings.fill_memory_once_file):
            open(settings.fill_memory_once_file, "w").close()
            _fill_memory(settings.fill_memory_gb)
        if peak > settings.die_above:
            os.kill(os.getpid(), signal.SIGKILL)
        while peak > settings.hang_above:
            time.sleep(1)
        self._fail_if_broken()
        if peak > settings.raise_above:
            raise RuntimeError("the model fails on loud clips")
        time.sleep(settings.sleep_s * sum(len(wave) for wave in waves) / 16_000)
        results = [Targets({"bands": self._bands(wave)}, self._metadata(wave)) for wave in waves]
        if settings.malformed == "few":
            return results[1:]
        if settings.malformed == "stream":
            return [Targets({}, targets.metadata) for targets in results]
        return results

    def _metadata(self, wave: np.ndarray) -> dict:
        extra = {"nan": float("nan"), "numpy": np.float32(1.0)}
        if self._settings.malformed in extra:
            return {"samples": extra[self._settings.malformed]}
        if self._settings.stop_commit_file:
            return StoppingMetadata(self._settings.stop_commit_file)
        return CrashingMetadata() if self._settings.kill_committer else {"samples": len(wave)}

    def _fail_if_broken(self) -> None:
        path = self._settings.broken_gpu_file
        if not path:
            return
        with contextlib.suppress(FileExistsError), open(path, "x") as file:
            file.write(str(os.getpid()))
            return
        with open(path) as file:
            is_broken = file.read() == str(os.getpid())
        if is_broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def _bands(self, wave: np.ndarray) -> np.ndarray:
        size = int(HOP * 16_000)
        count = max(1, -(-len(wave) // size))
        padded = np.pad(wave, (0, count * size - len(wave))).reshape(count, size)
        power_TF = np.abs(np.fft.rfft(padded))[:, :160].reshape(count, 16, 10).mean(2)
        return np.log(power_TF * self._settings.gain + 1e-6).astype(np.float32)


class TextTeacher(Energy):
    """An `Energy` teacher that returns the texts that it receives as metadata."""

    def extract_with_texts(
        self, waves: Sequence[np.ndarray], texts: Sequence[str | None]
    ) -> list[Targets]:
        """See `teachers.protocol.TextTeacher`."""
        return [
            Targets(targets.frames, {"text": text})
            for targets, text in zip(self.extract(waves), texts, strict=True)
        ]
