"""Selects questions before PyTorch is imported, so that mistakes in them are reported at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from manifests.errors import UserError, check_least
from student.evaluation.benchmarks import load_benchmark
from student.evaluation.question_files import questions_of_run, read_questions
from student.evaluation.questions import Question


@dataclass(frozen=True, slots=True)
class Selection:
    """Questions that runs are asked."""

    questions: list[Question]
    name: str
    """Name of the benchmark or of the file."""
    suffix: str = ""
    """Addition to the name of the results if only some of the questions are selected."""


def select(
    run: str, path: str | None, *, benchmark: str = "", data: str = "", limit: int = 0
) -> Selection:
    """Reads the questions of a file, of a benchmark, or of a run's own held-out examples.

    Args:
        run: Folder of the run whose held-out examples are the default.
        path: JSON-lines file of questions.
        benchmark: Name of a benchmark.
        data: Folder of its local copy.
        limit: Number of questions, evenly spaced, so that every task keeps its share; 0 for all.

    Raises:
        UserError: there are no such questions, or one of them is not valid.
    """
    if benchmark and path:
        raise UserError("give either --questions or --benchmark, not both")
    if benchmark and not data:
        raise UserError(f"--benchmark {benchmark} needs --data, the folder of your local copy")
    if benchmark:
        available = load_benchmark(benchmark, Path(data))
    else:
        available = read_questions(path) if path else questions_of_run(Path(run))
    name = benchmark or (Path(path).stem if path else "held_out")
    if not limit or limit >= len(available):
        return Selection(available, name)
    selected = [available[place * len(available) // limit] for place in range(limit)]
    return Selection(selected, name, f"-limit{limit}")


def check_numbers(
    *, limit: int, batch_size: int, max_tokens: int = 1, max_transcript_tokens: int = 1
) -> None:
    """Checks the numbers of a command.

    Raises:
        UserError: one of them is out of range.
    """
    check_least("--limit", limit, 0)
    check_least("--batch-size", batch_size, 1)
    check_least("--max-tokens", max_tokens, 1)
    check_least("--max-transcript-tokens", max_transcript_tokens, 1)
