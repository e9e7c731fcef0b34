"""Tests for `coat-cache fetch`, and for builds from folders that differ from their pins.

The tests fetch from a small hub that is served from a folder (`tests.served_hub`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from manifests.errors import UserError
from manifests.packaged_weights import sha256
from pipeline import fetch
from teachers import registry
from tests.served_hub import Hub, serve_hub
from tests.teachers import checkpoints

ROOT = Path(__file__).parents[2]
COAT_CACHE = [sys.executable, "-c", "from pipeline.cli import main; main()"]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[Hub, str]]:
    """The repositories of a hub, and its address."""
    with serve_hub(tmp_path / "hub") as hub:
        yield hub


def coat_cache(endpoint: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return subprocess.run(
        [*COAT_CACHE, *words], capture_output=True, text=True, cwd=ROOT, timeout=120,
        env={**clean, "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", **env},
    )  # fmt: skip


def make_spec(model: str, weights_dir: Path, **settings: str):
    teacher = registry.make(
        "t", "encoder", {"model": model, "weights_dir": str(weights_dir), **settings}
    )
    return teacher.spec()


def test_fetch_pins_and_repairs_files_and_builds_reject_others(
    hub: tuple[Hub, str], tmp_path: Path
):
    repositories, endpoint = hub
    source = checkpoints.wav2vec2(repositories.base / "tiny" / "encoder")
    (source / "tf_model.h5").write_bytes(b"another framework's")
    (source / "pytorch_model.bin").write_bytes(b"a pickle")
    (source / "modeling_encoder.py").write_text("raise SystemExit('must not run')")
    weights_dir = tmp_path / "weights"
    first = repositories.commit("tiny/encoder")

    done = coat_cache(
        endpoint, "fetch", "--model", "tiny/encoder", "--weights-dir", str(weights_dir)
    )
    assert done.returncode == 0, done.stderr
    assert first[:12] in done.stdout
    assert "apache-2.0" in done.stdout
    folder = weights_dir / "tiny" / "encoder"
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
    pin = json.loads((weights_dir / "pins.json").read_text())["tiny/encoder"]
    assert pin["revision"] == first
    spec = make_spec("tiny/encoder", weights_dir)
    assert spec.weights["model.safetensors"] == pin["files"]["model.safetensors"]
    assert spec.settings["model"] == "tiny/encoder"

    # A changed file is rejected by a build and repaired by fetch.
    weight = folder / "model.safetensors"
    content = weight.read_bytes()
    weight.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    registry_error = coat_cache(
        endpoint, "build", "--corpus", "none", "--cache", "none", "--preset", "none",
        "--weights-dir", str(weights_dir),
        "--teacher", '{"t": {"family": "transformers:tiny/encoder"}}',
    )  # fmt: skip
    assert registry_error.returncode == 2
    again = coat_cache(
        endpoint, "fetch", "--model", "tiny/encoder", "--weights-dir", str(weights_dir)
    )
    assert again.returncode == 0, again.stderr
    assert weight.read_bytes() == content

    # A newer commit on the hub is only fetched with --newest.
    (source / "README.md").write_text("---\nlicense: mit\n---\n")
    second = repositories.commit("tiny/encoder")
    update = coat_cache(
        endpoint, "fetch", "--model", "tiny/encoder", "--weights-dir", str(weights_dir), "--newest"
    )
    assert update.returncode == 0, update.stderr
    assert json.loads((weights_dir / "pins.json").read_text())["tiny/encoder"]["revision"] == second
    sha256.cache_clear()  # Digests are cached in this process, which has read the older files.
    assert make_spec("tiny/encoder", weights_dir).license == "mit"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "config.json").write_text("{}"), "config.json has SHA-256"),
    ],
)
def test_folder_that_differs_from_its_pins_raises_an_error(tmp_path: Path, damage, message: str):
    folder = checkpoints.wav2vec2(tmp_path / "tiny" / "encoder")
    files = {path.name: sha256(path) for path in folder.iterdir()}
    pins = {"tiny/encoder": {"revision": "c0ffee", "requested": "main", "files": files}}
    (tmp_path / "pins.json").write_text(json.dumps(pins))
    assert make_spec("tiny/encoder", tmp_path, revision="c0ffee").weights
    with pytest.raises(UserError, match="was fetched at revision c0ffee, the build asks for v2"):
        make_spec("tiny/encoder", tmp_path, revision="v2")
    damage(folder)
    sha256.cache_clear()
    with pytest.raises(UserError, match=f"{message}.*coat-cache fetch --model tiny/encoder"):
        make_spec("tiny/encoder", tmp_path)


def test_missing_weights_raise_an_error_with_the_fetch_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(UserError, match=f"fetch --model tiny/encoder --weights-dir {tmp_path}"):
        make_spec("tiny/encoder", tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="coat-cache fetch --model tiny/nowhere-at-all"):
        registry.make("t", "encoder", {"model": "tiny/nowhere-at-all"})
    with pytest.raises(UserError, match="there is no folder /nowhere"):
        registry.make("t", "encoder", {"model": "/nowhere"})
    with pytest.raises(UserError, match=r"'large-v3' names no checkpoint.* hub id is org/name"):
        registry.make("t", "encoder", {"model": "large-v3"})


def test_pickle_with_code_raises_an_error(tmp_path: Path):
    import pickle

    folder = checkpoints.wav2vec2(tmp_path / "encoder")
    (folder / "model.safetensors").unlink()

    class Malicious:
        def __reduce__(self):
            return (os.system, ("touch " + str(tmp_path / "executed"),))

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Malicious()}))
    teacher = registry.make("t", "encoder", {"model": str(folder)})
    with pytest.raises(UserError, match="holds more than tensors"):
        teacher.load(device="cpu", num_threads=1)
    assert not (tmp_path / "executed").exists()


def test_unreachable_hub_and_unknown_repository_print_one_line(
    hub: tuple[Hub, str], tmp_path: Path
):
    _, endpoint = hub
    where = ("--weights-dir", str(tmp_path / "w"))
    for address, words in ((endpoint, "RepositoryNotFound"), ("http://127.0.0.1:9", "Connect")):
        done = coat_cache(address, "fetch", "--model", "tiny/none", *where)
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert words in done.stderr
        assert "check the id and the connection" in done.stderr


def test_fetch_selects_one_set_of_weights():
    both = ["model.safetensors", "pytorch_model.bin", "flax_model.msgpack", "config.json",
            "model.fp32-00001-of-00002.safetensors", "onnx/model.onnx", "run.py"]  # fmt: skip
    assert fetch.files(both, code=False) == ["config.json", "model.safetensors"]
    assert "run.py" in fetch.files(both, code=True)
    sharded = ["model.safetensors.index.json", "model-00001-of-00002.safetensors",
               "model-00002-of-00002.safetensors", "pytorch_model.bin", "vocab.json"]  # fmt: skip
    assert fetch.files(sharded, code=False) == sorted({*sharded} - {"pytorch_model.bin"})
    ctranslate2 = ["config.json", "model.bin", "tokenizer.json", "vocabulary.txt"]
    assert fetch.files(ctranslate2, code=False) == ctranslate2


def test_presets_and_teachers_give_their_checkpoints(tmp_path: Path):
    def models(**options) -> list[str]:
        config = fetch.FetchConfig(weights_dir=str(tmp_path), **options)
        return [each.model for each in fetch.checkpoints_to_fetch(config)]

    assert models()[0] == "openai/whisper-large-v3"
    assert len(models()) == 5  # CREPE's weights come in a wheel
    assert "facebook/pe-a-frame-large" in models()
    assert models(teachers="pitch,music") == ["laion/larger_clap_music"]
    assert models(preset="embedded") == []
    assert models(model="a/b@v1,c/d") == ["a/b", "c/d"]
    own = fetch.TeacherConfig(family="transformers:microsoft/wavlm-large")
    assert models(preset="none", teacher={"ssl": own}) == ["microsoft/wavlm-large"]
    with pytest.raises(UserError, match="unknown teacher 'asrr'"):
        models(teachers="asrr")
