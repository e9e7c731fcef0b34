"""Tests for the data of the cache report. `test_report_page.py` tests its appearance."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from manifests.cache.layout import Layout
from manifests.errors import UserError
from manifests.storage import Folder
from pipeline import cli
from pipeline.config import ReportConfig
from pipeline.report import audio_check, page, sampling, words
from pipeline.report.histogram import Histogram
from tests.pipeline.report_cache import FOREIGN, TEACHERS, make_cache


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cache(tmp_path_factory.mktemp("report"))


def report_data(cache: Path, out: Path, **options: Any) -> dict[str, Any]:
    """Writes a report, and returns the JSON data in its page."""
    config = ReportConfig(cache=str(cache), out=str(out), **options)
    text = Path(page.write(config, Console(quiet=True)).uri).read_text("utf-8")
    result = re.search(r'id="facts">(.*?)</script>', text, re.DOTALL)
    assert result
    return json.loads(result[1])


def test_totals_match_the_markers(cache: Path, tmp_path: Path) -> None:
    result = report_data(cache, tmp_path)
    by_name = {line["name"]: line for line in result["teachers"]}
    assert list(by_name) == [spec.name for spec in Layout.open(cache).teachers().values()]
    assert (by_name["asr"]["rows"], by_name["asr"]["missing"]) == (24, 0)
    assert (by_name["music"]["rows"], by_name["music"]["failed"]) == (23, 1)
    assert (by_name["mood"]["rows"], by_name["mood"]["missing"]) == (16, 8)
    assert by_name["asr"]["throughput"]["speed"] == [8 * 2.0 / 0.5] * 3
    assert sum(result["durations"]["counts"]) == 24
    [reason] = result["reasons"]
    assert (reason["teacher"], reason["error"], reason["clips"]) == ("music", "expert", 1)
    assert reason["examples"][0]["message"] == "the model failed"


def test_version_that_is_not_the_default_is_marked_whether_older_or_newer(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    layout = Layout.open(cache)
    old = layout.current()["asr"]
    new = replace(old, settings={**old.settings, "other": 1}, created="2099-01-01T00:00:00+00:00")
    layout.add_teacher(new)
    for corpus in layout.corpora():
        places = [layout.shards(spec, corpus).uri for spec in (old, new)]
        shutil.copytree(*places, dirs_exist_ok=True)
    for chosen in (old, new):
        layout.use(chosen)
        lines = report_data(cache, tmp_path / "page")["teachers"]
        marked = {line["key"]: line["is_default"] for line in lines if line["name"] == "asr"}
        assert marked == {spec.key: spec == chosen for spec in (old, new)}


def test_audio_warnings_are_counted_once_for_all_teachers(cache: Path, tmp_path: Path):
    """The counts come from the markers and do not depend on the number of teachers."""
    assert report_data(cache, tmp_path)["audio_warnings"] == [
        {"kind": "clipped", "clips": 1, "examples": ["clip002"]},
        {"kind": "silent", "clips": 1, "examples": ["clip001"]},
    ]


def test_findings_name_the_silent_clipped_and_mistranscribed_clips(
    cache: Path, tmp_path: Path
) -> None:
    result = report_data(cache, tmp_path)
    by_kind = {}
    for item in result["findings"]:
        by_kind.setdefault(item["kind"], []).append(item["clip_id"])
    assert by_kind["silent"] == ["clip001"]
    assert by_kind["clipped"] == ["clip002"]
    assert "clip003" in by_kind["transcript"]
    assert by_kind["outlier"] == ["clip001"] * len(by_kind["outlier"])
    assert "other audio" not in by_kind
    assert result["listened"] == 23
    assert "004.wav" in result["unheard"][0]


def test_clips_of_two_corpora_with_common_ids_are_counted_apart(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    alone = report_data(cache, tmp_path / "alone")
    layout = Layout.open(cache)
    (name,) = layout.corpora()
    for folder in (cache / "corpora", *(cache / "teachers" / key for key in layout.teachers())):
        shutil.copytree(folder / name, folder / "other")
    index = cache / "corpora" / "other" / "corpus.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"name": "other"}))
    result = report_data(cache, tmp_path / "both", clips=48)
    for count in ("sampled", "listened"):
        assert result[count] == 2 * alone[count]
    kinds = alone["finding_counts"]
    assert result["finding_counts"]["silent"] == 2 * kinds["silent"]
    silent = [item["place"][0] for item in result["findings"] if item["kind"] == "silent"]
    assert sorted(silent) == sorted([name, "other"])


def test_replaced_audio_is_detected(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    (tmp_path / "audio" / "009.wav").write_bytes((tmp_path / "audio" / "010.wav").read_bytes())
    result = report_data(cache, tmp_path)
    replaced = [item["clip_id"] for item in result["findings"] if item["kind"] == "other audio"]
    assert replaced == ["clip009"]


def test_gallery_shows_failed_suspicious_and_other_clips(cache: Path, tmp_path: Path) -> None:
    result = report_data(cache, tmp_path, clips=12)
    shown = {clip["clip_id"]: clip for clip in result["clips"]}
    assert len(shown) == 12
    assert {"clip001", "clip002", "clip006"} <= set(shown)
    assert shown["clip006"]["absent"] == {"music": "extract: expert, the model failed"}
    assert sum(not clip["findings"] and not clip["failed"] for clip in shown.values()) >= 6
    sources = {track["source"] for track in shown["clip002"]["tracks"]}
    assert sources >= {f"{spec.name}.{item.name}" for spec in TEACHERS for item in spec.streams}


def test_same_seed_gives_the_same_page(cache: Path, tmp_path: Path) -> None:
    options = {"sample": 8, "clips": 4}
    first, second, third = (
        report_data(cache, tmp_path / str(turn), seed=seed, **options)
        for turn, seed in enumerate((0, 0, 1))
    )
    for clip in first["clips"] + second["clips"]:
        assert clip.pop("audio").startswith("data:audio/ogg")
    assert first == second
    assert first["sampled"] == third["sampled"] == 8
    assert [clip["clip_id"] for clip in first["clips"]] != [
        clip["clip_id"] for clip in third["clips"]
    ]


def test_report_without_failures_keeps_markup_in_texts(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, count=8, failures=False)
    result = report_data(cache, tmp_path)
    assert result["reasons"] == []
    assert FOREIGN in [clip["text"] for clip in result["clips"]]


def test_sampler_reads_the_targets_of_each_clip(cache: Path) -> None:
    layout = Layout.open(cache)
    places = sampling.draw([layout.corpus("things")], 10, seed=3)
    assert len(places) == 10
    assert places == sorted(set(places))
    for sampled in sampling.Sampler(layout).read(places, {"asr": ["encoder"]}):
        assert sampled.clip == layout.corpus("things").shard(sampled.place[1])[sampled.place[2]]
        assert sampled.targets["asr"].frames["encoder"].num_frames == 100
        assert ("music" in sampled.failures) == (sampled.clip.clip_id == "clip006")


def test_report_reads_only_sampled_shards(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, count=64, failures=False)
    corpus = Layout.open(cache).corpus("things")
    drawn = {shard for _, shard, _ in sampling.draw([corpus], 16, seed=0)}
    assert len(drawn) == 2
    for data in (cache / "teachers").glob("*/things/data/*.parquet"):
        if int(data.name.partition("-")[0]) not in drawn:
            data.unlink()
    result = report_data(cache, tmp_path, sample=16, clips=4)
    assert result["sampled"] == 16
    assert sum(result["durations"]["counts"]) == 64


def test_damaged_shard_raises_an_error(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, count=8, failures=False)
    [data] = (cache / "teachers").glob("asr@*/things/data/*.parquet")
    content = bytearray(data.read_bytes())
    content[len(content) // 3] ^= 0xFF
    data.write_bytes(content)
    with pytest.raises(UserError, match=f"{data.name}.*verify --deep"):
        report_data(cache, tmp_path)


@pytest.mark.parametrize(
    ("reference", "transcript", "rate"),
    [
        ("Good morning.", "good morning", 0.0),
        ("good morning", "", 1.0),
        ("one two three four", "one two tree four", 0.25),
        ("one two", "one and two", 0.5),
        ("", "you", 1.0),
        ("今天天气很好我们去公园", "今天天气很好我们去公司", 1 / 11),
    ],
)
def test_error_rate_counts_words_or_characters(
    reference: str, transcript: str, rate: float
) -> None:
    assert words.error_rate(reference, transcript) == pytest.approx(rate)


def test_histogram_counts_values_beyond_its_edges() -> None:
    histogram = Histogram.nice(0.0, 7.3, 10)
    histogram.add([-1.0, 0.0, 3.3, 7.9, 100.0])
    reported = histogram.to_json()
    assert sum(reported["counts"]) == 5
    assert reported["beyond"]
    assert reported["edges"] == pytest.approx(list(range(9)))
    assert Histogram.nice(1.0, 1.0).counts.size > 0


def test_clipping_is_measured_by_flat_tops() -> None:
    time = np.arange(16_000) / 16_000
    sine = np.sin(2 * np.pi * 3000 * time).astype(np.float32)
    wave = audio_check.audio.Waveform(sine, 16_000, "")
    assert audio_check.measure("a", wave).clipped == 0.0
    wave = audio_check.audio.Waveform((sine * 4).clip(-1, 1), 16_000, "")
    assert audio_check.measure("a", wave).clipped > 0.3


def test_report_command_writes_a_page_without_external_links(
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["coat-cache", "report", "--cache", str(cache), "--out", str(tmp_path), "--clips=2"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    assert "index.html" in capsys.readouterr().out
    assert "://" not in re.sub(
        r"http://www.w3.org/2000/svg", "", (tmp_path / "index.html").read_text()
    )


def test_teacher_without_any_shard_is_listed_as_not_run(tmp_path: Path) -> None:
    """A build that was stopped early has written the teacher's spec and nothing else."""
    cache = make_cache(tmp_path, count=8, failures=False)
    facts = report_data(cache, tmp_path / "before")
    assert facts["not_run"] == []
    key = next(spec.key for spec in TEACHERS if spec.name == "music")
    shutil.rmtree(cache / "teachers" / key / "things")
    facts = report_data(cache, tmp_path / "after")
    assert facts["not_run"] == [key]
    assert key not in [item["key"] for item in facts["teachers"]]


