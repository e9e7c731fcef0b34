"""Warns about a transcriber whose language is not that of the corpus.

A decoder writes words for any speech: the packaged Whisper tiny.en turns German into English
nonsense. The words can be left out afterwards (`Transcript.doubts`), but users expect to be told
before hours of work.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

import numpy as np

from manifests.corpus.corpus import Corpus
from manifests.corpus.stats import is_same_language, labelled_language
from manifests.streams.specs import TeacherSpec

log = logging.getLogger(__name__)

SHARDS_READ = 16
"""Number of shards whose labels are read."""


def warn_of_languages(corpus: Corpus, specs: Iterable[TeacherSpec]) -> None:
    """Logs a warning for each transcriber that writes another language than a corpus is labelled.

    Only the labels of a few shards are read, evenly spaced, because corpora are often sorted by
    language.
    """
    transcribers = {
        spec.name: str(spec.settings["language"])
        for spec in specs
        if spec.settings.get("language") and spec.settings.get("transcribe", True)
    }
    if not transcribers or not corpus.num_shards:
        return
    numbers = {int(n) for n in np.linspace(0, corpus.num_shards - 1, SHARDS_READ)}
    clips = (clip for number in sorted(numbers) for clip in corpus.shard(number))
    counts = Counter(labelled_language(clip.labels) for clip in clips)
    del counts[""]
    looked_at = "labelled" if len(numbers) == corpus.num_shards else "sampled labelled"
    for name, language in transcribers.items():
        other = {
            label: count
            for label, count in counts.most_common()
            if not is_same_language(label, language)
        }
        if other:
            log.warning(
                "teacher %s transcribes %s, but %d of %d %s clips are in other languages (%s): its "
                "words for these are not reliable; its frames are not words. For their words, use "
                "a multilingual model; without any words, set transcribe: false (docs/teachers.md)",
                name, language, sum(other.values()), counts.total(), looked_at,
                ", ".join(list(other)[:8]),
            )  # fmt: skip
