"""Finds clips that should be checked by listening before a student is trained on them.

A finding is evidence, not proof: thresholds are set so that a healthy corpus has few findings. Only
the sampled clips are checked; the whole corpus has proportionally more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from manifests.corpus.stats import is_same_language, labelled_language
from pipeline.report.audio_check import Sound
from pipeline.report.clip_summary import ClipSummary
from pipeline.report.sampling import Place

SILENT_DB = -55.0
"""RMS, dB of full scale."""
CLIPPED = 0.001
"""Share of samples in flat tops."""
WRONG = 0.5
"""Word error rate."""
LETTERS_PER_S = 30.0
"""A faster rate than human speech: the transcriber repeats itself."""
NO_SPEECH = 0.05
"""Maximum probability of speech in a clip without words."""
OUTLYING = 6.0
"""Robust standard deviations (1.4826 x median absolute deviation)."""
LEAST_SPREAD = 0.01
"""Minimum spread, as a share of the median: otherwise tiny differences between similar clips would
count as outliers."""
FEW = 20
"""Minimum number of clips for the detection of outliers."""
DRIFT_S = 0.15
"""Maximum difference of lengths. Rounding and the padding of mp3 encoders (up to 0.14 s at 16 kHz)
stay below it."""
MOST = 50
"""Maximum number of findings of a kind that the page lists; it counts all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityFinding:
    """One reason to listen to one clip."""

    kind: str
    clip_id: str
    place: Place
    uri: str
    detail: str
    weight: float
    """Larger values are more suspicious; comparable within a kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One kind of finding."""

    kind: str
    about: str


CHECKS = (
    Check(kind="silent", about=f"RMS below {SILENT_DB:g} dB of full scale"),
    Check(kind="clipped", about=f"more than {CLIPPED:.1%} of the samples in flat tops"),
    Check(kind="other audio", about="samples differ from those that the teachers processed"),
    Check(
        kind="length",
        about=f"a teacher processed {DRIFT_S:g} s more or less audio than the corpus states",
    ),
    Check(kind="transcript", about=f"word error rate above {WRONG:.0%} against the corpus's text"),
    Check(kind="language", about="transcribed in a different language from its label"),
    Check(kind="unreliable words", about="the decoder of the transcriber doubts its own words"),
    Check(kind="repetition", about=f"more than {LETTERS_PER_S:g} letters per second transcribed"),
    Check(
        kind="no speech",
        about="words that the transcriber does not doubt, although the speech probability never "
        f"exceeds {NO_SPEECH:.0%}",
    ),
    Check(kind="outlier", about=f"feature norm {OUTLYING:g} robust deviations from the median"),
)


def find(summaries: Sequence[ClipSummary], sounds: Mapping[Place, Sound]) -> list[QualityFinding]:
    """Returns all findings, by kind in the order of `CHECKS`, the most serious of a kind first.

    Args:
        summaries: The sampled clips.
        sounds: Place of a clip -> measurements of its samples, for the clips that were decoded.
    """
    findings = [*_outliers(summaries)]
    for clip in summaries:
        findings += _check_words(clip)
        findings += _check_length(clip)
        sound = sounds.get(clip.place)
        if sound is not None and not sound.problem:
            findings += _check_sound(clip, sound)
    order = {check.kind: place for place, check in enumerate(CHECKS)}
    return sorted(findings, key=lambda each: (order[each.kind], -each.weight, each.clip_id))


def select_listed(
    findings: Sequence[QualityFinding], shown: Collection[Place]
) -> list[QualityFinding]:
    """The findings that the page lists: `MOST` of each kind, and all of the clips that it shows."""
    ranks: Counter[str] = Counter()
    kept = []
    for each in findings:
        ranks[each.kind] += 1
        if ranks[each.kind] <= MOST or each.place in shown:
            kept.append(each)
    return kept


def applicable(summaries: Sequence[ClipSummary], sounds: Mapping[Place, Sound]) -> list[str]:
    """The kinds of checks for which at least one sampled clip has what they need."""
    with_words = [each for each in summaries if each.transcript]
    needs = {
        "silent": any(not sound.problem for sound in sounds.values()),
        "length": any(each.clip.likely_duration and each.targets for each in summaries),
        "transcript": any(each.error_rate is not None for each in summaries),
        "language": any(
            each.language and labelled_language(each.clip.labels) for each in with_words
        ),
        "unreliable words": bool(with_words),
        "repetition": bool(with_words),
        "no speech": any(each.speech is not None for each in with_words),
        "outlier": any(
            sum(key in each.norms for each in summaries) >= FEW
            for key in {key for each in summaries for key in each.norms}
        ),
    }
    needs |= dict.fromkeys(("clipped", "other audio"), needs["silent"])
    return [check.kind for check in CHECKS if needs[check.kind]]


