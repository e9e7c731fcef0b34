"""Tests that private names and texts of other libraries still exist.

A failing test here names what a new version of a library has changed. The files to update are
`manifests/library_internals.py`, `teachers/library_internals.py`, `student/library_internals.py`
and `pipeline/build/ray_texts.py`. No other file uses a private name of another library.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest

from manifests.library_internals import is_list_of_strings, options_of, subcommands_of
from pipeline.build import ray_texts

ROOT = Path(__file__).parents[1]
PACKAGES = ("manifests", "teachers", "pipeline", "student")
ALLOWED_FILES = {"library_internals.py", "ray_texts.py"}


@pytest.mark.parametrize(
    ("method", "parameters", "caller"),
    [
        ("_save", ["self", "output_dir", "state_dict"], "save_model"),
        ("_load_from_checkpoint", ["self", "resume_from_checkpoint", "model"], "train"),
        ("_get_train_sampler", ["self", "train_dataset"], "get_train_dataloader"),
    ],
)
def test_trainer_calls_the_overridden_methods(
    method: str, parameters: list[str], caller: str
) -> None:
    from transformers import Trainer

    result = getattr(Trainer, method, None)
    assert result is not None, f"transformers: Trainer.{method} is gone"
    names = list(inspect.signature(result).parameters)
    assert names == parameters, f"transformers: Trainer.{method} takes {names}"
    uses = inspect.getsource(getattr(Trainer, caller))
    assert f"self.{method}" in uses, f"transformers: Trainer.{caller} no longer uses {method}"


def test_attention_kernel_of_a_model_is_readable() -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from student.library_internals import attention_kernel

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 8}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    model = Qwen2ForCausalLM(Qwen2Config(**sizes, **heads))
    for kernel in ("eager", "sdpa"):
        model.set_attn_implementation(kernel)
        assert attention_kernel(model) == kernel, "transformers: config._attn_implementation"


def test_grouped_product_operator_counts_the_flops_of_grouped_mm() -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from student.library_internals import grouped_product_operator

    counted = {grouped_product_operator(): lambda rows, weights, *_, **__: 1}
    half = {"dtype": torch.bfloat16, "device": "meta"}
    rows, weights = torch.empty(8, 16, **half), torch.empty(2, 16, 32, **half)
    ends = torch.empty(2, dtype=torch.int32, device="meta")
    with FlopCounterMode(display=False, custom_mapping=counted) as counter:
        torch.nn.functional.grouped_mm(rows, weights, offs=ends)
    assert counter.get_total_flops() == 1, "torch: aten._grouped_mm"


def test_storage_identity_distinguishes_storages_on_the_meta_device() -> None:
    import torch

    from student.library_internals import storage_identity

    first, second = (torch.empty(4, 4, device="meta") for _ in range(2))
    assert storage_identity(first) == storage_identity(first.T), "torch: UntypedStorage._cdata"
    assert storage_identity(first) != storage_identity(second), "torch: UntypedStorage._cdata"


def test_silence_gguf_disables_the_progress_bar_of_transformers() -> None:
    from transformers import modeling_gguf_pytorch_utils as gguf

    from student.library_internals import silence_gguf

    assert "in tqdm(" in inspect.getsource(gguf.load_gguf_checkpoint), "transformers: no tqdm here"
    before = gguf.tqdm
    try:
        silence_gguf()
        assert gguf.tqdm([1, 2]).disable
    finally:
        gguf.tqdm = before


def test_is_token_row_recognises_the_parameter_names_of_peft() -> None:
    import torch
    from peft import TrainableTokensConfig, get_peft_model
    from torch import nn

    from student.library_internals import TOKEN_ROWS, is_token_row

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(6, 4)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.embed(tokens)

    config = TrainableTokensConfig(target_modules=["embed"], token_indices=[1, 2])
    trainable = [
        name
        for name, parameter in get_peft_model(Model(), config).named_parameters()
        if parameter.requires_grad
    ]
    assert trainable, "peft: trainable_token_indices gives no parameter"
    assert all(map(is_token_row, trainable)), f"peft: {TOKEN_ROWS} is not in the names {trainable}"


def test_is_list_of_strings_reads_the_type_of_a_jsonargparse_action(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from manifests import console

    lists = []

    def spy(options: Any) -> bool:
        is_list = is_list_of_strings(options)
        lists.append(is_list)
        return is_list

    def command(words: list[str], number: list[int]) -> None:
        """Does nothing."""

    monkeypatch.setattr(console, "is_list_of_strings", spy)
    console._Parser().add_function_arguments(command, as_positional=True)
    assert lists[-2:] == [True, False], "jsonargparse: an action's _typehint has moved"


def test_options_and_subcommands_of_jsonargparse_are_readable() -> None:
    from manifests import console

    def command(word: str) -> None:
        """Does nothing."""

    parser, _ = console.make_parser("tool", {"look": command}, description="x")
    assert set(subcommands_of(parser)) == {"look", "completion"}, "jsonargparse: subcommands"
    assert "--verbose" in options_of(parser), "argparse: _option_string_actions has moved"
    assert options_of(None) == {}


def test_openai_whisper_lists_its_checkpoints() -> None:
    whisper = pytest.importorskip("whisper")

    from teachers.library_internals import alignment_heads

    address = getattr(whisper, "_MODELS", {}).get("tiny.en", "")
    assert address, "openai-whisper: whisper._MODELS is gone"
    digest = address.split("/")[-2]
    assert len(digest) == 64, f"openai-whisper: {address} holds no SHA-256"
    assert alignment_heads("tiny.en", digest), "openai-whisper: whisper._ALIGNMENT_HEADS is gone"
    assert alignment_heads("tiny.en", "0" * 64) is None


def test_frame_mask_uses_the_mask_of_wav2vec2() -> None:
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    from teachers.library_internals import frame_mask

    model = Wav2Vec2Model(
        Wav2Vec2Config(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
            conv_dim=(8,), conv_kernel=(10,), conv_stride=(5,), num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
        )
    )  # fmt: skip
    mask = torch.ones(1, 100)
    mask[:, 50:] = 0
    kept = frame_mask(model, 19, mask)
    assert kept.sum() == 9, "transformers: Wav2Vec2PreTrainedModel._get_feature_vector_..."


PHRASES = [
    ray_texts.LOW_MEMORY,
    ray_texts.NODE_DIED,
    ray_texts.NODE_WAS,
    ray_texts.OWNER_DIED,
    ray_texts.KILLED_BY_US,
    ray_texts.PROCESS_DIED,
    ray_texts.INTENDED,
]


def test_ray_contains_the_expected_texts_for_lost_workers() -> None:
    """Some phrases are in compiled libraries, so the test searches the files of the package."""
    import ray

    folder = Path(ray.__file__).parent
    files = [
        folder / "exceptions.py",
        *folder.glob("_raylet.*so"),
        *folder.glob("core/src/ray/gcs/gcs_server*"),
        *folder.glob("core/src/ray/raylet/raylet*"),
    ]
    missing = set(PHRASES)
    for file in files:
        content = file.read_bytes()
        missing -= {phrase for phrase in missing if phrase.encode() in content}
    assert not missing, f"ray: these texts no longer exist: {sorted(missing)}"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("Task was killed due to the node running low on memory.", "memory"),
        ("The actor died because its node has died. Node Id: 1", "node"),
        ("The actor is dead because it was killed by `ray.kill`.", "killed"),
        ("The actor is dead because its worker process has died. SYSTEM_ERROR", "process"),
        ("its worker process has died. Worker exit type: INTENDED_SYSTEM_EXIT", None),
        ("something else", None),
    ],
)
def test_cause_from_text_recognises_each_cause(text: str, cause: str | None) -> None:
    assert ray_texts.cause_from_text(text) == cause


def test_private_names_of_libraries_are_used_only_in_library_internals() -> None:
    """Each other private attribute must be defined in the packages of this project."""
    trees = {
        path: ast.parse(path.read_text())
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    own: set[str] = {"_asdict", "_replace", "_fields", "_exit"}
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
                own.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                own.add(node.attr)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                own.add(node.id)
    foreign_names = []
    for path, tree in trees.items():
        if path.name in ALLOWED_FILES:
            continue
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.Attribute):
                names = [node.attr]
            elif isinstance(node, ast.ImportFrom):
                names = [alias.name for alias in node.names] + (node.module or "").split(".")
            elif isinstance(node, ast.Call) and len(node.args) > 1:
                target, name = node.func, node.args[1]
                is_access = isinstance(target, ast.Name) and target.id in ("getattr", "setattr")
                if is_access and isinstance(name, ast.Constant):
                    names = [str(name.value)]
            foreign_names += [
                f"{path.relative_to(ROOT)}:{node.lineno} {name}"  # pyright: ignore
                for name in names
                if name.startswith("_") and not name.startswith("__") and name not in own
            ]
    assert not foreign_names
