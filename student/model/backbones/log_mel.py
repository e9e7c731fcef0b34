"""Computes log-mel features without the silence that fills a window.

Whisper's feature extractor pads audio to 30 s, Qwen2.5-Omni's to 300 s, before it computes
features. After the audio, all frames are equal, so it is sufficient to compute the audio and one
more frame. For models that need a whole window, the rest is filled with that frame; the features
are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Legend: A audios, M mel bands, F mel frames.


def samples_needed(extractor: Any, waves: Sequence[np.ndarray]) -> int:
    """Number of samples after padding, so that the last frame covers only silence; at most a
    window.

    Args:
        extractor: transformers' `WhisperFeatureExtractor`.
        waves: Audio at the extractor's rate.
    """
    hop = extractor.hop_length
    longest = max(len(wave) for wave in waves)
    # The second to last frame ends n_fft / 2 after its centre.
    needed = longest + extractor.n_fft + hop
    return min(-(-needed // hop) * hop, extractor.n_samples)


def fill_window(features_AMF: Tensor, num_frames: int) -> Tensor:
    """Fills features of padded audio up to a whole window with their last frame."""
    missing = num_frames - features_AMF.shape[-1]
    if missing <= 0:
        return features_AMF
    return torch.cat([features_AMF, features_AMF[..., -1:].expand(-1, -1, missing)], dim=-1)


def fill_inputs(inputs: Mapping[str, Tensor], extractor: Any, mask: str) -> dict[str, Tensor]:
    """Fills the features and the mask of model inputs up to a whole window.

    Args:
        inputs: Inputs with `input_features` (A, M, F) and a mask (A, F).
        extractor: Feature extractor, which defines the window.
        mask: Name of the mask.
    """
    features_AMF = fill_window(inputs["input_features"], extractor.nb_max_frames)
    mask_AF = inputs[mask]
    filled_AF = mask_AF.new_zeros(len(mask_AF), features_AMF.shape[-1])
    filled_AF[:, : mask_AF.shape[1]] = mask_AF
    return {**inputs, "input_features": features_AMF, mask: filled_AF}
