"""Tests for selecting versions, corpora with shared ids, failures, and plans."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from manifests.cache.layout import Layout
from manifests.cache.reader import CacheReader
from manifests.clips import Clip
from manifests.corpus.corpus import Corpus, build
from manifests.errors import UserError
from pipeline import cli
from pipeline.build import plan, setup
from pipeline.config import BuildConfig, PlanOptions, TeacherConfig
from pipeline.inspect import maintenance, status
from tests.pipeline.conftest import ENERGY, MakeCorpus, noise_corpus
from tests.pipeline.local_cache import fill

FIRST, SECOND = "2026-01-01T00:00:00+00:00", "2026-02-01T00:00:00+00:00"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.create(tmp_path / "cache")


def test_readers_get_the_newest_complete_version(
    layout: Layout, make_corpus: MakeCorpus, caplog: pytest.LogCaptureFixture
):
    corpus = make_corpus(12)
    old = fill(layout, corpus, created=FIRST)
    new = fill(layout, corpus, gain=2.0, created=SECOND, numbers=[])
    with caplog.at_level(logging.WARNING):
        assert CacheReader(layout.root.uri).teachers["energy"] == old
    assert f"the newer {new.key} has 0 of 3 shards" in caplog.text
    fill(layout, corpus, gain=2.0, created=SECOND, numbers=[0, 1])
    assert layout.teacher("energy") == old
    fill(layout, corpus, gain=2.0, created=SECOND, numbers=[2])
    assert layout.teacher("energy") == new
    lines = {line.teacher: (line.used, line.why) for line in maintenance.versions(layout)}
    assert lines == {old.key: (False, "3 of 3 shards"), new.key: (True, "newest complete")}


def test_version_with_only_failures_is_not_selected(layout: Layout, make_corpus: MakeCorpus):
    corpus = make_corpus(4)
    old = fill(layout, corpus, created=FIRST)
    kept = {clip.uri: Path(clip.uri).read_bytes() for clip in corpus.clips()}
    for path in kept:
        Path(path).write_text("no audio")
    fill(layout, corpus, gain=2.0, created=SECOND)
    assert layout.current()["energy"] == old


def test_earlier_settings_are_selected_when_they_cover_more(
    layout: Layout, tmp_path: Path, make_corpus: MakeCorpus
):
    old = fill(layout, make_corpus(8), created=FIRST)
    new = fill(layout, make_corpus(8), gain=2.0, created=SECOND)
    assert layout.current()["energy"] == new
    grown = noise_corpus(tmp_path, 12)
    fill(layout, grown, created=FIRST)
    assert layout.current()["energy"] == old


def test_status_lists_corpora_that_the_default_version_lacks(
    layout: Layout, tmp_path: Path, make_corpus: MakeCorpus
):
    """Readers get the chosen version, and nothing for the corpus that only the older one has."""
    old = fill(layout, make_corpus(8), created=FIRST)
    (tmp_path / "noise").mkdir()
    other = build(noise_corpus(tmp_path / "noise", 4).clips(), tmp_path / "other")
    new = fill(layout, other, gain=2.0, created=SECOND)
    layout.use(new)
    lines = {(line.teacher, line.corpus): line.missing for line in status.status(layout)}
    assert lines == {(old.key, "corpus"): 0, (new.key, "other"): 0, (new.key, "corpus"): 8}


def test_use_command_selects_a_version(
    layout: Layout, make_corpus: MakeCorpus, capsys: pytest.CaptureFixture
):
    corpus, cache = make_corpus(8), layout.root.uri
    old = fill(layout, corpus, created=FIRST)
    new = fill(layout, corpus, gain=2.0, created=SECOND)
    cli.use_version(old.key, cache)
    assert f"readers get {old.key} (chosen)" in capsys.readouterr().out
    assert CacheReader(cache).teacher("energy").spec == old
    with pytest.raises(UserError, match="has no teacher"):
        cli.use_version("energy@000000000000", cache)
    cli.use_version("energy", cache)
    assert layout.current()["energy"] == new
    cli.use_version(old.key, cache)
    maintenance.remove(layout, old)
    assert layout.current()["energy"] == new


def test_corpora_with_shared_ids_are_read_separately(layout: Layout, tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    pilot = noise_corpus(tmp_path / "a", 4)
    whole = noise_corpus(tmp_path / "b", 8, seed=1)
    pilot = build(pilot.clips(), tmp_path / "pilot", clips_per_shard=4)
    whole = build(whole.clips(), tmp_path / "whole", clips_per_shard=4)
    fill(layout, pilot)
    fill(layout, whole)
    cache = layout.root.uri
    with pytest.raises(UserError, match=r"'pilot' and 'whole'.*'clip000.'.*--corpus"):
        CacheReader(cache).stream("energy.bands")
    with pytest.raises(UserError, match="--corpus NAME"):
        cli.show_clip("clip0001", cache)
    assert len(CacheReader(cache, corpora=["pilot"]).stream("energy.bands")) == 4
    assert len(CacheReader(cache, corpora=["whole"]).stream("energy.bands")) == 8
    cli.show_clip("clip0001", cache, corpus="whole", picture=str(tmp_path / "clip.png"))
    with pytest.raises(UserError, match="no corpus 'other'"):
        cli.show_clip("clip0001", cache, corpus="other")


def test_corpus_with_the_same_rows_in_other_files_is_accepted(
    layout: Layout, tmp_path: Path, make_corpus: MakeCorpus
):
    corpus = make_corpus(8)
    layout.register(corpus)
    (part,) = corpus.parts
    path = tmp_path / "corpus" / part.file
    table = pq.read_table(path)
    pq.write_table(table, path, row_group_size=4, compression="gzip")
    index = json.loads((tmp_path / "corpus" / "corpus.json").read_text())
    index["parts"][0] |= {"bytes": path.stat().st_size, "sha256": "0" * 64}
    (tmp_path / "corpus" / "corpus.json").write_text(json.dumps(index))
    layout.register(Corpus(tmp_path / "corpus"))
    assert layout.corpus("corpus").parts == (part,)

    changed = table.set_column(1, table.schema.field(1), [table["uri"].to_pylist()[::-1]])
    pq.write_table(changed, path, row_group_size=4)
    index["parts"][0]["bytes"] = path.stat().st_size
    (tmp_path / "corpus" / "corpus.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="another --name"):
        layout.register(Corpus(tmp_path / "corpus"))


def test_updated_labels_are_registered_without_changing_targets(
    layout: Layout, tmp_path: Path, make_corpus: MakeCorpus
):
    corpus = make_corpus(8)
    spec = fill(layout, corpus)
    folder = Path(layout.root.path("")) / "teachers"
    targets = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    open_reader = CacheReader(layout.root.uri)

    clips = list(corpus.clips())
    expected = [replace(clips[0], text="corrected", labels={"sound": "bell"}), *clips[1:]]
    relabelled = build(expected, tmp_path / "corpus", update_labels=True)
    assert plan.missing(layout, relabelled, [spec]) == {"energy": []}
    layout.register(relabelled)
    assert list(layout.corpus("corpus").clips()) == expected
    assert plan.missing(layout, relabelled, [spec]) == {"energy": []}
    assert targets == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert len(open_reader.stream("energy.bands")) == 8
    assert len(CacheReader(layout.root.uri).stream("energy.bands")) == 8

    # Another build of the corpus names its parts differently, so no file is overwritten.
    (part,) = layout.corpus("corpus").parts
    fresh = build([*clips], tmp_path / "again" / "corpus", clips_per_shard=4)
    layout.register(fresh)
    (third,) = layout.corpus("corpus").parts
    assert len({corpus.parts[0].file, part.file, third.file}) == 3
    assert list(layout.corpus("corpus").clips()) == clips


@pytest.mark.parametrize(
    "uri",
    [
        "s3://data?endpoint_override=localhost:9&scheme=http/a.wav",
        "s3://user:secret@data/a.wav",
        "gs://data?x=1/a.wav",
        "hdfs://host:9/a.wav",
        "http://user:secret@host/a.wav",
        "file://host/a.wav",
    ],
)
def test_uri_with_a_host_or_credentials_raises_an_error(uri: str):
    with pytest.raises(UserError, match="in the manifest is refused"):
        Clip(clip_id="a", uri=uri)


@pytest.mark.parametrize("uri", ["/a?b.wav", "s3://my-data.x/a?b#c%.wav", "gs://b/a b.wav"])
def test_object_keys_may_have_any_characters(uri: str):
    assert Clip(clip_id="a", uri=uri).uri == uri


@pytest.mark.parametrize("name", ["../../../evil.parquet", "/etc/passwd", "x.parquet", 3])
def test_marker_with_an_unexpected_file_name_raises_an_error(
    layout: Layout, make_corpus: MakeCorpus, name: object
):
    spec = fill(layout, make_corpus(4))
    folder = layout.shards(spec, "corpus")
    path = Path(folder.path("markers/0000000.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data": name}))
    with pytest.raises(UserError, match=r"is not a marker.*verify --repair"):
        CacheReader(layout.root.uri).teacher("energy")


def test_teacher_name_with_a_path_raises_an_error(layout: Layout, make_corpus: MakeCorpus):
    with pytest.raises(UserError, match="must be letters"):
        fill(layout, make_corpus(4), name="../evil")


@pytest.fixture
def failing(layout: Layout, make_corpus: MakeCorpus) -> Corpus:
    """A cache in which two of eight clips failed."""
    corpus = make_corpus(8)
    Path(corpus.shard(0)[1].uri).write_text("no audio")
    Path(corpus.shard(1)[2].uri).unlink()
    fill(layout, corpus)
    fill(layout, corpus, name="second")
    return corpus


def test_failures_are_listed_and_exported_as_a_manifest(
    layout: Layout, failing: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture
):
    cache, manifest = layout.root.uri, tmp_path / "failed.jsonl"
    cli.list_failures(cache, json=True)
    first, second = json.loads(capsys.readouterr().out)
    assert (first["clip_id"], second["clip_id"]) == ("clip0001", "clip0006")
    assert first["uri"] == failing.shard(0)[1].uri
    assert {each["error"] for each in second["failures"]} == {"missing"}
    assert len(second["failures"]) == 2
    cli.list_failures(cache)
    shown = capsys.readouterr().out
    assert "clip0001" in shown
    assert "decode: unreadable" in shown
    assert shown.count("clip0006") == 1

    cli.list_failures(cache, export=str(manifest))
    failed = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert "unreadable" in json.dumps(failed[0]["labels"]["failures"])
    again = build(
        [Clip(clip_id=row["id"], uri=row["audio_filepath"]) for row in failed], tmp_path / "failed"
    )
    assert again.num_clips == 2


def config(corpus: Corpus, cache: str, **options) -> BuildConfig:
    return BuildConfig(corpus=corpus.folder.uri, cache=cache, **options)


def test_retry_uses_settings_of_the_existing_version(layout: Layout, failing: Corpus):
    """Settings and adapter come from the cache, if the adapter is trusted."""
    before = layout.teachers()
    options = config(failing, layout.root.uri)
    assert (
        setup.existing_teachers(layout, options) == []
    )  # Adapters of other packages need a config.
    with_config = {"energy": TeacherConfig(family=ENERGY, settings={"gain": 9.0})}
    (result,) = setup.existing_teachers(
        layout, config(failing, layout.root.uri, teacher=with_config)
    )
    assert result.spec.key == layout.teacher("energy").key
    assert result.settings["gain"] == 1.0
    assert layout.teachers() == before
    with pytest.raises(UserError, match=r"cannot be run here: its adapter"):
        setup.existing_teachers(layout, config(failing, layout.root.uri, teachers="second"))
    assert plan.failed(layout, failing, [result.spec]) == {
        "energy": {0: frozenset({"clip0001"}), 1: frozenset({"clip0006"})}
    }


@pytest.mark.parametrize("default", ["tiny", "full"])
def test_retry_uses_the_default_version_unless_options_describe_another(
    layout: Layout, default: str
) -> None:
    """Without options, the preset's version was retried, and `failures` still listed the others."""

    def described(size: str) -> BuildConfig:
        teacher = {"pitch": TeacherConfig(settings={"model": size})}
        return BuildConfig(corpus="c", cache=layout.root.uri, teachers="pitch", teacher=teacher)

    specs = {size: setup.teachers(described(size))[0].spec for size in ("tiny", "full")}
    for spec in specs.values():
        layout.add_teacher(spec)
    layout.use(specs[default])
    plain = BuildConfig(corpus="c", cache=layout.root.uri, teachers="pitch")
    (chosen,) = setup.existing_teachers(layout, plain)
    assert chosen.spec.key == specs[default].key
    for size, spec in specs.items():
        (chosen,) = setup.existing_teachers(layout, described(size))
        assert chosen.spec.key == spec.key


