"""Tests `coat-cache fetch`, and builds from folders that differ from their pins.

There is no hub here, so a small one is served from a folder (`tests.served_hub`).
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
from tests.served_hub import Hub, served
from tests.teachers import checkpoints

ROOT = Path(__file__).parents[2]
COAT_CACHE = [sys.executable, "-c", "from pipeline.cli import main; main()"]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[Hub, str]]:
    """The hub's repositories, and its address."""
    with served(tmp_path / "hub") as hub:
        yield hub


def coat_cache(endpoint: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return subprocess.run(
        [*COAT_CACHE, *words], capture_output=True, text=True, cwd=ROOT, timeout=120,
        env={**clean, "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", **env},
    )  # fmt: skip


def described(model: str, weights_dir: Path, **settings: str):
    teacher = registry.make(
        "t", "encoder", {"model": model, "weights_dir": str(weights_dir), **settings}
    )
    return teacher.spec()


def test_fetching_pins_and_repairs_and_builds_refuse_the_rest(hub: tuple[Hub, str], tmp_path: Path):
    repositories, endpoint = hub
    source = checkpoints.wav2vec2(repositories.base / "tiny" / "ears")
    (source / "tf_model.h5").write_bytes(b"another framework's")
    (source / "pytorch_model.bin").write_bytes(b"a pickle")
    (source / "modeling_ears.py").write_text("raise SystemExit('never run')")
    there = tmp_path / "weights"
    first = repositories.commit("tiny/ears")

    done = coat_cache(endpoint, "fetch", "--model", "tiny/ears", "--weights-dir", str(there))
    assert done.returncode == 0, done.stderr
    assert first[:12] in done.stdout
    assert "apache-2.0" in done.stdout
    folder = there / "tiny" / "ears"
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
    pin = json.loads((there / "pins.json").read_text())["tiny/ears"]
    assert pin["revision"] == first
    spec = described("tiny/ears", there)
    assert spec.weights["model.safetensors"] == pin["files"]["model.safetensors"]
    assert spec.settings["model"] == "tiny/ears"

    # A changed weight is refused, and fetched anew.
    weight = folder / "model.safetensors"
    content = weight.read_bytes()
    weight.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    registry_error = coat_cache(
        endpoint, "build", "--corpus", "none", "--cache", "none", "--preset", "none",
        "--weights-dir", str(there), "--teacher", '{"t": {"family": "transformers:tiny/ears"}}',
    )  # fmt: skip
    assert registry_error.returncode == 2
    again = coat_cache(endpoint, "fetch", "--model", "tiny/ears", "--weights-dir", str(there))
    assert again.returncode == 0, again.stderr
    assert weight.read_bytes() == content

    # The hub moves on: the pin holds until it is told to move.
    (source / "README.md").write_text("---\nlicense: mit\n---\n")
    second = repositories.commit("tiny/ears")
    update = coat_cache(
        endpoint, "fetch", "--model", "tiny/ears", "--weights-dir", str(there), "--newest"
    )
    assert update.returncode == 0, update.stderr
    assert json.loads((there / "pins.json").read_text())["tiny/ears"]["revision"] == second
    sha256.cache_clear()  # Digests are kept for a process, and this one has seen the older files.
    assert described("tiny/ears", there).license == "mit"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "config.json").write_text("{}"), "config.json has SHA-256"),
    ],
)
def test_what_differs_from_the_pins_is_one_line(tmp_path: Path, spoil, says: str):
    folder = checkpoints.wav2vec2(tmp_path / "tiny" / "ears")
    files = {path.name: sha256(path) for path in folder.iterdir()}
    pins = {"tiny/ears": {"revision": "c0ffee", "requested": "main", "files": files}}
    (tmp_path / "pins.json").write_text(json.dumps(pins))
    assert described("tiny/ears", tmp_path, revision="c0ffee").weights
    with pytest.raises(UserError, match="was fetched at revision c0ffee, the build asks for v2"):
        described("tiny/ears", tmp_path, revision="v2")
    spoil(folder)
    sha256.cache_clear()
    with pytest.raises(UserError, match=f"{says}.*coat-cache fetch --model tiny/ears"):
        described("tiny/ears", tmp_path)


def test_missing_weights_are_reported_with_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(UserError, match=f"fetch --model tiny/ears --weights-dir {tmp_path}"):
        described("tiny/ears", tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="coat-cache fetch --model tiny/nowhere-at-all"):
        registry.make("t", "encoder", {"model": "tiny/nowhere-at-all"})
    with pytest.raises(UserError, match="there is no folder /nowhere"):
        registry.make("t", "encoder", {"model": "/nowhere"})


def test_a_pickle_with_code_is_refused(tmp_path: Path):
    import pickle

    folder = checkpoints.wav2vec2(tmp_path / "ears")
    (folder / "model.safetensors").unlink()

    class Evil:
        def __reduce__(self):
            return (os.system, ("touch " + str(tmp_path / "owned"),))

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Evil()}))
    teacher = registry.make("t", "encoder", {"model": str(folder)})
    with pytest.raises(UserError, match="holds more than tensors"):
        teacher.load(device="cpu", num_threads=1)
    assert not (tmp_path / "owned").exists()


def test_unreachable_and_unknown_are_one_line(hub: tuple[Hub, str], tmp_path: Path):
    _, endpoint = hub
    where = ("--weights-dir", str(tmp_path / "w"))
    for address, words in ((endpoint, "RepositoryNotFound"), ("http://127.0.0.1:9", "Connect")):
        done = coat_cache(address, "fetch", "--model", "tiny/none", *where)
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert words in done.stderr
        assert "check the id and the connection" in done.stderr


def test_one_set_of_weights_is_chosen():
    both = ["model.safetensors", "pytorch_model.bin", "flax_model.msgpack", "config.json",
            "model.fp32-00001-of-00002.safetensors", "onnx/model.onnx", "run.py"]  # fmt: skip
    assert fetch.files(both, code=False) == ["config.json", "model.safetensors"]
    assert "run.py" in fetch.files(both, code=True)
    sharded = ["model.safetensors.index.json", "model-00001-of-00002.safetensors",
               "model-00002-of-00002.safetensors", "pytorch_model.bin", "vocab.json"]  # fmt: skip
    assert fetch.files(sharded, code=False) == sorted({*sharded} - {"pytorch_model.bin"})
    ctranslate2 = ["config.json", "model.bin", "tokenizer.json", "vocabulary.txt"]
    assert fetch.files(ctranslate2, code=False) == ctranslate2


def test_presets_and_teachers_name_their_checkpoints(tmp_path: Path):
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
