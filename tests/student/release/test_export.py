"""Tests for exports: loading with original classes, model cards, and uploads."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from manifests.errors import UserError
from student.config import ModelConfig, Recipe, TinyConfig
from student.evaluation.evaluate import evaluate
from student.evaluation.question_files import questions_of_run
from student.inference.generate import TrainedStudent
from student.model.tiny import build_tiny
from student.recipe_files import save_recipe
from student.release.card import _base, _licences, model_card
from student.release.export import export
from student.release.push import describe, push
from student.runs.folder import Run
from student.runs.sources import Sources
from tests.student.hub import Hub


def test_export_equals_the_trained_model(
    run: Path, trained: TrainedStudent, tmp_path: Path
) -> None:
    """The export is checked with original classes only."""
    proof = export(run, tmp_path / "out")
    assert proof.prompts == 4
    assert proof.largest_difference < 1e-4
    assert proof.same_choice == 1.0

    weights = load_file(tmp_path / "out" / "model.safetensors")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert not any("lora" in name or "head." in name.replace("lm_head.", "") for name in weights)
    (table,) = (value for name, value in weights.items() if "embed_tokens" in name)
    if config["model_type"] in ("qwen2_5_omni", "qwen3_omni_moe"):
        assert all(name.startswith("thinker.") for name in weights)
        assert config["enable_audio_output"] is False
        config = config["thinker_config"]
    assert config["text_config"]["vocab_size"] == len(table)

    block = trained.student.block
    assert block is not None
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.convert_tokens_to_ids("<|audio_think_start|>") == block.ids[0]
    rows = trained.student.base.get_input_embeddings()
    with torch.no_grad():
        torch.testing.assert_close(table[list(block.ids)], rows(torch.tensor(block.ids)))
    (head,) = (value for name, value in weights.items() if name.endswith("lm_head.weight"))
    assert (head[list(block.ids)] == 0).all()
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    ends = generation["eos_token_id"]
    assert trained.prompter.turn_end in (ends if isinstance(ends, list) else [ends])
    messages = [{"role": "user", "content": "hello"}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt.endswith("<|audio_think_end|>")
    with pytest.raises(UserError, match="exists"):
        export(run, tmp_path / "out")


def test_unreadable_clips_do_not_prevent_an_export(
    runs: Callable[[str], Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs("qwen2_audio"), run, ignore=shutil.ignore_patterns("checkpoint-*"))
    rows = [json.loads(line) for line in (run / "held_out.jsonl").read_text("utf-8").splitlines()]

    def lose(count: int) -> None:
        for row in rows[:count]:
            for clip in row["clips"]:
                clip["uri"] = str(tmp_path / "absent.wav")
        (run / "held_out.jsonl").write_text(
            "".join(f"{json.dumps(row)}\n" for row in rows), "utf-8"
        )

    lose(2)
    assert export(run, tmp_path / "out").prompts == 4
    lose(len(rows))
    with pytest.raises(UserError, match=r"no example on which the export can be verified.*absent"):
        export(run, tmp_path / "other")
    assert not list(tmp_path.glob("other*"))


def test_lora_is_not_applied_to_the_audio_tower(trained: TrainedStudent) -> None:
    adapted = [name for name, _ in trained.student.named_parameters() if ".lora_A" in name]
    has_experts = bool(trained.student.backbone.expert_parameters)
    assert len(adapted) == 3 * (4 if has_experts else 7)
    assert all(".language_model.layers." in name for name in adapted)
    tower = trained.student.backbone.audio_tower(trained.student.base)
    assert any(name.endswith("q_proj") or name.endswith("q") for name, _ in tower.named_modules())
    assert dataclasses.asdict(trained.recipe.lora)["rank"] == 16


@pytest.fixture(scope="module")
def checkpoint(runs: Callable[[str], Path], tmp_path_factory: Any) -> Path:
    out = tmp_path_factory.mktemp("export") / "out"
    export(runs("qwen2_audio"), out)
    return out


def test_all_files_of_an_export_have_the_same_permissions(checkpoint: Path) -> None:
    """A server that runs as another user could not read the weights."""
    modes = {path.name: path.stat().st_mode for path in checkpoint.iterdir() if path.is_file()}
    assert "model.safetensors" in modes
    assert len(set(modes.values())) == 1, modes


def test_card_of_an_unfinished_run_says_so(
    runs: Callable[[str], Path], checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copytree(runs("qwen2_audio"), tmp_path / "run")
    Run(tmp_path / "run").state("joint").unlink()
    said = "The training is not finished: these are the weights after `align`, before `joint`."
    assert said in model_card(Run(tmp_path / "run"), "proof")
    assert "is not finished" not in (checkpoint / "README.md").read_text()


def test_card_lists_the_sources(checkpoint: Path) -> None:
    text = (checkpoint / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: transformers\n")
    for part in (
        "block of 4 thinking positions", "2606.18273", "the largest logit difference is",
        "Corpus `toy`: 48 clips", "held out by recording", "`toy@", "tests:Toy",
        "| answer | loss | - |", "| `toy.salience` | raw pitch accuracy |", "## Licences",
        "Trained on the outputs of `toy`: none",
    ):  # fmt: skip
        assert part in text, part


@pytest.mark.parametrize("whisper_weights", [True, False])
def test_card_names_the_weights_of_the_tower(tmp_path: Path, whisper_weights: bool) -> None:
    """The card of a tiny student with Whisper's encoder used to call it randomly initialised."""
    tiny = TinyConfig(whisper_weights=whisper_weights)
    run = Run(tmp_path)
    save_recipe(Recipe(model=ModelConfig(build="tiny", tiny=tiny)), run.recipe_file)
    build_tiny(run.base_folder, tiny, ["a text"], seed=0)
    random = "a small qwen2_audio randomly initialised"
    tower = "Whisper tiny.en's encoder"
    assert _base(run) == (f"{random} except for {tower}" if whisper_weights else random)
    sources = Sources(
        corpus="c", caches=[], clips=1, hours=1.0, examples=1, held_out=1, teachers=[], streams={}
    )
    licences = _licences(sources, run, _base(run))
    assert (f"- The weights derive from {tower}: MIT." in licences) == whisper_weights


