"""Plug-in that evaluates students with lmms-eval, to reproduce public result tables.

    lmms-eval --model coat_distill --model_args run=run/coat-0 --tasks mmau --batch_size 8

The plug-in is registered by an entry point (group `lmms_eval.models`) and supports all backbones,
which are detected from the run or checkpoint. It was written for lmms-eval 0.7. Only the harness
imports this module, with its own dependencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import soxr
from lmms_eval.api.model import lmms  # type: ignore[import-not-found]
from lmms_eval.models.registry_v2 import ModelManifest  # type: ignore[import-not-found]

from student.inference.generate import TrainedStudent

MAX_TOKENS = 256


def manifest() -> ModelManifest:
    """The manifest that the entry point gives to the harness."""
    return ModelManifest(
        model_id="coat_distill", simple_class_path=f"{__name__}.CoatStudent", aliases=("coat",)
    )


class CoatStudent(lmms):
    """A trained student behind the harness' interface.

    Args:
        run: Folder of a run or of a plain checkpoint (such as the unmodified model).
        batch_size: Requests per forward pass.
        max_batch_size: Passed by the harness to every model; ignored, as batches have a fixed size.
        device: Passed by the harness to every model; ignored, as a student uses the GPU if there
            is one.
    """

    is_simple = True

    def __init__(
        self,
        run: str,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        del max_batch_size, device
        if options:
            raise ValueError(f"coat_distill takes `run` and `batch_size`; found {sorted(options)}")
        self.student = TrainedStudent(run)
        self.batch_size = int(batch_size)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Generates greedy replies in the order of the requests, each truncated at its `until`."""
        replies: dict[int, str] = {}
        order = sorted(range(len(requests)), key=lambda place: _settings(requests[place]))
        for settings, places in groupby(order, key=lambda place: _settings(requests[place])):
            group = list(places)
            max_tokens, until = settings
            for start in range(0, len(group), self.batch_size):
                batch = group[start : start + self.batch_size]
                conversations = [self._conversation(requests[place]) for place in batch]
                texts = self.student.reply(
                    [messages for messages, _ in conversations],
                    [waves for _, waves in conversations],
                    max_tokens=max_tokens,
                )
                for place, text in zip(batch, texts, strict=True):
                    replies[place] = _cut(text, until)
        return [replies[place] for place in range(len(requests))]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        raise NotImplementedError("coat_distill generates free answers; choose a generation task")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise NotImplementedError("coat_distill answers a single turn; choose a single-turn task")

    def _conversation(self, request: Any) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
        context, _, doc_to_audio, doc_id, task, split = request.args
        audios = doc_to_audio(self.task_dict[task][split][doc_id])
        waves = [self._wave(audio) for audio in audios]
        content: list[dict[str, Any]] = [{"type": "audio", "audio": ""} for _ in waves]
        return [{"role": "user", "content": [*content, {"type": "text", "text": context}]}], waves

    def _wave(self, audio: Any) -> np.ndarray:
        """Converts the harness' audio (an array or a decoder of datasets) to mono at our rate."""
        if hasattr(audio, "get_all_samples"):
            samples = audio.get_all_samples()
            array, rate = samples.data.numpy(), samples.sample_rate
        else:
            array, rate = np.asarray(audio["array"], np.float32), audio["sampling_rate"]
        if array.ndim == 2:
            array = array.mean(0 if array.shape[0] < array.shape[1] else 1)
        rate_out = self.student.student.backbone.sample_rate
        return soxr.resample(array.astype(np.float32), rate, rate_out)


def _settings(request: Any) -> tuple[int, tuple[str, ...]]:
    """The maximum length of a reply, and the strings that end it."""
    options = request.args[1]
    until = options.get("until") or ()
    until = (until,) if isinstance(until, str) else tuple(until)
    return int(options.get("max_new_tokens") or MAX_TOKENS), until


def _cut(text: str, until: Sequence[str]) -> str:
    for end in filter(None, until):
        text = text.partition(end)[0]
    return text.strip()
