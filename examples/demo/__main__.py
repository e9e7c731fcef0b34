"""The demo: runs both stages on 140 real clips, with the commands that a user would type.

    make demo                                    # or, in any folder:
    python -m examples.demo --out my/folder

It prints each command before running it, and prints tables of the results at the end. Running the
demo again resumes it.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from manifests.cache.layout import Layout
from manifests.interruptions import exit_code_of, ignore_signals, raise_on_sigterm
from manifests.json_lines import read_lines
from pipeline.inspect.status import status
from student.data.held_out import read_held_out
from student.runs.folder import Run

RECIPE = Path(__file__).with_name("recipe.yaml")
BIN = Path(sys.executable).parent
console = Console(highlight=False)


def run(*command: str | Path) -> float:
    """Prints and runs one command of this project; returns the elapsed seconds."""
    words = [str(word) for word in command]
    console.print(f"\n[bold]$ {shlex.join(words)}[/bold]")
    if words[0].startswith("coat-"):
        words[0] = str(BIN / words[0])
    start = time.monotonic()
    process = subprocess.Popen(words)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        # The command ends its own processes, such as those of a Ray cluster.
        ignore_signals()
        process.terminate()
        process.wait()
        raise
    if code:
        sys.exit(code)
    return time.monotonic() - start


def main() -> None:
    """Runs the demo in the folder of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo",
        description="Runs both stages on 140 real clips, with the commands that a user would type.",
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder of all files")
    out = parser.parse_args().out
    raise_on_sigterm()
    try:
        run_demo(out)
    except KeyboardInterrupt as error:
        ignore_signals()
        console.print("\ninterrupted; the same command resumes the demo")
        sys.exit(exit_code_of(error))


def run_demo(out: Path) -> None:
    """Runs all steps of the demo, and prints the tables."""
    corpus, cache, student = out / "corpus", out / "cache", out / "student"
    cache_report, student_report = out / "reports" / "cache", out / "reports" / "student"
    recipe = Path(os.path.relpath(RECIPE)) if RECIPE.is_relative_to(Path.cwd()) else RECIPE
    seconds = {
        "corpus": run(sys.executable, "-m", "examples.demo.corpus", "--out", out / "source")
        + run("coat-corpus", "build", out / "source" / "clips.jsonl", "--out", corpus,
              "--clips-per-shard", "16", "--update-labels"),
        "teacher cache": run("coat-cache", "build", "--corpus", corpus, "--cache", cache),
        "student": run("coat-student", "train", "--config", recipe, "--corpus", corpus,
                       "--cache", cache, "--out", student),
        "held-out answers": run("coat-student", "eval", student),
        "reports": run("coat-cache", "report", "--cache", cache, "--out", cache_report)
        + run("coat-student", "report", student, "--cache", cache, "--out", student_report),
    }  # fmt: skip
    console.print()
    console.print(cache_table(cache))
    console.print(student_table(student))
    console.print(answers_table(student))
    for step, taken in seconds.items():
        console.print(f"{step:>16}: {taken:6.1f} s")
    console.print(
        f"\ncorpus   {corpus}\ncache    {cache}   (coat-cache status --cache {cache})"
        f"\nstudent  {student}   (tensorboard --logdir {student})"
        f"\nreports  {cache_report}/index.html, {student_report}/index.html"
        "\n\nLook at one clip:  "
        f"coat-cache show {first_clip(cache)} --cache {cache}"
        "\nAsk the student about a recording that it was not trained on:",
        soft_wrap=True,
    )
    shown = correct_answer(student)
    run("coat-student", "generate", shown.audio, shown.question, "--run", student)
    console.print(
        f"(the label of this recording: {shown.answer}; of the {shown.scores['n']} held-out "
        f"answers to this question {shown.scores['score']:.0%} are right, and "
        f"{shown.scores['majority']:.0%} would be with the most frequent answer)",
        soft_wrap=True,
    )


