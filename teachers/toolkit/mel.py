"""Computes AST's log-mel spectrogram in batches with torch, on the model's device.

transformers computes it in numpy, one window after the other, which is slow for sliding windows on
a GPU. The results are equal (a test compares them): Kaldi's filter bank of 128 bands, 25 ms every
10 ms, without dither.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

# Legend: B batch, L samples, F mel frames, W samples of a frame, M bands.

WINDOW, HOP, FFT = 400, 160, 512
PREEMPHASIS, FLOOR = 0.97, 1.192092955078125e-07


class KaldiMel:
    """Normalised log-mels of a batch, padded to AST's length like its own extractor does."""

    def __init__(self, extractor: Any, device: torch.device) -> None:
        from transformers.audio_utils import mel_filter_bank

        rate = extractor.sampling_rate
        filters_FM = mel_filter_bank(
            num_frequency_bins=FFT // 2 + 1, num_mel_filters=extractor.num_mel_bins,
            min_frequency=20, max_frequency=rate // 2, sampling_rate=rate, norm=None,
            mel_scale="kaldi", triangularize_in_mel_space=True,
        )  # fmt: skip
        self._device = device
        self._filters_FM = torch.from_numpy(filters_FM).float().to(device)
        self._window_W = torch.hann_window(WINDOW, periodic=False, device=device)
        self._length = extractor.max_length
        self._mean, self._scale = (
            (extractor.mean, 2 * extractor.std) if extractor.do_normalize else (0.0, 1.0)
        )

    def __call__(self, waves: Sequence[np.ndarray]) -> torch.Tensor:
        """Computes (B, F, M) of waveforms that are each at least one frame long."""
        longest = max(map(len, waves))
        batch_BL = np.zeros((len(waves), longest), np.float32)
        for row, wave in enumerate(waves):
            batch_BL[row, : len(wave)] = wave
        frames_BFW = torch.from_numpy(batch_BL).to(self._device).unfold(1, WINDOW, HOP)
        frames_BFW = frames_BFW - frames_BFW.mean(2, keepdim=True)
        before_BFW = torch.cat([frames_BFW[:, :, :1], frames_BFW[:, :, :-1]], 2)
        frames_BFW = (frames_BFW - PREEMPHASIS * before_BFW) * self._window_W
        power = torch.fft.rfft(frames_BFW, FFT).abs().square()
        log_BFM = (power @ self._filters_FM).clamp(min=FLOOR).log()
        counts_B = torch.tensor([(len(w) - WINDOW) // HOP + 1 for w in waves], device=self._device)
        place_F = torch.arange(self._length, device=self._device)
        mel_BFM = log_BFM.new_zeros(len(waves), self._length, log_BFM.shape[2])
        kept = min(self._length, log_BFM.shape[1])
        mel_BFM[:, :kept] = log_BFM[:, :kept]
        mel_BFM *= (place_F < counts_B[:, None])[:, :, None]
        return (mel_BFM - self._mean) / self._scale
