"""Synthetic clips that replace recordings if Debian packages are not available.

The clips are speech by espeak-ng, which is a pip package, and sounds made of noise and sines. They
are sufficient to run every part of the demo, but contain less for the experts than recordings.
"""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np

from examples.demo.debian import PackageUnavailable, downloads

ESPEAK = "espeakng-loader==0.2.4"
ESPEAK_LICENCE = "GPL-3.0-or-later (espeak-ng)"
SAMPLE_RATE = 16000

WHO = ("The small dog", "My old neighbour", "A tired teacher", "The next train", "Everybody here")
DOES = ("waits", "sings again", "is very quiet")
WHERE = ("by the river.", "until seven o'clock.", "in front of the station.")
SENTENCES = tuple(" ".join(parts) for parts in itertools.product(WHO, DOES, WHERE))

SOUNDS = ("white noise", "rumble", "beep", "siren", "click train", "hum", "crackle")


class Espeak:
    """espeak-ng, called in this process through its C interface (speak_lib.h).

    Raises:
        PackageUnavailable: pip cannot install it, or it does not run on this machine.
    """

    def __init__(self) -> None:
        package = _espeak_package()
        library = next(package.glob("*espeak-ng*.*"), None)
        if library is None:
            raise PackageUnavailable(f"{ESPEAK} has no library for this machine")
        self._library = ctypes.CDLL(str(library))
        synchronous = 2
        data = str(package / "espeak-ng-data").encode()
        self.sample_rate = self._library.espeak_Initialize(synchronous, 0, data, 0)
        if self.sample_rate <= 0 or self._library.espeak_SetVoiceByName(b"en-us"):
            raise PackageUnavailable(f"{ESPEAK} does not start here")

    def say(self, text: str) -> np.ndarray:
        """Returns speech as int16 samples of `sample_rate`."""
        parts: list[np.ndarray] = []
        samples = ctypes.POINTER(ctypes.c_short)

        @ctypes.CFUNCTYPE(ctypes.c_int, samples, ctypes.c_int, ctypes.c_void_p)
        def listen(wave, count, _events):
            if count > 0:
                parts.append(np.ctypeslib.as_array(wave, (count,)).copy())
            return 0

        self._library.espeak_SetSynthCallback(listen)
        encoded = text.encode()
        by_character, utf8 = 1, 1
        size = ctypes.c_size_t(len(encoded) + 1)
        self._library.espeak_Synth(encoded, size, 0, by_character, 0, utf8, None, None)
        return np.concatenate(parts)


def sound(name: str, seconds: float, seed: int) -> np.ndarray:
    """Returns one of `SOUNDS`: float32 samples of `SAMPLE_RATE`."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = rng.standard_normal(len(time))
    low = rng.uniform(0.8, 1.25)
    wave = {
        "white noise": noise,
        "rumble": np.convolve(noise, np.hanning(400), "same"),
        "beep": np.sin(2 * np.pi * 1000 * low * time) * (time * 4 % 1 < 0.5),
        "siren": np.sin(2 * np.pi * 700 * low * time - 300 * np.cos(2 * np.pi * 0.7 * time)),
        "click train": (time * 8 * low % 1 < 0.01) * noise,
        "hum": sum(np.sin(2 * np.pi * 50 * low * n * time) / n for n in range(1, 9)),
        "crackle": noise * (rng.random(len(time)) < 0.002),
    }[name]
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)


def _espeak_package() -> Path:
    spec = importlib.util.find_spec("espeakng_loader")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent
    target = downloads() / "espeak"
    if not (target / "espeakng_loader").exists():
        print(f"downloading {ESPEAK} ...", flush=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        done = subprocess.run(
            [*pip, "--target", str(target), ESPEAK], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise PackageUnavailable(f"pip cannot install {ESPEAK}")
    return target / "espeakng_loader"
