"""Decides whether a run goes on after its corpus or its conversations have changed.

A run trains on its own copy of its examples (`student.data.build_table`). Corpora grow, and texts
and labels are corrected, while runs of many days are interrupted and resumed; none of that changes
or stops a run. Another corpus under the same `--out` is most likely a mistake.
"""

from __future__ import annotations

import numpy as np

from manifests.cache.clip_index import clip_keys
from manifests.corpus.corpus import Corpus
from manifests.errors import UserError
from student.config import Recipe
from student.data.example_table import ClipTable
from student.runs.folder import Run
from student.runs.identity import digest_chats


def check_sources(run: Run, recipe: Recipe, corpus: Corpus) -> str:
    """Checks the sources of a run that is resumed; a run that has trained nothing is restarted.

    Returns:
        A note about sources that have changed since the run was started, or an empty string.

    Raises:
        UserError: the run cannot go on without its original sources.
    """
    if not run.exists:
        return ""
    begun = run.identity
    changed = []
    if begun.corpus and begun.corpus != corpus.digest:
        changed.append("the corpus has got other clips, texts or labels")
    chats = digest_chats(recipe)
    changed += [
        f"{path} has got other conversations"
        for path, digest in begun.chats.items()
        if chats.get(path) != digest
    ]
    if not changed:
        return ""
    if not run.has_trained:
        run.clear()
        return ""
    if run.has_examples() and _contains(corpus, ClipTable(run.examples_folder)):
        return (
            f"since the run was started, {' and '.join(changed)}; the run goes on with the "
            "examples that it was started with. To train on the new ones, choose another --out"
        )
    raise UserError(
        f"the run was started with other data: {'; '.join(changed)}; continue with the original "
        "data, or choose another --out"
    )


def _contains(corpus: Corpus, clips: ClipTable) -> bool:
    """Whether a corpus has all clips of a run, by their ids."""
    keys = [clip_keys(corpus.shard_ids(number)) for number in range(corpus.num_shards)]
    return bool(np.isin(clips.id_keys, np.concatenate(keys)).all())
