"""Encodes the audio of a clip for playing and drawing in a page, small enough to be embedded.

Sound is Opus in an Ogg container (about 4 kB per second; all current browsers play it). Pictures
are bytes to which the page assigns colours, so that they follow its theme.
"""

from __future__ import annotations

import io
from base64 import b64encode
from typing import Any

import numpy as np
import soundfile

from manifests import audio
from manifests.clips import Clip

# Legend: N samples, C columns of the picture, F frequencies, M mel bands.

PLAY_RATE = 24_000
"""Hz; one of the rates that Opus supports."""
PEAKS = 1200
COLUMNS = 600
"""Maximum number of columns of a picture, about its width in pixels."""
MEL_BANDS = 72
LOWEST_HZ, HIGHEST_HZ = 50.0, 11_000.0
WINDOW_S = 0.03
HOP_S = 0.008
FFT = 1024
RANGE_DB = 75.0
"""Range of a spectrogram in dB below its loudest point."""
TICKS_HZ = (500, 1000, 2000, 4000, 8000)


def decode(clip: Clip) -> audio.Waveform | str:
    """Returns a clip's samples, or the reason why there are none.

    A reader of a cache does not need the original audio, so missing audio is not an error here.
    """
    try:
        return audio.decode(clip)
    except audio.AudioError as error:
        return str(error)
    except OSError as error:
        return f"{clip.uri}: {error}"


def parts(wave: audio.Waveform | str, seconds: float) -> dict[str, Any]:
    """The fields of a clip that come from its audio, up to `seconds`.

    Args:
        wave: Result of `decode`.
        seconds: Time in the clip at which the page stops.
    """
    if isinstance(wave, str):
        return {"audio": "", "no_audio": wave, "waveform": None, "spectrogram": None}
    samples = wave.samples[: round(seconds * wave.sample_rate)]
    played, uri = playable(audio.Waveform(samples, wave.sample_rate, wave.digest))
    whole = np.pad(played, (0, max(0, round(seconds * PLAY_RATE) - len(played))))
    return {
        "audio": uri,
        "no_audio": "",
        "waveform": peaks(whole),
        "spectrogram": spectrogram(whole),
    }


def packed(values: np.ndarray) -> str:
    """Bytes for the page, in base64."""
    return b64encode(np.ascontiguousarray(values).tobytes()).decode()


def playable(wave: audio.Waveform) -> tuple[np.ndarray, str]:
    """The samples at `PLAY_RATE`, and the same as an Ogg Opus data URI."""
    samples = audio.resample(wave, PLAY_RATE)
    file = io.BytesIO()
    soundfile.write(file, samples.clip(-1, 1), PLAY_RATE, format="OGG", subtype="OPUS")
    return samples, f"data:audio/ogg;base64,{b64encode(file.getvalue()).decode()}"


def peaks(samples: np.ndarray) -> dict[str, Any]:
    """Returns lowest and highest sample of each column in 1/127 of full scale, interleaved."""
    bounds = np.linspace(0, len(samples), min(PEAKS, len(samples)) + 1).astype(int)[:-1]
    low_C = np.minimum.reduceat(samples, bounds)
    high_C = np.maximum.reduceat(samples, bounds)
    levels = np.rint(np.stack([low_C, high_C], 1).clip(-1, 1) * 127).astype(np.int8)
    return {"columns": len(bounds), "values": packed(levels)}


def spectrogram(samples: np.ndarray) -> dict[str, Any]:
    """A mel spectrogram in dB below its loudest point; column i is about `start + i * hop`.

    For long clips, a column is the mean power of several windows, so that no audio is left out.
    """
    window, hop = int(WINDOW_S * PLAY_RATE), int(HOP_S * PLAY_RATE)
    padded = np.pad(samples, (window // 2, window))
    first = np.arange(0, len(samples) + hop // 2, hop)
    frames_CN = padded[first[:, None] + np.arange(window)] * np.hanning(window)
    power_CM = np.abs(np.fft.rfft(frames_CN, FFT)) ** 2 @ _mel_filters(FFT).T
    group = -(-len(power_CM) // COLUMNS)
    starts = np.arange(0, len(power_CM), group)
    sizes = np.diff(np.append(starts, len(power_CM)))
    power_CM = np.add.reduceat(power_CM, starts, axis=0) / sizes[:, None]
    mel_CM = 10 * np.log10(power_CM + 1e-10)
    level_CM = ((mel_CM - mel_CM.max()) / RANGE_DB + 1).clip(0, 1)
    edges = _mel(np.array([LOWEST_HZ, HIGHEST_HZ]))
    heights = (_mel(np.array(TICKS_HZ)) - edges[0]) / (edges[1] - edges[0])
    return {
        "start": (group - 1) / 2 * HOP_S,
        "hop": group * HOP_S,
        "columns": len(mel_CM),
        "rows": MEL_BANDS,
        "values": packed(np.rint(level_CM * 255).astype(np.uint8)),
        "scale": "heat",
        "ticks": [
            [hertz, round(float(height), 4)]
            for hertz, height in zip(TICKS_HZ, heights, strict=True)
        ],
    }


def _mel(hertz: np.ndarray) -> np.ndarray:
    """Converts hertz to mel by O'Shaughnessy's formula."""
    return 2595 * np.log10(1 + hertz / 700)


def _mel_filters(size: int) -> np.ndarray:
    """Computes triangles of unit area over the bins of an FFT, (M, F)."""
    low, high = _mel(np.array([LOWEST_HZ, HIGHEST_HZ]))
    corners = 700 * (10 ** (np.linspace(low, high, MEL_BANDS + 2) / 2595) - 1)
    bins_F = np.fft.rfftfreq(size, 1 / PLAY_RATE)
    left, middle, right = (corners[first : first + MEL_BANDS, None] for first in range(3))
    rising, falling = (bins_F - left) / (middle - left), (right - bins_F) / (right - middle)
    triangles_MF = np.minimum(rising, falling).clip(0)
    # Bands narrower than a bin use the nearest bin; otherwise they would be black stripes.
    nearest_M = np.abs(bins_F - middle).argmin(1)
    triangles_MF[np.arange(MEL_BANDS), nearest_M] += triangles_MF.sum(1) == 0
    return triangles_MF / triangles_MF.sum(1, keepdims=True)
