"""The demo: runs both stages on 140 real clips, with the commands that a user would type.

    make demo

It prints each command before running it, and prints tables of the results at the end. All files are
in demo/; running the demo again resumes it.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from manifests.cache.layout import Layout
from manifests.json_lines import read_lines
from pipeline.inspect.status import status
from student.data.held_out import read_held_out
from student.runs.folder import Run

OUT = Path("demo")
RECIPE = Path("examples/demo/recipe.yaml")
BIN = Path(sys.executable).parent
console = Console(highlight=False)


def run(*command: str | Path) -> float:
    """Prints and runs one command of this project; returns the elapsed seconds."""
    words = [str(word) for word in command]
    console.print(f"\n[bold]$ {shlex.join(words)}[/bold]")
    if words[0].startswith("coat-"):
        words[0] = str(BIN / words[0])
    start = time.monotonic()
    done = subprocess.run(words, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return time.monotonic() - start


def main() -> None:
    """Runs all steps of the demo, and prints the tables."""
    corpus, cache, student = OUT / "corpus", OUT / "cache", OUT / "student"
    cache_report, student_report = OUT / "reports" / "cache", OUT / "reports" / "student"
    seconds = {
        "corpus": run(sys.executable, "-m", "examples.demo.corpus", "--out", OUT / "source")
        + run("coat-corpus", "build", OUT / "source" / "clips.jsonl", "--out", corpus,
              "--clips-per-shard", "16", "--update-labels"),
        "teacher cache": run("coat-cache", "build", "--corpus", corpus, "--cache", cache),
        "student": run("coat-student", "train", "--config", RECIPE, "--corpus", corpus,
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
    audio, question, answer = correct_answer(student)
    run("coat-student", "generate", audio, question, "--run", student)
    console.print(f"(the label of this recording: {answer})")


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
    for heading in ("stream", "stream's mean", "before", "after", "better than the mean by"):
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
        title="Stage 2: the student's answers about held-out clips, share of correct answers"
    )
    table.add_column("question")
    for heading in ("asked", "chance", "most frequent answer", "student"):
        table.add_column(heading, justify="right")
    for task, scores in tasks.items():
        chance = f"{scores['chance']:.2f}" if scores["kind"] == "choice" else "-"
        name = f"{task} (multiple choice)" if scores["kind"] == "choice" else task
        table.add_row(
            name, str(scores["n"]), chance, f"{scores['majority']:.2f}", f"{scores['score']:.2f}"
        )
    return table


def correct_answer(student: Path) -> tuple[str, str, str]:
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
    return clip.uri, example.question, example.answer


if __name__ == "__main__":
    main()