def test_empty_cache_raises_an_error(tmp_path: Path) -> None:
    Layout.create(tmp_path / "cache")
    with pytest.raises(UserError, match="no targets yet"):
        report_data(tmp_path / "cache", tmp_path)


def test_report_in_an_object_store_names_its_address(
    cache: Path, s3: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page was written, and then its size was asked of the local disk."""
    words = ["coat-cache", "report", "--cache", str(cache), "--listen", "1", "--clips", "1"]
    for out, code, text in (
        ("s3://data/page", 0, "s3://data/page/index.html ("),
        ("s3://nosuchbucket/page", 2, "there is no bucket nosuchbucket"),
    ):
        monkeypatch.setattr("sys.argv", [*words, "--out", out])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == code
        assert text in "".join(capsys.readouterr())
    assert Folder("s3://data/page").names() == ["index.html"]


def test_report_does_not_replace_other_pages_or_enter_a_cache(tmp_path: Path):
    cache = make_cache(tmp_path / "made")
    config = ReportConfig(cache=str(cache), out=str(tmp_path / "own"))
    (tmp_path / "own").mkdir()
    (tmp_path / "own/index.html").write_text("my page")
    with pytest.raises(UserError, match="is a page that this program did not write"):
        page.write(config, Console(quiet=True))
    assert (tmp_path / "own/index.html").read_text() == "my page"
    for folder, kind in ((cache, "teacher cache"), (tmp_path / "made/things", "corpus")):
        with pytest.raises(UserError, match=f"is a {kind}, give another folder for the report"):
            page.write(replace(config, out=str(folder)), Console(quiet=True))
        assert not (Path(folder) / "index.html").exists()
    free = replace(config, out=str(tmp_path / "free"))
    for _ in range(2):  # The second page replaces the first one.
        assert page.write(free, Console(quiet=True)).bytes > 1000
