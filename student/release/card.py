"""Writes the model card of an export: data, teachers with licences, metrics, and serving.

All facts come from files of the run (`sources.json`, `report.json`, `recipe.yaml`), so that the
card matches the run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import yaml

from manifests.streams.kinds import KINDS
from manifests.wording import number_of
from student.config import Recipe
from student.model.backbones.qwen2_audio import INITIAL_WEIGHTS
from student.model.block import BLOCKS_ARGUMENT, block_tokens
from student.runs.folder import Run, replace_text
from student.runs.sources import Sources

SCORES = "## Scores of these weights"
NOT_SCORED = "None yet; `coat-student eval` of this folder adds a row."
SCORES_HEAD = (
    "Greedy answers of this export itself, by `coat-student eval`.\n\n"
    "| questions | number | mean score | 95 % interval |\n| --- | --- | --- | --- |"
)
WHISPER = "Whisper tiny.en's encoder"
SMALL_PARTS = {WHISPER: "MIT", "SmolLM2-135M-Instruct": "Apache-2.0"}
"""Components of `model.build: small`, with licences."""
METHOD = "[Continuous Audio Thinking](https://arxiv.org/abs/2606.18273)"


def model_card(run: Run, proof: str, *, inherited: Mapping[str, object] | None = None) -> str:
    """The text of README.md.

    Args:
        run: The run.
        proof: A sentence about the agreement of the export with the trained model.
        inherited: Generation settings that the export has from its base.
    """
    recipe, sources = run.recipe, run.sources
    base = _base(run)
    parts = [
        _header(recipe),
        f"# {base}, {'with continuous audio thinking' if recipe.has_block else 'fine-tuned'}",
        _description(recipe, base),
        *_unfinished(run),
        "## Use",
        "Unmodified `transformers` and vLLM can load it. "
        + ("The chat template writes the thinking block, so ask" if recipe.has_block else "Ask")
        + " through `apply_chat_template(messages, add_generation_prompt=True)` or a chat "
        "endpoint.",
        *_several_blocks(recipe),
        _generation(inherited or {}),
        f"Proof of the export: {proof}.{_quantized(recipe)}",
        "## Data",
        f"Corpus `{sources.corpus_name or Path(sources.corpus).name}`: "
        f"{number_of(sources.clips, 'clip')}, {sources.hours:.3g} hours; "
        f"{number_of(sources.examples, 'example')} to learn from, "
        f"{sources.held_out:,} held out by recording, or by the label `group` where clips have it.",
        "## Teachers",
        _teachers(sources),
        SCORES,
        NOT_SCORED,
        "## Metrics of the training",
        f"Metrics of {_measured_weights(recipe)} on held-out clips. `mean predictor` is a constant "
        "prediction, the baseline of a head.",
        _metrics(run, sources),
        "## Licences",
        _licences(sources, run, base),
    ]
    return "\n\n".join(parts) + "\n"


def _unfinished(run: Run) -> list[str]:
    finished = run.finished_stages()
    left = [name for name in run.recipe.stages() if name not in finished]
    if not left or not finished:
        return []
    return [
        f"The training is not finished: these are the weights after `{finished[-1]}`, before "
        f"`{left[0]}`."
    ]


def _generation(inherited: Mapping[str, object]) -> str:
    if not inherited:
        return "Generation is greedy by default; the base has no other settings."
    settings = ", ".join(f"`{name}: {value}`" for name, value in inherited.items())
    return (
        f"`generation_config.json` keeps what the base sets: {settings}. `generate` and servers "
        "use it by default; the numbers below are from greedy decoding without it."
    )


def _several_blocks(recipe: Recipe) -> list[str]:
    seconds = recipe.block.span_seconds
    if not recipe.has_block or seconds is None:
        return []
    return [
        f"It was trained with one block for each {seconds:g} s of the last audio, and a chat "
        "template does not know how long an audio is: for a longer one, hand the number of blocks "
        f"to it, `apply_chat_template(messages, {BLOCKS_ARGUMENT}=math.ceil(seconds / "
        f"{seconds:g}), add_generation_prompt=True)`, or "
        f'`"chat_template_kwargs": {{"{BLOCKS_ARGUMENT}": 3}}` in a request to vLLM. Without it '
        "there is one block, which it has not learnt to use for a longer audio."
    ]


def record_score(folder: Path, name: str, count: int, mean: Mapping[str, float | None]) -> None:
    """Adds a row of scores to the card of an export; other checkpoints have no such card.

    Args:
        folder: Folder of the checkpoint.
        name: Name of the set of questions; its row is replaced.
        count: Number of answered questions.
        mean: `score`, `low` and `high`.
    """
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    before, heading, after = text.partition(f"{SCORES}\n\n")
    if not heading:
        return
    section, gap, rest = after.partition("\n\n## ")
    rows = [
        line for line in section.splitlines()
        if line.startswith("| ") and not line.startswith(("| questions", "| ---", f"| {name} |"))
    ]  # fmt: skip
    interval = "-"
    if mean["low"] is not None and mean["high"] is not None:
        interval = f"{mean['low']:.3f} to {mean['high']:.3f}"
    rows.append(f"| {name} | {count} | {mean['score']:.3f} | {interval} |")
    section = "\n".join([SCORES_HEAD, *rows])
    replace_text(card, before + heading + section + gap + rest)


def _measured_weights(recipe: Recipe) -> str:
    if recipe.model.quantize is None:
        return "the trained student, which has these weights,"
    return "the student as it was trained, with its backbone in 4 bits,"


def _quantized(recipe: Recipe) -> str:
    if recipe.model.quantize is None:
        return ""
    return (
        " The run was trained, and the metrics of the training were measured, with a backbone in 4 "
        "bits; "
        "these weights are the adapters merged into the backbone in full precision, with which the "
        "proof compares. `coat-student eval EXPORT --questions RUN/held_out.jsonl` measures them "
        "and writes the score into this card."
    )


def _header(recipe: Recipe) -> str:
    """Metadata in the hub's format. It has no licence, which depends on the base and must be stated
    by the user."""
    fields: dict[str, object] = {
        "library_name": "transformers",
        "pipeline_tag": "audio-text-to-text",
        "tags": ["audio", "continuous-audio-thinking", f"arm:{recipe.arm}"],
    }
    if recipe.model.path and not Path(recipe.model.path).exists():
        fields |= {"base_model": recipe.model.path}
    return "---\n" + yaml.safe_dump(fields, sort_keys=False) + "---"


def _description(recipe: Recipe, base: str) -> str:
    taught = (
        "Its hidden states at these positions were trained to predict the outputs of audio experts."
        if recipe.switches.distill_block
        else "A control: the block was trained without any expert."
    )
    if recipe.joint is not None and recipe.joint.bottleneck:
        taught += (
            f" For the first {recipe.joint.bottleneck:.0%} of the steps with answers, text could "
            "attend to the audio through the block alone; attention is plain now."
        )
    if not recipe.has_block:
        taught = (
            "its audio tokens were trained on the outputs of experts"
            if recipe.distils
            else "no expert's outputs were used"
        )
        return (
            f"{base}, fine-tuned on the data below without a thinking block; {taught}. It is the "
            f"arm `{recipe.arm}` of {METHOD}, a control."
        )
    tokens = block_tokens(recipe.block.tokens)
    return (
        f"{base} with a block of {recipe.block.tokens} thinking positions (`{tokens[0]}` ... "
        f"`{tokens[-1]}`, {recipe.block.placement.replace('_', ' ')}), after {METHOD}. "
        f"{taught} The block is part of the prompt: one prefill, no further token."
    )


def _teachers(sources: Sources) -> str:
    if not sources.teachers:
        return "None."
    lines = ["| teacher | adapter | weights (SHA-256) | licence |", "| --- | --- | --- | --- |"]
    for teacher in sources.teachers:
        weights = ", ".join(f"{name} `{digest[:12]}`" for name, digest in teacher.weights.items())
        lines.append(
            f"| `{teacher.key}` | `{teacher.family}` | {weights or '-'} | {teacher.license} |"
        )
    return "\n".join(lines)


def _metrics(run: Run, sources: Sources) -> str:
    report = run.report()
    stages = list(report)
    lines = [
        f"| | | mean predictor | {' | '.join(stages)} |",
        "| --- | --- | --- |" + " --- |" * len(stages),
        _row("answer", "loss", None, [report[stage]["answer_loss"] for stage in stages]),
    ]
    for name, source in sources.streams.items():
        if f"{name}/metric" in report[stages[0]]:
            values = [report[stage][f"{name}/metric"] for stage in stages]
            baseline = report[stages[0]][f"{name}/mean_predictor"]
            lines.append(_row(f"`{name}`", KINDS[source.kind].metric_name, baseline, values))
    return "\n".join(lines)


def _row(name: str, metric: str, baseline: float | None, values: list[float]) -> str:
    def shown(value: float | None) -> str:
        return "-" if value is None or math.isnan(value) else f"{value:.3f}"

    return f"| {name} | {metric} | {shown(baseline)} | {' | '.join(map(shown, values))} |"


def _base(run: Run) -> str:
    """Names the model that was trained."""
    model = run.recipe.model
    if model.path:
        return model.path
    if model.build == "small":
        return " and ".join(SMALL_PARTS)
    random = f"a small {model.tiny.family} randomly initialised"
    return f"{random} except for {WHISPER}" if _has_whisper(run) else random


def _has_whisper(run: Run) -> bool:
    """Whether the audio tower of a tiny model started from Whisper's weights."""
    config = json.loads((Path(run.base) / "config.json").read_text("utf-8"))
    return INITIAL_WEIGHTS in config.get("audio_config", {})


def _licences(sources: Sources, run: Run, base: str) -> str:
    model = run.recipe.model
    lines = [f"- The weights derive from {base}; its licence holds for them."]
    if not model.path:
        names = SMALL_PARTS if model.build == "small" else [WHISPER] * _has_whisper(run)
        parts = [f"{name}: {SMALL_PARTS[name]}" for name in names]
        lines = [f"- The weights derive from {', '.join(parts)}."] if parts else []
    for teacher in sources.teachers:
        lines.append(
            f"- Trained on the outputs of `{teacher.key.partition('@')[0]}`: {teacher.license}."
        )
    lines.append("- Whoever publishes this model must state the licences of the corpus.")
    return "\n".join(lines)
