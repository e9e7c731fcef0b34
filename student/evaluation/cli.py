"""The commands `eval`, `ablate` and `probe` of `coat-student`. Parses and calls."""

from __future__ import annotations


def evaluate(
    runs: list[str],
    *,
    questions: str | None = None,
    benchmark: str = "",
    data: str = "",
    name: str = "",
    limit: int = 0,
    batch_size: int = 16,
    blind: bool = False,
    max_tokens: int = 64,
    max_transcript_tokens: int = 256,
) -> None:
    """Score runs on questions with answers, arms beside each other, with intervals.

    Args:
        runs: Folders of runs, or plain checkpoints such as RUN/base.
        questions: JSON lines of questions (docs/evaluate.md has their keys); the first run's own
            held-out examples if neither this nor `benchmark` is given.
        benchmark: Name of a public benchmark, read from your local copy.
        data: Folder of that copy.
        name: Name of the results, RUN/eval/NAME.json; the file's or the benchmark's if empty.
        limit: Ask that many only, evenly spread; 0 is all.
        batch_size: Questions per forward pass.
        blind: Ask without audio: what can be guessed from the questions alone.
        max_tokens: Longest answer; longer ones are cut, and counted.
        max_transcript_tokens: Longest transcript.
    """
    from student.evaluation.answering import TokenLimits
    from student.evaluation.commands import eval_runs
    from student.quiet import quiet_libraries

    quiet_libraries()
    limits = TokenLimits(answer=max_tokens, transcription=max_transcript_tokens)
    eval_runs(runs, questions, name, benchmark, data, limit, batch_size, blind, limits)


def ablate(
    runs: list[str],
    *,
    questions: str | None = None,
    first_layer: int = 0,
    limit: int = 0,
    batch_size: int = 16,
    max_tokens: int = 64,
    max_transcript_tokens: int = 256,
) -> None:
    """Is the block used? Replace its states, remove it, swap or drop the audio, and ask again.

    Args:
        runs: Folders of runs; several are drawn side by side.
        questions: JSON lines of questions; the first run's own held-out examples if not given.
        first_layer: Decoder layer from whose entrance on states are replaced; 0 is all of them.
        limit: Ask that many only, evenly spread; 0 is all.
        batch_size: Questions per forward pass.
        max_tokens: Longest answer; longer ones are cut, and counted.
        max_transcript_tokens: Longest transcript.
    """
    from student.evaluation.answering import TokenLimits
    from student.evaluation.commands import ablate_runs
    from student.quiet import quiet_libraries

    quiet_libraries()
    limits = TokenLimits(answer=max_tokens, transcription=max_transcript_tokens)
    ablate_runs(runs, questions, first_layer, limit, batch_size, limits)


def probe(
    runs: list[str],
    *,
    questions: str | None = None,
    cache: str | list[str] | None = None,
    limit: int = 0,
    batch_size: int = 16,
) -> None:
    """Fit linear probes of the experts' streams and of labels, by layer and position.

    Args:
        runs: Folders of runs, or plain checkpoints such as RUN/base.
        questions: JSON lines whose clips are probed, their answers as labels; the first run's own
            held-out examples if not given.
        cache: Cache, or caches, with the clips' streams; without, labels alone are probed. With it,
            the heads of runs that have any are measured, too.
        limit: Most questions, evenly spread; 0 is all.
        batch_size: Clips per forward pass.
    """
    from student.evaluation.commands import probe_runs
    from student.quiet import quiet_libraries

    quiet_libraries()
    caches = [cache] if isinstance(cache, str) else cache or []
    probe_runs(runs, questions, caches, limit, batch_size)