def test_snippet_of_the_documentation_answers(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    text = (Path(__file__).parents[3] / "docs/serve.md").read_text()
    snippet = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    (tmp_path / "student").symlink_to(checkpoint)
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(16000) / 5) / 2, 16000)
    monkeypatch.chdir(tmp_path)
    exec(snippet, names := {})
    prompt = names["inputs"]["input_ids"]
    assert prompt.shape[1] < names["generated"].shape[1]
    printed = capsys.readouterr()
    assert printed.out.strip()
    assert "user" not in printed.out
    assert "sampling_rate" not in printed.err


def test_scores_of_an_export_are_added_to_its_card_and_not_uploaded(
    checkpoint: Path, runs: Callable[[str], Path]
) -> None:
    """Metrics of the trained run differ, since an export of QLoRA has other weights."""
    questions = questions_of_run(runs("qwen2_audio"))[:4]
    assert "None yet" in (checkpoint / "README.md").read_text()
    for name in ("one", "two", "one"):
        report = evaluate(checkpoint, questions, name)
        assert (
            f"| {name} | 4 | {report['mean']['score']:.3f} |"
            in (checkpoint / "README.md").read_text()
        )
    text = (checkpoint / "README.md").read_text()
    assert text.count("| one | 4 |") == text.count("| two | 4 |") == 1
    assert "None yet" not in text
    assert text.count("\n## ") == 6
    assert (checkpoint / "eval").is_dir()
    assert not [name for name in push(checkpoint, "someone/student").files if "eval" in name]


def test_nothing_is_uploaded_without_upload(checkpoint: Path) -> None:
    """Nothing listens at the address, so a push that connects would fail."""
    listed = push(checkpoint, "someone/student", endpoint="http://127.0.0.1:9")
    assert listed.url is None
    assert {"README.md", "config.json", "model.safetensors"} <= listed.files.keys()
    assert "--upload does it" in describe(listed, "someone/student")
    with pytest.raises(UserError, match="the hub refused"):
        push(checkpoint, "someone/student", upload=True, endpoint="http://127.0.0.1:9")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    with Hub() as running:
        yield running


def test_hub_receives_every_file_unchanged(checkpoint: Path, hub: Hub) -> None:
    done = push(checkpoint, "someone/student", upload=True, endpoint=hub.address)
    assert done.url == f"{hub.address}/someone/student"
    assert hub.created == {"someone/student": True}
    result = {name: len(content) for name, content in hub.files["someone/student"].items()}
    assert result == done.files
    model = (checkpoint / "model.safetensors").read_bytes()
    assert hub.files["someone/student"]["model.safetensors"] == model


def test_push_rejects_other_folders_and_invalid_names(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not an exported checkpoint"):
        push(tmp_path, "someone/student")
    with pytest.raises(UserError, match="cannot be a repository"):
        push(checkpoint, "some one/student/x")
