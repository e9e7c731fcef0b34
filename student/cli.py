"""`coat-student`: trains students from teacher caches, and asks them."""

from __future__ import annotations

from manifests.console import console, run_command


def generate(run: str, audio: list[str], *, question: str = "What is said?") -> None:
    """Answers a question about each audio file.

    Args:
        run: Folder of a finished run.
        audio: Audio files.
        question: What is asked.
    """
    from student.generate import TrainedStudent

    for path, answer in zip(audio, TrainedStudent(run).answer(audio, question), strict=True):
        console.print(f"{path}: {answer}" if len(audio) > 1 else answer, markup=False)


def main() -> None:
    """Entry point of `coat-student`."""
    from student.train import TrainOptions, train

    def train_command(options: TrainOptions) -> None:
        """Trains a student from a corpus and its teacher cache, or goes on with a run."""
        train(options)

    run_command(
        "coat-student",
        {"train": train_command, "generate": generate},
        description="Continuous audio thinking: students that learn from a teacher cache.",
    )


if __name__ == "__main__":
    main()