def test_plan_rejects_what_build_rejects(layout: Layout, tmp_path: Path, make_corpus: MakeCorpus):
    layout.register(make_corpus(8))
    (tmp_path / "b").mkdir()
    other = build([Clip(clip_id="x", uri="/x.wav")], tmp_path / "b" / "corpus", clips_per_shard=4)
    options = PlanOptions(corpus=other.folder.uri, cache=layout.root.uri)
    with pytest.raises(UserError, match="another --name"):
        cli.plan_build(options)
    (tmp_path / "cache" / "cache.json").write_text('{"format": 99}')
    with pytest.raises(UserError, match="upgrade"):
        cli.plan_build(options)


def test_plan_reports_clips_of_unknown_duration(tmp_path: Path, capsys: pytest.CaptureFixture):
    with_config = {"energy": TeacherConfig(family=ENERGY)}
    build([Clip(clip_id="x", uri="/x.wav"), Clip(clip_id="y", uri="/y.wav")], tmp_path / "none")
    options = {"cache": str(tmp_path / "cache"), "preset": "none", "teacher": with_config}
    cli.plan_build(PlanOptions(corpus=str(tmp_path / "none"), json=True, **options))
    (todo,) = json.loads(capsys.readouterr().out)
    assert (todo["audio_hours"], todo["cache_bytes"], todo["worker_hours"]) == (None, None, None)
    assert todo["clips_of_unknown_length"] == 2
    cli.plan_build(PlanOptions(corpus=str(tmp_path / "none"), **options))
    assert "unknown" in capsys.readouterr().out

    clips = [
        Clip(clip_id="x", uri="/x.wav", duration=3600.0), Clip(clip_id="y", uri="/y.wav")
    ]  # fmt: skip
    build(clips, tmp_path / "half")
    options = {"cache": str(tmp_path / "cache"), "price_per_core_hour": 0.04}
    cli.plan_build(PlanOptions(corpus=str(tmp_path / "half"), json=True, **options))
    result = {todo["teacher"]: todo for todo in json.loads(capsys.readouterr().out)}
    assert result["asr"]["audio_hours"] == 2.0
    assert result["asr"]["clips_of_unknown_length"] == 1
    assert result["asr"]["is_provisional"]
    assert result["asr"]["price"] == pytest.approx(2 * 0.308 * 0.04)
    cli.plan_build(PlanOptions(corpus=str(tmp_path / "half"), **options))
    shown = capsys.readouterr().out
    assert "all" in shown
    assert "1 clip has no stated length" in shown


