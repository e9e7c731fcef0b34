"""Front ends of transformers' audio encoders: convert waveforms to inputs, and states to frames.

Five kinds of front end cover the encoders of transformers. Each knows its frame grid from the
checkpoint's configuration alone (no model is loaded to describe a teacher), prepares a batch of
waveforms of different lengths, and selects the model's states that are frames:

- `Waveform`: strided convolutions over samples (wav2vec2, HuBERT, WavLM, MERT, ...). Padding is
masked, also in the group norm over time of base-size models, which would otherwise include it. -
`Patches`: AST's patches of a log-mel spectrogram; frames are averaged over frequency. Padding is as
in the model's training. - `WhisperMel`: Whisper's encoder, always 30 s. - `LogMel`: encoders that
subsample a log-mel spectrogram themselves (Parakeet, LASR, Nemotron 3 Diarization). Padding is
masked. - `Extracted`: any other model, with its own feature extractor; the frame hop must be set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manifests.errors import UserError
from teachers.toolkit.checkpoints import Checkpoint
from teachers.toolkit.frame_grid import num_frames
from teachers.toolkit.windowing import Grid

# Legend: B batch, L samples, S states of the model, T frames, D columns.

MEL_HOP, MEL_WINDOW = 160, 400


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of waveforms as inputs of the model."""

    inputs: dict[str, Any]
    """The model's arguments."""
    lengths: list[int]
    """Samples of each waveform."""
    shares: list[float]
    """The share of each that is not padding, from the model's own mask; empty if it has none."""


class Input:
    """Base class of front ends."""

    longest: int | None = None
    """Frames of the model's own window; None if it accepts any length."""
    width: int = 0
    """Width of the encoder's states, if it differs from `hidden_size`."""

    def __init__(self, folder: Path, grid: Grid) -> None:
        self.grid = grid
        self._folder = folder
        self._extractor: Any = None

    def attach(self, model: Any) -> None:
        """Prepares a loaded model and the conversion of waveforms to its inputs."""
        from transformers import AutoFeatureExtractor

        self._extractor = AutoFeatureExtractor.from_pretrained(self._folder, local_files_only=True)

    def prepare(self, waves: Sequence[np.ndarray]) -> Batch:
        """Returns the model's arguments for a batch. Stateless, so threads may call it in
        parallel."""
        rate = self.grid.sample_rate
        inputs = self._extractor(list(waves), sampling_rate=rate, return_tensors="pt")
        return Batch(dict(inputs), [len(wave) for wave in waves], [])

    def enter(self, batch: Batch) -> None:
        """Prepares the model for the batch that it will compute next."""

    def frames(self, states_BSD: Any) -> Any:
        """States that are frames: (B, T, D)."""
        return states_BSD

    def count(self, num_samples: int) -> int:
        """Returns the number of frames of a waveform."""
        return self.grid.count(num_samples)

    def counts(self, batch: Batch, states: int) -> list[int]:
        """Returns the number of frames of each waveform in a batch with `states` padded states."""
        return [min(states, self.count(length)) for length in batch.lengths]


def from_checkpoint(checkpoint: Checkpoint, *, hop_s: float = 0.0) -> Input:
    """The front end of a checkpoint.

    Args:
        checkpoint: A folder with `config.json` and, mostly, `preprocessor_config.json`.
        hop_s: Seconds between frames, for models whose configuration does not state it.

    Raises:
        UserError: the frame grid is unknown and `hop_s` is not given.
    """
    config, extractor = checkpoint.config, checkpoint.extractor
    kind = config.get("model_type", "")
    if "conv_stride" in config and "conv_kernel" in config:
        return Waveform(checkpoint.folder, config, extractor)
    if kind == "audio-spectrogram-transformer":
        return Patches(checkpoint.folder, config, extractor)
    if kind == "whisper":
        return WhisperMel(checkpoint.folder)
    if kind in LOG_MELS:
        return LogMel(checkpoint, LOG_MELS[kind])
    if not hop_s:
        raise UserError(
            f"{checkpoint.model} is a {kind or 'model of unknown type'}, whose configuration does "
            "not say how far its frames are apart; set hop_s (seconds)"
        )
    return Extracted(checkpoint.folder, extractor, hop_s)


