"""Tests that data sets of the Hugging Face hub are read in place, with the rows of `datasets`.

The tests start a small hub over HTTP. Each reader runs in its own process, because
`huggingface_hub` reads its endpoint once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.manifests.corpus.test_tars import flac, write_tar
from tests.manifests.hub_server import COMMIT, serve_hub

ROOT = Path(__file__).parents[3]
READ = """
import json, sys
from manifests import audio
from manifests.corpus.sources import detect
from manifests.storage import Folder
for clip in detect.clips(sys.argv[1], Folder(sys.argv[2])):
    wave = audio.decode(clip)
    print(json.dumps([clip.uri, clip.text, dict(clip.labels), wave.seconds, wave.digest]))
"""
READ_BY_DATASETS = """
import hashlib, io, json, sys
import datasets, numpy, soundfile
for rows in datasets.load_dataset(sys.argv[1], streaming=True).values():
    for row in rows.decode(False):
        wave, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
        head = numpy.int64(rate).tobytes()
        digest = hashlib.blake2b(head + wave.tobytes(), digest_size=16).hexdigest()
        kind = rows.features["kind"].int2str(row["kind"])
        print(json.dumps([row["text"], {"kind": kind}, digest]))
"""


def run_with_hub(code: str, address: str, home: Path, *arguments: str) -> list:
    environment = {
        "HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1",
        "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def write_parquet(folder: Path) -> None:
    """Writes two splits in the form of the package `datasets`."""
    folder.mkdir(parents=True)
    features = datasets.Features(
        audio=datasets.Audio(),
        text=datasets.Value("string"),
        kind=datasets.ClassLabel(names=["calm", "loud"]),
    )
    for place, split in enumerate(("train", "test")):
        stored = [{"bytes": flac(3 * place + n), "path": f"{n}.flac"} for n in range(3)]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({
            "audio": pa.array(stored, kind),
            "text": [f"{split} {n}" for n in range(3)],
            "kind": pa.array([0, 1, 0], pa.int64()),
        })  # fmt: skip
        pq.write_table(
            table.cast(features.arrow_schema), folder / f"{split}-00000-of-00001.parquet"
        )


@pytest.mark.slow
def test_parquet_and_tars_of_the_hub_are_read_in_place(tmp_path: Path):
    base, home, out = tmp_path / "hub", tmp_path / "home", tmp_path / "audio"
    write_parquet(base / "org" / "set" / "data")
    write_tar(
        base / "org" / "tars" / "train-000.tar",
        ("0.flac", flac(0)), ("0.json", b'{"text": "zero"}'),
        ("1.flac", flac(1)), ("1.json", b'{"text": "one"}'),
    )  # fmt: skip
    for name in ("set", "tars"):
        (base / "org" / name / "README.md").write_text("---\nlicense: mit\n---\n")
    with serve_hub(base) as (address, _):
        ours = run_with_hub(READ, address, home, "hf:org/set", str(out))
        theirs = run_with_hub(READ_BY_DATASETS, address, home, "org/set")
        assert [[text, labels, digest] for _, text, labels, _, digest in ours] == theirs
        assert ours[0][0].startswith(f"hf://datasets/org/set@{COMMIT}/data/train-00000")
        test = run_with_hub(READ, address, home, "hf:org/set?split=test", str(out))
        assert [row[1] for row in test] == ["test 0", "test 1", "test 2"]
        tars = run_with_hub(READ, address, home, "hf:org/tars", str(out))
        assert [row[1] for row in tars] == ["zero", "one"]
        assert all("train-000.tar#bytes=" in row[0] for row in tars)
    assert not out.exists()
