"""Tests that the cache format matches `docs/cache_format.md`.

The files are read with pyarrow, DuckDB and Polars in processes that do not import this project."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from manifests.cache.reader import CacheReader
from tests.manifests.frames import KINDS, make_cache, stream

DOCUMENT = Path(__file__).parents[3] / "docs" / "cache_format.md"
INDEPENDENT_READER = '''
import json, sys
import numpy as np

tool, path, column, decode, D, out = sys.argv[1:]
if tool == "pyarrow":
    import pyarrow.parquet as pq
    table = pq.read_table(path)
    ids, blobs = table["clip_id"].to_pylist(), table[column].to_pylist()
elif tool == "duckdb":
    import duckdb
    rows = duckdb.sql(f"""select clip_id, "{column}" from '{path}' """).fetchall()
    ids, blobs = zip(*rows)
else:
    import polars
    frame = polars.read_parquet(path)
    ids, blobs = frame["clip_id"].to_list(), frame[column].to_list()
frames = {}
for clip_id, blob in zip(ids, blobs):
    names = {"np": np, "blob": blob, "D": int(D)}
    exec(decode, names)

    frames[clip_id] = names["frames"]
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & {"manifests", "teachers", "pipeline", "student"}
np.savez(out, **frames)
'''


def documented_decoder(codec: str) -> str:
    """Returns the Python lines that the document gives for decoding a codec."""
    block = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), re.S)
    assert block is not None
    parts = re.split(r"^# (\w+).*\n", block[1], flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[codec]


@pytest.mark.parametrize("tool", ["pyarrow", "duckdb", "polars"])
@pytest.mark.parametrize("codec", KINDS)
def test_blobs_can_be_decoded_without_this_project(tool: str, codec: str, tmp_path: Path):
    make_cache(tmp_path)
    path = next((tmp_path / "cache").glob("teachers/*/corpus/data/0000000-*.parquet"))
    out, dim = tmp_path / "frames.npz", str(stream(codec).dim)
    lines = [tool, str(path), f"{codec}.frames", documented_decoder(codec), dim, str(out)]
    subprocess.run(
        [sys.executable, "-I", "-c", INDEPENDENT_READER, *lines], check=True, cwd=tmp_path
    )

    ours = CacheReader(tmp_path / "cache").stream(f"every.{codec}")
    theirs = np.load(out)
    assert len(theirs) == 10
    for clip_id in theirs:
        np.testing.assert_allclose(theirs[clip_id], ours[clip_id].decode(), rtol=1e-6, atol=1e-7)


def test_column_metadata_describes_the_stream(tmp_path: Path):
    import pyarrow.parquet as pq

    make_cache(tmp_path)
    path = next((tmp_path / "cache").glob("teachers/*/corpus/data/*.parquet"))
    metadata = pq.read_schema(path).field("pitch.frames").metadata
    assert metadata[b"codec"] == b"pitch"
    assert (metadata[b"dim"], metadata[b"hop_s"], metadata[b"start_s"]) == (
        b"361",
        b"0.02",
        b"0.01",
    )


def test_cache_contains_exactly_the_documented_files(tmp_path: Path):
    make_cache(tmp_path)
    cache = tmp_path / "cache"
    assert json.loads((cache / "cache.json").read_text()) == {"format": 2}
    result = {
        re.sub(r"[0-9a-f]{12}|(?<=-)[0-9a-f]{8}", "#", str(path.relative_to(cache)))
        for path in cache.rglob("*.*")
        if path.is_file()
    }
    assert result == {
        "cache.json",
        "corpora/corpus/corpus.json",
        "corpora/corpus/clips-00000.parquet",
        "teachers/every@#/spec.json",
        "teachers/every@#/corpus/markers/0000000.json",
        "teachers/every@#/corpus/markers/0000001.json",
        "teachers/every@#/corpus/data/0000000-#.parquet",
        "teachers/every@#/corpus/data/0000001-#.parquet",
    }