def _check_sound(summary: ClipSummary, sound: Sound) -> Iterator[QualityFinding]:
    make_finding = _suspect(summary)
    if sound.rms_db < SILENT_DB:
        detail = f"RMS {sound.rms_db:.0f} dB, peak {sound.peak_db:.0f} dB"
        yield make_finding("silent", detail, -sound.rms_db)
    if sound.clipped > CLIPPED:
        yield make_finding("clipped", f"{sound.clipped:.2%} of the samples", sound.clipped)
    strangers = [
        name for name, target in summary.targets.items() if target.audio_digest != sound.digest
    ]
    if strangers:
        names = ", ".join(strangers)
        detail = f"{names} processed different audio: {summary.clip.uri} was replaced"
        yield make_finding("other audio", detail, len(strangers))


def _check_length(summary: ClipSummary) -> Iterator[QualityFinding]:
    stated = summary.clip.likely_duration
    if stated is None or not summary.targets:
        return
    worst = max(summary.targets.values(), key=lambda target: abs(target.duration - stated))
    drift = worst.duration - stated
    if abs(drift) > DRIFT_S:
        detail = f"{stated:.2f} s in the corpus, {worst.duration:.2f} s processed"
        yield _suspect(summary)("length", detail, abs(drift))


def _check_words(summary: ClipSummary) -> Iterator[QualityFinding]:
    make_finding = _suspect(summary)
    if summary.error_rate is not None and summary.error_rate > WRONG:
        detail = f"{summary.error_rate:.0%} word errors: “{_short(summary.transcript or '')}”"
        yield make_finding("transcript", detail, summary.error_rate)
    if not summary.transcript:
        return
    if summary.doubts:
        detail = f"{summary.doubts}: “{_short(summary.transcript)}”"
        yield make_finding("unreliable words", detail, float(summary.num_words))
    labelled, language = labelled_language(summary.clip.labels), summary.language
    if labelled and language and not is_same_language(labelled, language):
        detail = f"labelled {labelled}, transcribed as {language}"
        yield make_finding("language", detail, 1.0)
    seconds = max(target.duration for target in summary.targets.values())
    pace = len(summary.transcript) / max(seconds, 1e-3)
    if pace > LETTERS_PER_S:
        detail = f"{pace:.0f} letters per second: “{_short(summary.transcript)}”"
        yield make_finding("repetition", detail, pace)
    if summary.doubts:
        return
    if summary.num_words and summary.speech is not None and summary.speech < NO_SPEECH:
        text = _short(summary.transcript)
        detail = f"speech probability at most {summary.speech:.1%}, but transcribed as “{text}”"
        yield make_finding("no speech", detail, -summary.speech)


def _outliers(summaries: Sequence[ClipSummary]) -> Iterator[QualityFinding]:
    for key in dict.fromkeys(key for each in summaries for key in each.norms):
        having = [each for each in summaries if key in each.norms]
        norms = np.array([each.norms[key] for each in having])
        middle = float(np.median(norms))
        spread = 1.4826 * float(np.median(np.abs(norms - middle)))
        spread = max(spread, LEAST_SPREAD * middle)
        if len(norms) < FEW or spread == 0:
            continue
        for each, norm in zip(having, norms.tolist(), strict=True):
            far = abs(norm - middle) / spread
            if far > OUTLYING:
                detail = f"{key}: norm {norm:.2f}, the median is {middle:.2f}"
                yield _suspect(each)("outlier", detail, far)


def _suspect(summary: ClipSummary) -> Callable[[str, str, float], QualityFinding]:
    def make_finding(kind: str, detail: str, weight: float) -> QualityFinding:
        return QualityFinding(
            kind=kind,
            clip_id=summary.clip.clip_id,
            place=summary.place,
            uri=summary.clip.uri,
            detail=detail,
            weight=weight,
        )

    return make_finding


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:59]}…"
