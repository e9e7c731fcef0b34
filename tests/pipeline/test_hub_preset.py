"""Tests `coat-cache build --preset hub` with every family, from folders of tiny checkpoints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from manifests.cache.layout import Layout
from manifests.cache.reader import CacheReader
from manifests.corpus.corpus import Corpus
from pipeline.inspect import audit
from teachers import registry
from tests.pipeline.conftest import ROOT, MakeCorpus
from tests.teachers import checkpoints

PLACES = {
    "openai/whisper-large-v3": checkpoints.whisper,
    "superb/hubert-large-superb-er": checkpoints.emotion,
    "MIT/ast-finetuned-audioset-10-10-0.4593": checkpoints.ast,
    "facebook/pe-a-frame-large": checkpoints.pe_audio_frame,
    "laion/larger_clap_music": checkpoints.clap,
    "facebook/wav2vec2-lv-60-espeak-cv-ft": checkpoints.ctc,
    "nvidia/parakeet-ctc-1.1b": checkpoints.parakeet,
    "nvidia/Nemotron-3-Diarization": checkpoints.speakers,
    "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim": checkpoints.audeering,
    "m-a-p/MERT-v1-95M": checkpoints.mert,
    "microsoft/wavlm-large": checkpoints.wavlm,
}
MORE_TEACHERS = {
    "aligned": {"family": "ctc", "settings": {"model": "nvidia/parakeet-ctc-1.1b", "align": True}},
    "speakers": {"family": "frame_classifier"},
    "ast": {
        "family": "audio_classifier",
        "settings": {"model": "MIT/ast-finetuned-audioset-10-10-0.4593", "scores": "sigmoid"},
    },
    "dimensions": {"family": "audeering"},
    "mert": {"family": "mert", "settings": {"layer": 2}},
    "ssl": {"family": "transformers:microsoft/wavlm-large", "runtime": {"batch_seconds": 5}},
    "fast_pitch": {"family": "swift_f0"},
    "loudness": {"family": "examples.own_teacher:Loudness"},
}
"""Teachers besides the preset: the other families, the generic family, and a user's teacher."""


def test_hub_preset_builds_targets_of_every_family(make_corpus: MakeCorpus, tmp_path: Path):
    corpus: Corpus = make_corpus(3)
    weights, cache = tmp_path / "weights", tmp_path / "cache"
    for model, make in PLACES.items():
        make(weights / model)
    original = checkpoints.openai_whisper(tmp_path / "tiny.en.pt")
    original_asr = {"family": "openai_whisper", "settings": {"model": str(original)}}
    command = [
        sys.executable, "-c", "from pipeline.cli import main; main()", "build",
        "--preset", "hub", "--corpus", corpus.folder.uri, "--cache", str(cache),
        "--weights-dir", str(weights),
        "--teacher", json.dumps({**MORE_TEACHERS, "original_asr": original_asr}),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=1500)
    assert done.returncode == 0, done.stderr

    names = {*registry.preset("hub"), *MORE_TEACHERS, "original_asr"}
    reader = CacheReader(str(cache))
    newest = Layout.open(str(cache)).current()
    assert set(newest) == names
    for name, spec in newest.items():
        for stream in spec.streams:
            rows = dict(reader.stream(f"{name}.{stream.name}"))
            assert len(rows) == 3, (name, stream.name)
            for frames in rows.values():
                assert np.isfinite(frames.decode()).all()
    assert newest["asr"].settings["model"] == "openai/whisper-large-v3"
    assert newest["sound_event"].stream("posteriors").kind == "multilabel"

    # A second run has nothing to do.
    again = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert "is already complete" in again.stdout, again.stderr


def test_audit_loads_weights_from_the_environments_folder(
    make_corpus: MakeCorpus, tmp_path: Path, monkeypatch
):
    from pipeline.build.setup import teachers
    from pipeline.config import BuildConfig, TeacherConfig

    checkpoints.ctc(tmp_path / "weights" / "tiny" / "phones")
    config = BuildConfig(
        corpus="none", cache="none", preset="none", weights_dir=str(tmp_path / "weights"),
        teacher={"phones": TeacherConfig(family="ctc", settings={"model": "tiny/phones"})},
    )  # fmt: skip
    (setup,) = teachers(config)
    assert "weights_dir" not in setup.spec.settings
    monkeypatch.setenv("COAT_WEIGHTS_DIR", str(tmp_path / "weights"))
    teacher = audit._expert(setup.spec, trust_remote_code=False)
    assert teacher.spec().fingerprint == setup.spec.fingerprint
