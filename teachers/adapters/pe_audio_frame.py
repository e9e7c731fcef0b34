"""Sound events described by free text: Meta's PE-A-Frame (Vyas et al. 2025, arXiv 2512.19687).

transformers' `PeAudioFrameLevelModel` embeds every 40 ms of audio and every phrase into one space.
One stream contains the frame embeddings, so that other phrases can be scored later from the cache
alone. A second stream contains the posterior of each phrase in the settings, by default of
AudioSet's 527 class names. The text encoder embeds the phrases once and is then released.

The model pads batches of clips with a mask, but its waveform encoder runs unmasked: near the end of
a padded clip it would process biases where a clip alone has zeros. Here its convolutions receive
zeros, and its masked group norm runs in float32, because its sums over a window overflow float16.
"""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from manifests.errors import UserError
from manifests.streams.specs import StreamSpec, TeacherSpec
from teachers.protocol import Targets
from teachers.settings import NonNegative
from teachers.toolkit import checkpoints, device
from teachers.toolkit.batching import BatchBudget
from teachers.toolkit.checkpoints import HubSettings
from teachers.toolkit.windowing import Grid, over_clips, pooled

# Legend: B batch, L samples, T frames, E width of the common space, C phrases.

MANY_PHRASES = 64
"""With at least this many phrases, only the strongest ones of each frame are stored."""
PHRASES_PER_PASS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PEAudioFrameSettings(HubSettings):
    """Settings of `PEAudioFrame`."""

    model: str = "facebook/pe-a-frame-large"
    """Hub id or folder of a PE-A-Frame checkpoint."""
    phrases: tuple[str, ...] = ()
    """The sounds to score, e.g. [a dog barking, applause]; AudioSet's class names if empty."""
    posteriors: bool = True
    """Store the probability of each phrase in each frame."""
    features: bool = True
    """Store the frame embeddings, from which other phrases can be scored later."""
    window_s: NonNegative = 30.0
    """Longest window of the model, in seconds."""
    overlap_s: NonNegative = 5.0
    """Overlap of the windows of a longer clip in seconds, in which they are cross-faded."""
    batch_seconds: NonNegative = 0.0
    """Padded audio per forward pass, in seconds; 0 means 30 on a CPU, 240 on a GPU: the waveform
    encoder takes several GB at 48 kHz. Does not change the features."""

    def budget(self, device: str) -> BatchBudget:
        """Seconds per forward pass on `device`."""
        return BatchBudget(self.batch_seconds or (240.0 if device.startswith("cuda") else 30.0))


