"""Joint embeddings of audio and text: LAION's CLAP (Wu et al., ICASSP 2023, arXiv 2211.06687).

transformers' `ClapModel` (laion-clap itself pins an old numpy and wants torchaudio). The first
stream contains the audio encoder's frames before pooling, about 3.2 per second. With a list of
labels, a second stream contains the probability of each label in each frame: frames are projected
individually into the space of the label prompts. Clips shorter than 10 s are repeated to fill the
window, as in CLAP's training; longer ones are cut into windows that are cross-faded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manifests.errors import UserError
from manifests.streams.specs import StreamSpec, TeacherSpec
from teachers.protocol import Targets
from teachers.toolkit import checkpoints, device
from teachers.toolkit.checkpoints import HubSettings
from teachers.toolkit.windowing import Grid, over_clips, pooled

# Legend: B batch, T frames, D width of the encoder, E width of the common space, C labels.

OVERLAP_FRAMES = 8
"""2.5 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CLAPSettings(HubSettings):
    """Settings of `CLAP`."""

    model: str = "laion/larger_clap_music_and_speech"
    """Hub id or folder of a CLAP checkpoint."""
    labels: tuple[str, ...] = ()
    """Labels to score, e.g. [a violin, applause]. Without labels there are no posteriors."""
    prompt: str = "This is a sound of {}."
    """Prompt template for each label."""


class CLAP:
    """Frames of CLAP's audio encoder, and posteriors of labels in words."""

    Settings = CLAPSettings
    overlaps = True

    def __init__(self, name: str, settings: CLAPSettings) -> None:
        self._name = name
        self._settings = settings
        self._checkpoint = checkpoints.find(settings)
        if self._checkpoint.config.get("model_type") != "clap":
            raise UserError(f"teacher {name}: {settings.model} is not a CLAP checkpoint")
        if "{}" not in settings.prompt:
            raise UserError(f"teacher {name}: prompt needs a {{}}; found {settings.prompt!r}")
        audio = self._checkpoint.config["audio_config"]
        extractor = self._checkpoint.read("preprocessor_config.json")
        stages = len(audio["depths"])
        self._width = audio["patch_embeds_hidden_size"] * 2 ** (stages - 1)
        ratio = audio["spec_size"] // audio["num_mel_bins"]
        self._size = ratio * (audio["spec_size"] // 2 ** (stages - 1) // _pair(audio)[1])
        self._rate = extractor.get("sampling_rate", 48_000)
        self._most = extractor.get("max_length_s", 10) * self._rate
        # The window's mel frames are stretched to the encoder's input, ends to ends.
        mels, hop = self._most // extractor["hop_length"], extractor["hop_length"]
        stretched = audio["spec_size"] * ratio
        samples_per_column = mels / (stretched - 1) * hop
        columns = stretched / self._size
        centre = (columns - 1) / 2 * samples_per_column
        self._grid = Grid(
            sample_rate=self._rate, hop=round(columns * samples_per_column), field=round(centre),
            centre=centre, window=round(columns * samples_per_column),
        )  # fmt: skip
        self._pool = self._grid.pool(settings.frame_rate)
        self.budget = settings.budget("cpu")
        self._model: Any = None
        self._extractor: Any = None
        self._texts_CE: Any = None

    def spec(self) -> TeacherSpec:
        """See `teachers.protocol.Teacher`."""
        return TeacherSpec(
            name=self._name,
            family="clap",
            revision=1,
            settings=self._settings.recorded(),
            weights=self._checkpoint.digests(),
            sample_rate=self._rate,
            streams=self._streams(),
            license=self._checkpoint.license(self._settings.license),
        )

    def load(self, *, device: str, num_threads: int) -> None:
        """See `teachers.protocol.Teacher`. The text encoder is released after use."""
        checkpoints.offline()
        from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

        folder = self._checkpoint.folder
        self.budget = self._settings.budget(device)
        self._model = checkpoints.load(
            ClapModel, self._checkpoint, self._settings, device=device, num_threads=num_threads
        )
        self._extractor = ClapFeatureExtractor.from_pretrained(folder)
        if self._settings.labels:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._texts_CE = self._read(tokenizer)
        self._model.text_model = None

    def extract(self, waves: Sequence[np.ndarray]) -> list[Targets]:
        """See `teachers.protocol.Teacher`."""
        clips = over_clips(
            waves, self._grid, self._forward_batch, size=self._size,
            overlap=min(OVERLAP_FRAMES, self._size // 2),
            budget=self.budget,
        )  # fmt: skip
        return [
            Targets({name: pooled(each_TD, self._pool) for name, each_TD in frames.items()})
            for frames in clips
        ]

    def _streams(self) -> tuple[StreamSpec, ...]:
        frames = self._grid.stream("frames", "features", self._width, "int8", pool=self._pool)
        labels = self._settings.labels
        if not labels:
            return (frames,)
        posteriors = self._grid.stream(
            "posteriors", "distribution", len(labels), "uint8", pool=self._pool, names=labels
        )
        return (frames, posteriors)

    def _read(self, tokenizer: Any) -> Any:
        """Embeddings of the labels' prompts, of length 1: (C, E)."""
        import torch
        from torch.nn import functional

        texts = [self._settings.prompt.format(label) for label in self._settings.labels]
        with torch.inference_mode():
            tokens = tokenizer(texts, padding=True, return_tensors="pt").to(self._model.device)
            output = self._model.text_model(**tokens)
            return functional.normalize(self._model.text_projection(output.pooler_output), dim=-1)

    def _forward_batch(self, waves: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Computes native frames of each waveform of a batch, by stream."""
        import torch
        from torch.nn import functional

        # Clips are cut to the window here, because the extractor would choose a random part.
        windows = [wave[: self._most] for wave in waves]
        prepared = self._extractor(windows, sampling_rate=self._rate, return_tensors="pt")
        with device.turn(), torch.inference_mode():
            output = self._model.audio_model(
                **checkpoints.moved({"input_features": prepared["input_features"]}, self._model),
                # The extractor marks a random clip as long, but none is.
                is_longer=torch.zeros(len(waves), 1, dtype=torch.bool, device=self._model.device),
            )
            frames_BTD = output.last_hidden_state.mean(2).transpose(1, 2)
            streams = {"frames": frames_BTD}
            if self._texts_CE is not None:
                common_BTE = functional.normalize(self._model.audio_projection(frames_BTD), dim=-1)
                scale = self._model.logit_scale_a.exp().float()
                logits_BTC = scale * (common_BTE.float() @ self._texts_CE.float().T)
                streams["posteriors"] = logits_BTC.softmax(-1)
            copies = {name: device.HostCopy(each.float()) for name, each in streams.items()}
        arrays = {name: copy.array() for name, copy in copies.items()}
        return [
            {name: each_BTD[row, : self._grid.count(len(wave))]
             for name, each_BTD in arrays.items()}
            for row, wave in enumerate(waves)
        ]  # fmt: skip


def _pair(audio: dict[str, Any]) -> tuple[int, int]:
    stride = audio["patch_stride"]
    return (stride, stride) if isinstance(stride, int) else tuple(stride)