def cache_table(cache: Path) -> Table:
    """Renders the result of stage 1, by teacher."""
    table = Table(title="Stage 1: the teacher cache")
    table.add_column("teacher", no_wrap=True)
    for heading in ("clips", "hours", "x real time", "MB per audio hour", "failed"):
        table.add_column(heading, justify="right")
    lines = status(Layout.open(cache))
    for line in lines:
        audio_s = line.audio_hours * 3600
        table.add_row(
            line.teacher,
            str(line.rows),
            f"{line.audio_hours:.3f}",
            f"{audio_s / line.extract_seconds:.1f}" if line.extract_seconds else "-",
            f"{line.cache_bytes / 1e6 / line.audio_hours:.1f}" if line.audio_hours else "-",
            str(line.failures.total()),
        )
    audio_s = max(line.audio_hours for line in lines) * 3600
    table.add_section()
    table.add_row(
        "all, one worker",
        str(max(line.rows for line in lines)),
        f"{audio_s / 3600:.3f}",
        f"{audio_s / sum(line.extract_seconds for line in lines):.1f}",
        f"{sum(line.cache_bytes for line in lines) / 1e6 / (audio_s / 3600):.1f}",
        str(sum(line.failures.total() for line in lines)),
    )
    return table


def student_table(student: Path) -> Table:
    """Renders the result of stage 2, on held-out clips."""
    report = json.loads((student / "report.json").read_text())
    before, after = report["before"], report["joint"]
    table = Table(title="Stage 2: what the student's heads predict, on held-out clips")
    for heading in ("stream", "mean predictor", "before", "after", "better than the mean by"):
        table.add_column(heading, justify="left" if heading == "stream" else "right")
    for key in before:
        name, slash, what = key.rpartition("/")
        if not slash or what != "metric":
            continue
        mean = before[f"{name}/mean_predictor"]
        table.add_row(
            name,
            f"{mean:.3f}",
            f"{before[key]:.3f}",
            f"{after[key]:.3f}",
            f"{after[key] - mean:+.3f}",
        )
    return table


def first_clip(cache: Path) -> str:
    """Returns the id of the first clip."""
    layout = Layout.open(cache)
    return layout.corpus(layout.corpora()[0]).shard_ids(0)[0]


def answers_table(student: Path) -> Table:
    """Renders the scores of the student's answers with chance and the most common answer."""
    tasks = json.loads(Run(student).scores_file("held_out").read_text())["tasks"]
    table = Table(
        title="Stage 2: the student's answers about held-out clips, share of correct answers",
        caption="Each row has the chance and the most frequent answer of its own question. The "
        "student has learned a question only if it is better than both.",
    )
    table.add_column("question")
    for heading in ("asked", "chance", "most frequent answer", "student", "better by"):
        table.add_column(heading, justify="right")
    for task, scores in tasks.items():
        is_choice = scores["kind"] == "choice"
        chance = f"{scores['chance']:.2f}" if is_choice else "-"
        baseline = max(scores["majority"], scores["chance"] if is_choice else 0.0)
        table.add_row(
            f"{task} (multiple choice)" if is_choice else task,
            str(scores["n"]),
            chance,
            f"{scores['majority']:.2f}",
            f"{scores['score']:.2f}",
            f"{scores['score'] - baseline:+.2f}",
        )
    return table


@dataclass(frozen=True, kw_only=True)
class ShownAnswer:
    """A held-out recording, an open question about it, and the scores of all such questions."""

    audio: str
    question: str
    answer: str
    scores: dict[str, Any]


def correct_answer(student: Path) -> ShownAnswer:
    """Selects a held-out recording, an open question about it, and its answer, which the student
    gave.

    The task is the one in which the student exceeds the most common answer by most.
    """
    run = Run(student)
    tasks = json.loads(run.scores_file("held_out").read_text())["tasks"]
    answers = [json.loads(line) for _, line in read_lines(run.answers_file("held_out"))]
    correct_ids = {row["id"] for row in answers if row["right"]}
    ranked = sorted(tasks, key=lambda task: tasks[task]["majority"] - tasks[task]["score"])
    candidates = sorted(
        (example for example in read_held_out(student) if not example[0].choices),
        key=lambda example: (example[0].id not in correct_ids, ranked.index(example[0].task)),
    )
    example, (clip, *_) = candidates[0]
    return ShownAnswer(
        audio=clip.uri,
        question=example.question,
        answer=example.answer,
        scores=tasks[example.task],
    )


if __name__ == "__main__":
    main()
