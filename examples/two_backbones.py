"""Trains two backbones on one cache, so that the experts run only once.

    python -m examples.two_backbones --corpus corpus/ --cache cache/ --out runs/

Trains a small Qwen2-Audio and a small Audio Flamingo 3 (true classes, random language models) from
the same targets; `coat-student report runs/` then shows them beside each other. For real students,
put checkpoints in place of the small models: `ModelConfig(path="Qwen/Qwen2-Audio-7B-Instruct")`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from manifests.errors import UserError
from student.config import (
    BlockConfig,
    DataConfig,
    HeadConfig,
    ModelConfig,
    StageConfig,
    TaskConfig,
    TinyConfig,
)
from student.quiet import quiet_imports, quiet_libraries
from student.run_options import TrainOptions

FAMILIES = ("qwen2_audio", "audioflamingo3")
QUESTIONS = [
    TaskConfig(questions=["What is said?"], answer=["text"]),
    TaskConfig(questions=["What is heard?"], answer=["labels.sound", "labels.kind"]),
]


def options(family: str, *, corpus: str, cache: str, out: str, steps: int) -> TrainOptions:
    """Returns the same recipe for each backbone, with every trainable stream of the cache."""
    stage = {"batch_size": 8, "max_steps": steps, "log_steps": max(1, steps // 10)}
    return TrainOptions(
        model=ModelConfig(
            build="tiny",
            tiny=TinyConfig(
                family=family, hidden_size=64, layers=2, feed_forward=128, window_s=4,
                whisper_weights=False,
            ),
        ),
        block=BlockConfig(tokens=8),
        heads=HeadConfig(width=64, layers=1),
        data=DataConfig(tasks=QUESTIONS, validation=0.2, max_duration=4, keep_in_memory=True),
        align=StageConfig(train="embeddings", **stage),
        joint=StageConfig(train="full", **stage),
        corpus=corpus,
        cache=cache,
        out=str(Path(out) / family),
    )  # fmt: skip


def main() -> None:
    """Trains both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="corpus")
    parser.add_argument("--cache", default="cache")
    parser.add_argument("--out", default="runs")
    parser.add_argument("--steps", type=int, default=40, help="of each of the two stages")
    given = parser.parse_args()
    quiet_imports()  # Before libraries are imported that log on import.
    from student.train import train

    quiet_libraries()
    for family in FAMILIES:
        print(family, flush=True)
        train(
            options(
                family, corpus=given.corpus, cache=given.cache, out=given.out, steps=given.steps
            )
        )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
