"""From note and onset posteriors to notes, for people and reports.

The rule of Basic Pitch (Bittner et al. 2022, section 3): a note begins where an onset posterior
peaks above a threshold and lasts while the note posterior stays above a lower one, short gaps
forgiven. A strike that the onset output missed is seen as a sudden rise of the note posterior.
Later notes are found first, and take what they use, so a repeated note ends the one before it.
"""

from __future__ import annotations

import numpy as np

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
) -> list[list[float]]:
    """[onset in s, offset in s, MIDI key, mean posterior in [0, 1]] of each note, by onset."""
    shortest, gap = round(SHORTEST_S / hop_s), round(GAP_S / hop_s)
    strikes_TK = np.maximum(onsets_TK, _rises(notes_TK, onsets_TK))
    before_TK = np.vstack([np.zeros_like(strikes_TK[:1]), strikes_TK[:-1]])
    after_TK = np.vstack([strikes_TK[1:], np.zeros_like(strikes_TK[:1])])
    peaks_TK = (strikes_TK >= onset_threshold) & (strikes_TK > before_TK) & (strikes_TK >= after_TK)
    left_TK = notes_TK.copy()
    found = []
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
        found.append(
            [
                round(float(start * hop_s), 4),
                round(float(end * hop_s), 4),
                int(key) + lowest_midi,
                round(amplitude, 3),
            ]
        )
    return sorted(found)


def _rises(notes_TK: np.ndarray, onsets_TK: np.ndarray) -> np.ndarray:
    """How much the note posterior rises over each of the last frames, scaled like the onsets."""
    padded_TK = np.vstack([np.zeros((RISE_FRAMES, notes_TK.shape[1]), np.float32), notes_TK])
    steps = [
        notes_TK - padded_TK[RISE_FRAMES - lag : len(padded_TK) - lag]
        for lag in range(1, RISE_FRAMES + 1)
    ]
    rise_TK = np.min(steps, axis=0).clip(0)
    rise_TK[:RISE_FRAMES] = 0
    return rise_TK * (onsets_TK.max() / max(rise_TK.max(), 1e-9))