def test_folder_of_other_files_does_not_become_a_cache(tmp_path: Path):
    """A mistyped `--cache recordings/` would otherwise put a cache among the recordings."""
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings" / "a.wav").touch()
    with pytest.raises(UserError, match=r"holds other files \(a.wav\); give a new or an empty"):
        Layout.create(tmp_path / "recordings")
    with pytest.raises(UserError, match="is a file, expected the folder of a teacher cache"):
        Layout.create(tmp_path / "recordings" / "a.wav")
    (tmp_path / "disk" / "lost+found").mkdir(parents=True)
    (tmp_path / "disk" / ".hidden").touch()
    assert Layout.create(tmp_path / "disk").root.exists("cache.json")


def test_selected_version_is_shown_as_chosen_even_if_it_is_the_only_one(
    layout: Layout, make_corpus: MakeCorpus
):
    spec = fill(layout, make_corpus(4), created=FIRST)
    assert layout.current_versions()["energy"].why == "only version"
    layout.use(spec)
    assert layout.current_versions()["energy"].why == "chosen"


def test_plan_marks_estimates_that_another_version_measured(
    layout: Layout, tmp_path: Path, make_corpus: MakeCorpus, capsys: pytest.CaptureFixture
):
    corpus = make_corpus(8)
    fill(layout, corpus, created=FIRST, numbers=[0])

    def estimate(**teacher: Any) -> dict[str, Any]:
        config = {"energy": TeacherConfig(**teacher)}
        options = {"cache": layout.root.uri, "preset": "none", "teacher": config}
        cli.plan_build(PlanOptions(corpus=corpus.folder.uri, json=True, **options))
        return json.loads(capsys.readouterr().out)[0]

    same = estimate(family=ENERGY, settings={"gain": 1.0})
    assert not same["is_provisional"]
    assert same["worker_hours"] is not None
    changed = estimate(family=ENERGY, settings={"gain": 2.0})
    assert changed["is_provisional"]
    assert changed["worker_hours"] is not None
    other = estimate(family="crepe")
    assert other["is_provisional"]
    hours = other["audio_hours"] * plan.CORE_SECONDS["crepe"]
    assert other["worker_hours"] == pytest.approx(hours)
