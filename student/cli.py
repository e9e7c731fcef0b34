"""`coat-student`: trains students from teacher caches, and asks them. Parses and calls.

What needs torch is imported by the command that needs it: `--help` and a mistyped recipe answer at
once.
"""

from __future__ import annotations

from manifests.console import console, run_command
from student.config import TrainOptions


def train(options: TrainOptions) -> None:
    """Train a student from a corpus and its teacher cache, or go on with an unfinished run."""
    from student.train import train as run_training

    run_training(options)


def generate(audio: str, question: str, *, run: str = "run", max_tokens: int = 128) -> None:
    """Answer a question about an audio file.

    Args:
        audio: Audio file.
        question: What is asked.
        run: Folder of the run.
        max_tokens: Longest answer.
    """
    from student.generate import TrainedStudent

    (answer,) = TrainedStudent(run).answer([audio], question, max_tokens=max_tokens)
    console.print(answer, markup=False)


def main() -> None:
    """Entry point of `coat-student`."""
    run_command(
        "coat-student",
        {"train": train, "generate": generate},
        description="Students that learn continuous audio thinking from a teacher cache.",
    )


if __name__ == "__main__":
    main()