class PEAudioFrame:
    """Frame embeddings in the space of texts, and posteriors of phrases, every 40 ms."""

    Settings = PEAudioFrameSettings
    overlaps = True

    def __init__(self, name: str, settings: PEAudioFrameSettings) -> None:
        self._name = name
        self._settings = settings
        self._checkpoint = checkpoints.find(settings)
        config = self._checkpoint.config
        if config.get("model_type") != "pe_audio":
            raise UserError(f"teacher {name}: {settings.model} is not a PE-A-Frame checkpoint")
        if not (settings.posteriors or settings.features):
            raise UserError(f"teacher {name}: set posteriors or features; found neither")
        self._phrases = settings.phrases or audioset_classes()
        if len(set(self._phrases)) < len(self._phrases):
            raise UserError(f"teacher {name}: a phrase is listed twice")
        extractor = self._checkpoint.extractor
        self._width = (config.get("text_config") or {}).get("hidden_size", 1024)
        waveform = (config.get("audio_config") or {}).get("dac_config") or {}
        ratios = waveform.get("downsampling_ratios", (2, 8, 10, 12))
        hop = math.prod(ratios)
        # The last frame of a clip is the last one whose middle lies within it.
        self._grid = Grid(
            sample_rate=extractor.get("sampling_rate", 48_000), hop=hop, field=hop // 2 + 1,
            centre=hop / 2, window=2 * hop,
        )  # fmt: skip
        self._pool = self._grid.pool(settings.frame_rate)
        self._device = "cpu"
        self.budget = settings.budget("cpu")
        self._model: Any = None
        self._texts_CE: Any = None

    def spec(self) -> TeacherSpec:
        """See `teachers.protocol.Teacher`."""
        return TeacherSpec(
            name=self._name,
            family="pe_audio_frame",
            revision=1,
            settings=self._settings.recorded(),
            weights=self._checkpoint.digests(),
            sample_rate=self._grid.sample_rate,
            streams=self._streams(),
            license=self._checkpoint.license(self._settings.license),
        )

    def load(self, *, device: str, num_threads: int) -> None:
        """See `teachers.protocol.Teacher`."""
        checkpoints.offline()
        from transformers import AutoTokenizer, PeAudioFrameLevelModel

        self._device = device
        self.budget = self._settings.budget(device)
        self._model = checkpoints.load(
            PeAudioFrameLevelModel, self._checkpoint, self._settings, device=device,
            num_threads=num_threads,
        )  # fmt: skip
        if self._settings.posteriors:
            tokenizer = AutoTokenizer.from_pretrained(
                self._checkpoint.folder, local_files_only=True
            )
            self._texts_CE = self._embed_phrases(tokenizer)
        self._model.text_model = None
        self._padding = _PaddingGuard(self._model.audio_encoder.embedder)
        _norm_in_float32(self._model.audio_encoder)

    def extract(self, waves: Sequence[np.ndarray]) -> list[Targets]:
        """See `teachers.protocol.Teacher`."""
        rate = self._grid.sample_rate / self._grid.hop
        size = max(2, round(self._settings.window_s * rate))
        clips = over_clips(
            waves, self._grid, self._forward_batch, size=size,
            overlap=min(size // 2, round(self._settings.overlap_s * rate)),
            budget=self.budget,
        )  # fmt: skip
        return [
            Targets({name: pooled(frames_TD, self._pool) for name, frames_TD in frames.items()})
            for frames in clips
        ]

    def _streams(self) -> tuple[StreamSpec, ...]:
        streams = []
        if self._settings.posteriors:
            codec = "topk16" if len(self._phrases) > MANY_PHRASES else "uint8"
            streams.append(self._grid.stream(
                "posteriors", "multilabel", len(self._phrases), codec, pool=self._pool,
                names=self._phrases,
            ))  # fmt: skip
        if self._settings.features:
            streams.append(
                self._grid.stream("frames", "features", self._width, "int8", pool=self._pool)
            )
        return tuple(streams)

    def _embed_phrases(self, tokenizer: Any) -> Any:
        """Embeddings of the phrases: (C, E)."""
        import torch

        parts = []
        for first in range(0, len(self._phrases), PHRASES_PER_PASS):
            phrases = list(self._phrases[first : first + PHRASES_PER_PASS])
            tokens = tokenizer(phrases, padding=True, return_tensors="pt").to(self._device)
            with torch.inference_mode():
                output = self._model.text_model(
                    input_ids=tokens.input_ids, attention_mask=tokens.attention_mask,
                    output_hidden_states=True, return_dict=True,
                )  # fmt: skip
                parts.append(self._model.text_audio_head(output.hidden_states[-1][:, 0]))
        return torch.cat(parts)

    def _forward_batch(self, waves: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Computes native frames of each waveform of a batch, by stream."""
        import torch

        hop = self._grid.hop
        # The model's own extractor completes the last frame by reflection.
        padded = [np.pad(wave, (0, -len(wave) % hop), mode="reflect") for wave in waves]
        longest = max(map(len, padded))
        values_BL = np.zeros((len(waves), longest), np.float32)
        mask_BL = np.zeros((len(waves), longest), bool)
        for row, wave in enumerate(padded):
            values_BL[row, : len(wave)] = wave
            mask_BL[row, : len(wave)] = True
        inputs = {"input_values": torch.from_numpy(values_BL)[:, None]}
        if not mask_BL.all():
            inputs["padding_mask"] = torch.from_numpy(mask_BL)
        lengths = [len(wave) for wave in padded]
        with device.turn(), torch.inference_mode(), self._padding.lengths(lengths):
            frames_BTE = self._model.get_audio_embeds(**checkpoints.moved(inputs, self._model))
            streams = {}
            if self._settings.posteriors:
                scale, bias = self._model.text_audio_logit_scale, self._model.text_audio_logit_bias
                logits_BTC = frames_BTE.float() @ self._texts_CE.float().T
                streams["posteriors"] = (logits_BTC * scale.float() + bias.float()).sigmoid()
            if self._settings.features:
                streams["frames"] = frames_BTE
            copies = {name: device.HostCopy(each.float()) for name, each in streams.items()}
        arrays = {name: copy.array() for name, copy in copies.items()}
        return [
            {name: frames_BTD[row, : self._grid.count(len(wave))]
             for name, frames_BTD in arrays.items()}
            for row, wave in enumerate(waves)
        ]  # fmt: skip


@functools.cache
def audioset_classes() -> tuple[str, ...]:
    """The display names of AudioSet's 527 classes, in AudioSet's order (Google, CC-BY-4.0)."""
    text = (resources.files("teachers.toolkit") / "audioset_classes.csv").read_text("utf-8")
    return tuple(row["display_name"] for row in csv.DictReader(text.splitlines()))


class _PaddingGuard:
    """Sets the padding after each clip to zero before every convolution of the embedder."""

    def __init__(self, embedder: Any) -> None:
        from torch import nn

        self._lengths: list[int] = []
        for module in embedder.modules():
            if isinstance(module, nn.Conv1d):
                module.register_forward_pre_hook(self._mask)

    def lengths(self, lengths: Sequence[int]) -> _PaddingGuard:
        """Sets the number of samples of each clip in the next batch; a context manager for that
        batch."""
        self._lengths = list(lengths)
        return self

    def __enter__(self) -> None:
        """Starts the batch."""

    def __exit__(self, *error: object) -> None:
        self._lengths = []

    def _mask(self, module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        import torch

        longest = max(self._lengths)
        if min(self._lengths) == longest:
            return None
        (hidden_BCL,) = inputs
        # All lengths are whole frames, and every stride divides them.
        length = hidden_BCL.shape[2]
        ends_B = torch.tensor(self._lengths, device=hidden_BCL.device) * length // longest
        kept_BL = torch.arange(length, device=hidden_BCL.device) < ends_B[:, None]
        return (hidden_BCL * kept_BL[:, None].to(hidden_BCL.dtype),)


def _norm_in_float32(encoder: Any) -> None:
    """Runs the masked group norms of the patch embedder in float32."""
    from torch import nn

    for module in encoder.patch_embedder.modules():
        if isinstance(module, nn.GroupNorm):
            module.forward = _widened(module.float(), module.forward)


def _widened(module: Any, forward: Any) -> Any:
    def in_float32(hidden_BCT: Any, padding_mask: Any = None) -> Any:
        return forward(hidden_BCT.float(), padding_mask).to(hidden_BCT.dtype)

    return in_float32
