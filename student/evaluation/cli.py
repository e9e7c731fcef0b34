"""The commands `eval`, `ablate` and `probe` of `coat-student`."""

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
    """Score runs on questions with known answers, and compare arms, with intervals.

    Replies are kept as they are made. After an interruption, run the same command again.

    Args:
        runs: Folders of runs, or plain checkpoints such as RUN/base.
        questions: JSON-lines file of questions (docs/evaluate.md describes the keys). The default,
            without `benchmark`, is the held-out examples of the first run.
        benchmark: Name of a public benchmark, which is read from a local copy (docs/evaluate.md
            lists the names and the files).
        data: Folder of the local copy.
        name: Name of the results, RUN/eval/NAME.json. If empty, the name of the question file or
            of the benchmark.
        limit: Number of questions to use, evenly spread over the file; 0 uses all.
        batch_size: Questions per forward pass.
        blind: Ask without audio, to measure what can be guessed from the questions alone.
        max_tokens: Maximum length of an answer; longer answers are truncated and counted.
        max_transcript_tokens: Maximum length of a transcript.
    """
    from student.evaluation.selection import check_numbers, select

    check_numbers(
        limit=limit, batch_size=batch_size, max_tokens=max_tokens,
        max_transcript_tokens=max_transcript_tokens,
    )  # fmt: skip
    asked = select(runs[0], questions, benchmark=benchmark, data=data, limit=limit)
    from student.evaluation.answering import TokenLimits
    from student.evaluation.commands import eval_runs
    from student.quiet import quiet_libraries

    quiet_libraries()
    limits = TokenLimits(answer=max_tokens, transcription=max_transcript_tokens)
    name = (name or asked.name) + asked.suffix + ("-blind" if blind else "")
    eval_runs(runs, asked.questions, name, batch_size=batch_size, blind=blind, limits=limits)


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
    """Test whether answers depend on the block: replace or remove it or the audio, and ask again.

    Replies are kept as they are made. After an interruption, run the same command again.

    Args:
        runs: Folders of runs. Several runs are plotted side by side.
        questions: JSON-lines file of questions. The default is the held-out examples of the first
            run.
        first_layer: First decoder layer whose input states are replaced; 0 replaces them in all.
        limit: Number of questions to use, evenly spread over the file; 0 uses all.
        batch_size: Questions per forward pass.
        max_tokens: Maximum length of an answer; longer answers are truncated and counted.
        max_transcript_tokens: Maximum length of a transcript.
    """
    from student.evaluation.selection import check_numbers, select

    check_numbers(
        limit=limit, batch_size=batch_size, max_tokens=max_tokens,
        max_transcript_tokens=max_transcript_tokens,
    )  # fmt: skip
    asked = select(runs[0], questions, limit=limit).questions
    from student.evaluation.answering import TokenLimits
    from student.evaluation.commands import ablate_runs
    from student.quiet import quiet_libraries

    quiet_libraries()
    limits = TokenLimits(answer=max_tokens, transcription=max_transcript_tokens)
    ablate_runs(runs, asked, first_layer=first_layer, batch_size=batch_size, limits=limits)


def probe(
    runs: list[str],
    *,
    questions: str | None = None,
    cache: str | list[str] | None = None,
    limit: int = 0,
    batch_size: int = 16,
) -> None:
    """Fit linear probes for the experts' streams and for labels, by layer and position.

    States and scores are kept as they are made. After an interruption, run the same command again.

    Args:
        runs: Folders of runs, or plain checkpoints such as RUN/base.
        questions: JSON-lines file of questions. Their clips are probed, with the answers as labels.
            The default is the held-out examples of the first run.
        cache: One or more caches with the streams of the clips. Without a cache, only labels are
            probed. With a cache, the heads of the runs are evaluated, too.
        limit: Number of questions to use, evenly spread over the file; 0 uses all.
        batch_size: Clips per forward pass.
    """
    from student.evaluation.analysis.probed_clips import check_enough
    from student.evaluation.selection import check_numbers, select

    check_numbers(limit=limit, batch_size=batch_size)
    asked = select(runs[0], questions, limit=limit).questions
    check_enough(asked)
    from student.evaluation.commands import probe_runs
    from student.quiet import quiet_libraries

    quiet_libraries()
    caches = [cache] if isinstance(cache, str) else cache or []
    probe_runs(runs, asked, caches=caches, batch_size=batch_size)
