"""Decodes notes from note and onset posteriors, and compares two lists of notes.

The rule of Basic Pitch (Bittner et al. 2022, section 3): a note begins where an onset posterior
peaks above a threshold and lasts while the note posterior stays above a lower one, short gaps
forgiven. An onset that the onset output missed is detected as a sudden rise of the note posterior.
Later notes are decoded first and remove the frames they use, so a repeated note ends the one before
it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from manifests.streams.transcript import Note

# Legend: T frames, K keys.

SHORTEST_S = 0.128
"""Shorter notes are dropped: 11 frames at 86 Hz, the published choice."""
GAP_S = 0.128
"""A dip of the note posterior shorter than this does not end a note."""
RISE_FRAMES = 2


def decode_notes(
    notes_TK: np.ndarray,
    onsets_TK: np.ndarray,
    *,
    hop_s: float,
    lowest_midi: int,
    onset_threshold: float,
    note_threshold: float,
) -> list[Note]:
    """Decodes the notes from two posteriors, ordered by onset."""
    shortest, gap = round(SHORTEST_S / hop_s), round(GAP_S / hop_s)
    strikes_TK = np.maximum(onsets_TK, _rises(notes_TK, onsets_TK))
    before_TK = np.vstack([np.zeros_like(strikes_TK[:1]), strikes_TK[:-1]])
    after_TK = np.vstack([strikes_TK[1:], np.zeros_like(strikes_TK[:1])])
    peaks_TK = (strikes_TK >= onset_threshold) & (strikes_TK > before_TK) & (strikes_TK >= after_TK)
    left_TK = notes_TK.copy()
    notes = []
    for start, key in reversed(np.argwhere(peaks_TK)):
        end, below = start + 1, 0
        while end < len(left_TK) and below < gap:
            below = below + 1 if left_TK[end, key] < note_threshold else 0
            end += 1
        end -= below
        if end - start <= shortest:
            continue
        amplitude = float(notes_TK[start:end, key].mean())
        left_TK[start:end, key] = 0
        notes.append(
            Note(
                round(float(start * hop_s), 4),
                round(float(end * hop_s), 4),
                int(key) + lowest_midi,
                round(amplitude, 3),
            )
        )
    return sorted(notes)


def _rises(notes_TK: np.ndarray, onsets_TK: np.ndarray) -> np.ndarray:
    """The rise of the note posterior over each of the last frames, scaled like the onsets."""
    padded_TK = np.vstack([np.zeros((RISE_FRAMES, notes_TK.shape[1]), np.float32), notes_TK])
    steps = [
        notes_TK - padded_TK[RISE_FRAMES - lag : len(padded_TK) - lag]
        for lag in range(1, RISE_FRAMES + 1)
    ]
    rise_TK = np.min(steps, axis=0).clip(0)
    rise_TK[:RISE_FRAMES] = 0
    return rise_TK * (onsets_TK.max() / max(rise_TK.max(), 1e-9))


ONSET_TOLERANCE_S = 0.05
"""Onsets of one note may be this far apart (the usual rule, mir_eval's default)."""


def note_f1(reference: Sequence[Note], estimated: Sequence[Note]) -> dict[str, float]:
    """Computes precision, recall and F1 of notes by mir_eval's rules, without offsets.

    An estimated note is right if it has the key of a reference note and an onset within 50 ms of
    it; a note is matched once at most, and as many as possible are matched. NaN without any notes.
    """
    by_key: dict[int, list[float]] = defaultdict(list)
    for note in reference:
        by_key[note.midi].append(note.start_s)
    hits = 0
    for midi, starts in by_key.items():
        expected, given = sorted(starts), sorted(n.start_s for n in estimated if n.midi == midi)
        place = 0
        # Within one key, matching the earliest possible partners gives the largest matching.
        for start in expected:
            while place < len(given) and round(start - given[place], 4) > ONSET_TOLERANCE_S:
                place += 1
            if place < len(given) and round(given[place] - start, 4) <= ONSET_TOLERANCE_S:
                hits, place = hits + 1, place + 1
    if not reference and not estimated:
        return dict.fromkeys(("note_precision", "note_recall", "note_f1"), float("nan"))
    precision, recall = hits / max(len(estimated), 1), hits / max(len(reference), 1)
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return {"note_precision": precision, "note_recall": recall, "note_f1": f1}
