"""`coat-student`: trains students from teacher caches, and asks them. Parses and calls.

What needs torch is imported by the command that needs it: `--help` and a mistyped recipe answer at
once.
"""

from __future__ import annotations

from manifests.console import console, run_command
from student.config import ArmsOptions, TrainOptions


def train(options: TrainOptions) -> None:
    """Train a student from a corpus and its teacher cache, or go on with an unfinished run."""
    from student.train import train as run_training

    run_training(options)


def arms(options: ArmsOptions) -> None:
    """Train coat and its controls (sft, pause) with several seeds from one recipe."""
    from student.arms import run_arms

    console.print(run_arms(options))


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


def export(run: str, out: str) -> int:
    """Write a run as a plain checkpoint that stock transformers and vLLM load, and prove it.

    Args:
        run: Folder of the run.
        out: Folder of the checkpoint.
    """
    from student.export import describe
    from student.export import export as run_export

    proof = run_export(run, out)
    console.print(describe(proof, out))
    return 0 if proof.holds else 1


def main() -> None:
    """Entry point of `coat-student`."""
    run_command(
        "coat-student",
        {"train": train, "arms": arms, "generate": generate, "export": export},
        description="Students that learn continuous audio thinking from a teacher cache.",
    )


if __name__ == "__main__":
    main()