class Waveform(Input):
    """Strided convolutions over samples."""

    def __init__(self, folder: Path, config: dict[str, Any], extractor: dict[str, Any]) -> None:
        hop, field = 1, 1
        for kernel, stride in zip(config["conv_kernel"], config["conv_stride"], strict=True):
            field += (kernel - 1) * hop
            hop *= stride
        rate = extractor.get("sampling_rate") or config.get("sample_rate") or 16_000
        super().__init__(folder, Grid(sample_rate=rate, hop=hop, field=field, centre=field / 2))
        self._first = config["conv_kernel"][0], config["conv_stride"][0]
        self._normalise = extractor.get("do_normalize", True)
        self._norms: list[Any] = []

    def attach(self, model: Any) -> None:
        """See `Input`. Makes group norms over time ignore padding."""
        from torch import nn

        for module in model.modules():
            norm = getattr(module, "layer_norm", None)
            if isinstance(norm, nn.GroupNorm):
                module.layer_norm = _masked_group_norm(norm)
                self._norms.append(module.layer_norm)

    def prepare(self, waves: Sequence[np.ndarray]) -> Batch:
        """See `Input`."""
        import torch

        longest = max(map(len, waves))
        values_BL = np.zeros((len(waves), longest), np.float32)
        mask_BL = np.zeros((len(waves), longest), np.int64)
        for row, wave in enumerate(waves):
            if self._normalise:
                wave = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)
            values_BL[row, : len(wave)] = wave
            mask_BL[row, : len(wave)] = 1
        inputs = {"input_values": torch.from_numpy(values_BL)}
        if min(map(len, waves)) < longest:
            inputs["attention_mask"] = torch.from_numpy(mask_BL)
        return Batch(inputs, [len(wave) for wave in waves], [])

    def enter(self, batch: Batch) -> None:
        """See `Input`. The group norms ignore the padding of this batch."""
        kernel, stride = self._first
        for norm in self._norms:
            norm.lengths = [(length - kernel) // stride + 1 for length in batch.lengths]


class Patches(Input):
    """AST: 16 x 16 patches of 128 log-mel bands."""

    def __init__(self, folder: Path, config: dict[str, Any], extractor: dict[str, Any]) -> None:
        size, step = config["patch_size"], config["time_stride"]
        field = (size - 1) * MEL_HOP + MEL_WINDOW
        grid = Grid(
            sample_rate=extractor.get("sampling_rate", 16_000), hop=step * MEL_HOP, field=field,
            centre=field / 2,
        )  # fmt: skip
        super().__init__(folder, grid)
        self.longest = (config["max_length"] - size) // step + 1
        self._mel: Any = None
        self._bands = (config["num_mel_bins"] - size) // config["frequency_stride"] + 1

    def attach(self, model: Any) -> None:
        """See `Input`."""
        from teachers.toolkit.mel import KaldiMel

        super().attach(model)
        self._mel = KaldiMel(self._extractor, model.device)

    def prepare(self, waves: Sequence[np.ndarray]) -> Batch:
        """See `Input`."""
        values = self._mel([_at_least(wave, MEL_WINDOW) for wave in waves])
        return Batch({"input_values": values}, [len(wave) for wave in waves], [])

    def frames(self, states_BSD: Any) -> Any:
        """See `Input`. Two class tokens, then patches by frequency and time."""
        return states_BSD[:, 2:].unflatten(1, (self._bands, -1)).mean(1)

    def count(self, num_samples: int) -> int:
        """See `Input`. A patch with half or more padding is not a frame."""
        rate = self.grid.sample_rate
        start_s, hop_s = self.grid.centre / rate, self.grid.hop / rate
        return num_frames(num_samples, rate, start_s=start_s, hop_s=hop_s)


class WhisperMel(Input):
    """Log-mel of 30 s for Whisper's encoder."""

    longest = 1500

    def __init__(self, folder: Path) -> None:
        grid = Grid(sample_rate=16_000, hop=320, field=1, centre=0.0, window=720)
        super().__init__(folder, grid)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogMelKind:
    """The strides with which an encoder subsamples its log-mel spectrogram."""

    width: int
    """Default width of the encoder's states, which the configuration may leave out."""
    factor: int
    """Mel frames from one output frame to the next, if the configuration does not state it."""
    field: int = 1
    """Mel frames that a clip needs for its first output frame."""
    reach: int = 1
    """Mel frames in the direct input of one output frame."""
    is_centred: bool = True
    """Whether mel frame 0 is centred on the first sample and output frame 0 on mel frame 0."""


LOG_MELS = {
    # Three convolutions of kernel 3, stride 2 and padding 1.
    "parakeet_ctc": LogMelKind(width=1024, factor=8, reach=15),
    "parakeet_encoder": LogMelKind(width=1024, factor=8, reach=15),
    # Two convolutions of kernel 5 and stride 2 without padding.
    "lasr_ctc": LogMelKind(width=512, factor=4, field=13, reach=13, is_centred=False),
    "lasr_encoder": LogMelKind(width=512, factor=4, field=13, reach=13, is_centred=False),
    # Eight mel frames become one state, from which eight outputs are made.
    "nemotron3_diarization": LogMelKind(width=512, factor=1, reach=8),
}
"""Model type -> its kind."""


class LogMel(Input):
    """A log-mel spectrogram from the checkpoint's own extractor."""

    def __init__(self, checkpoint: Checkpoint, kind: LogMelKind) -> None:
        extractor, encoder = checkpoint.extractor, checkpoint.encoder
        hop, window = extractor.get("hop_length", MEL_HOP), extractor.get("win_length", MEL_WINDOW)
        factor = encoder.get("subsampling_factor", kind.factor) if kind.factor > 1 else 1
        if kind.is_centred:
            # A clip has as many whole mel frames as hops.
            field, centre = kind.field * hop, 0.0
        else:
            field = (kind.field - 1) * hop + window
            centre = field / 2
        super().__init__(checkpoint.folder, Grid(
            sample_rate=extractor.get("sampling_rate", 16_000), hop=factor * hop, field=field,
            centre=centre, window=(kind.reach - 1) * hop + window,
        ))  # fmt: skip
        self.width = encoder.get("hidden_size", kind.width)
        # Dividing the mel by its deviation over time needs two frames.
        self._least = max(field, 2 * hop)

    def prepare(self, waves: Sequence[np.ndarray]) -> Batch:
        """See `Input`."""
        inputs = self._extractor(
            [_at_least(wave, self._least) for wave in waves],
            sampling_rate=self.grid.sample_rate, return_tensors="pt", return_attention_mask=True,
        )  # fmt: skip
        return Batch(dict(inputs), [len(wave) for wave in waves], [])


class Extracted(Input):
    """The output of the checkpoint's own feature extractor, with its attention mask."""

    def __init__(self, folder: Path, extractor: dict[str, Any], hop_s: float) -> None:
        rate = extractor.get("sampling_rate", 16_000)
        hop = round(hop_s * rate)
        super().__init__(folder, Grid(sample_rate=rate, hop=hop, field=hop, centre=hop / 2))

    def prepare(self, waves: Sequence[np.ndarray]) -> Batch:
        """See `Input`."""
        prepared = dict(self._extractor(
            list(waves), sampling_rate=self.grid.sample_rate, padding=True, return_tensors="pt",
            return_attention_mask=True,
        ))  # fmt: skip
        mask_BS = prepared.get("attention_mask")
        shares = [1.0] * len(waves) if mask_BS is None else mask_BS.float().mean(1).tolist()
        return Batch(prepared, [len(wave) for wave in waves], shares)

    def counts(self, batch: Batch, states: int) -> list[int]:
        """See `Input`. The same share of the states as of the mask."""
        return [max(1, round(share * states)) for share in batch.shares]


def _at_least(wave: np.ndarray, least: int) -> np.ndarray:
    return np.pad(wave, (0, max(0, least - len(wave))))


def _masked_group_norm(norm: Any) -> Any:
    """A group norm with a group per channel, whose mean and deviation ignore padding."""
    import torch
    from torch import nn

    class MaskedGroupNorm(nn.Module):
        lengths: Sequence[int] = ()

        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

        def forward(self, hidden_BCT: torch.Tensor) -> torch.Tensor:
            lengths_B = torch.tensor(self.lengths, device=hidden_BCT.device)
            place_T = torch.arange(hidden_BCT.shape[2], device=hidden_BCT.device)
            kept_B1T = (place_T < lengths_B[:, None])[:, None]
            wide_BCT = hidden_BCT.float() * kept_B1T
            mean_BC1 = wide_BCT.sum(2, keepdim=True) / lengths_B[:, None, None]
            centred_BCT = (wide_BCT - mean_BC1) * kept_B1T
            variance_BC1 = centred_BCT.square().sum(2, keepdim=True) / lengths_B[:, None, None]
            normal_BCT = (centred_BCT * (variance_BC1 + self.eps).rsqrt()).to(hidden_BCT.dtype)
            return normal_BCT * self.weight[:, None] + self.bias[:, None]

    return MaskedGroupNorm()
