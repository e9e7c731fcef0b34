"""Tests for the command line `coat-corpus`: results, output and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from manifests import cli
from manifests.clips import Clip
from manifests.corpus.corpus import Corpus, build
from manifests.corpus.stats import collect


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    rows = []
    for index in range(10):
        soundfile.write(folder / f"{index}.wav", np.zeros(8000 * (index + 1)), 8000)
        rows.append(
            {"audio_filepath": f"{index}.wav", "duration": index + 1, "lang": "en", "n": [index]}
        )
    rows[0]["text"] = "two words"
    (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["coat-corpus", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code if isinstance(end.value.code, int) else 0


def test_build_reports_new_clips_and_shards(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    source: Path,
    tmp_path: Path,
) -> None:
    words = ("build", source, "--out", tmp_path / "c", "--name", "ten", "--clips-per-shard", 4)
    assert run(monkeypatch, *words) == 0
    assert "10 clips (10 new) in 3 shards, 0.015 h" in " ".join(capsys.readouterr().out.split())
    assert Corpus(tmp_path / "c").shard_sizes() == [4, 4, 2]
    assert run(monkeypatch, *words) == 0
    assert "10 clips (0 new) in 3 shards" in " ".join(capsys.readouterr().out.split())


def test_stats_prints_json_and_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, source: Path, tmp_path: Path
) -> None:
    assert run(monkeypatch, "build", source / "clips.jsonl", "--out", tmp_path / "c") == 0
    capsys.readouterr()
    assert run(monkeypatch, "stats", tmp_path / "c", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["clips"] == 10
    assert result["hours"] == pytest.approx(55 / 3600)
    assert result["quantiles"]["0.5"] == 5.5
    assert (result["with_text"], result["words"]) == (1, 2)
    assert result["languages"] == {"en": 10}
    assert result["labels"]["lang"] == {"clips": 10, "distinct": 1, "common": {"en": 10}}
    assert result["labels"]["n"]["distinct"] == 10
    assert result["some_ids"] == Corpus(tmp_path / "c").shard_ids(0)[:5]

    # The usage line shows the flag before the folder, which used to be taken for its value.
    for words in (["--json"], ["--json=true"], ["--json", "true"]):
        assert run(monkeypatch, "stats", *words, tmp_path / "c") == 0
        assert json.loads(capsys.readouterr().out) == result
    assert run(monkeypatch, "stats", "--json", "false", tmp_path / "c") == 0
    assert "0.5: 5.50" in capsys.readouterr().out

    assert run(monkeypatch, "stats", tmp_path / "c") == 0
    shown = capsys.readouterr().out
    assert "0.5: 5.50" in shown
    assert "1 (10%), 2 words" in shown


def test_languages_of_both_labels_are_added(tmp_path: Path) -> None:
    """The label `lang` used to replace the counts of `language`, and null was a language."""
    stated = (
        [{"language": "fr"}] * 5 + [{"lang": "fr"}] * 4 + [{"lang": "de", "language": None}] * 3
    )
    stated += [{"language": "de", "lang": "xx"}, {}, {"language": ""}]
    clips = [
        Clip(clip_id=f"c{number}", uri=f"/{number}.wav", duration=1.0, labels=labels)
        for number, labels in enumerate(stated)
    ]
    assert collect(build(clips, tmp_path / "c").tables()).languages == {"fr": 9, "de": 4}


def test_stats_do_not_count_labels_without_a_value(tmp_path: Path) -> None:
    """Null used to be a value, although no question is made from it."""
    stated = [{"tempo": "slow"}, {"tempo": "slow"}, {"tempo": None}, {"tempo": ""}, {"tempo": []}]
    stated += [{"tempo": ["", None]}]
    clips = [
        Clip(clip_id=f"c{number}", uri=f"/{number}.wav", duration=1.0, labels=labels)
        for number, labels in enumerate([*stated, {"tempo": 0}])
    ]
    label = collect(build(clips, tmp_path / "c").tables()).labels["tempo"]
    assert (label.clips, label.common) == (3, {"slow": 2, "0": 1})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["build", "/absent"], "there is no /absent"),
        (["build", "/absent", "--shards", "4"], "unknown option --shards 4"),
        (
            ["build", "{source}", "--clips-per-shard", "many"],
            "--clips-per-shard: expected a whole number",
        ),
        (["build", "{empty}"], "holds no audio files"),
        (["build"], "requires SOURCE"),
        (["stats", "{empty}"], "is not a corpus"),
        (["mend"], "mend"),
        ([], "subcommand"),
    ],
)
def test_user_errors_print_one_line_and_exit_with_code_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    source: Path,
    tmp_path: Path,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    filled = [word.format(source=source, empty=tmp_path / "empty") for word in words]
    assert run(monkeypatch, *filled) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("coat-corpus: error: ")
    assert message in line
    assert not (tmp_path / "corpus").exists()


def test_installed_command_reports_an_empty_folder(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("coat-corpus")
    done = subprocess.run([command, "build", tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"coat-corpus: error: {tmp_path} holds no audio files")
    assert "Traceback" not in done.stderr


def test_source_cannot_be_the_folder_of_the_corpus(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, source: Path, tmp_path: Path
) -> None:
    assert run(monkeypatch, "build", source, "--out", f"{source}/") == 2
    assert "is the source itself" in capsys.readouterr().err
    assert not (source / "corpus.json").exists()
    assert run(monkeypatch, "build", source, "--out", tmp_path / "c") == 0
    assert run(monkeypatch, "segment", tmp_path / "c", "--out", tmp_path / "c") == 2
    assert "is the source itself" in capsys.readouterr().err
    assert Corpus(tmp_path / "c").num_clips == 10
    assert run(monkeypatch, "build", tmp_path / "c", "--out", tmp_path / "d") == 2
    assert "is a corpus, expected a source of one" in capsys.readouterr().err
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/cache.json").write_text('{"format": 2}')
    assert run(monkeypatch, "build", tmp_path / "cache", "--out", tmp_path / "d") == 2
    assert "is a teacher cache, expected a source of a corpus" in capsys.readouterr().err


def test_file_instead_of_a_corpus_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, source: Path
) -> None:
    assert run(monkeypatch, "stats", source / "clips.jsonl") == 2
    assert "is a file, expected the folder of a corpus" in capsys.readouterr().err


def test_segment_states_that_no_clip_was_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, source: Path, tmp_path: Path
) -> None:
    run(monkeypatch, "build", source, "--out", tmp_path / "c")
    assert run(monkeypatch, "segment", tmp_path / "c", "--out", tmp_path / "d") == 0
    assert "10 clips, none of them longer than 30 s" in capsys.readouterr().out
    # The clips that the corpus had before are not among those that were cut.
    assert run(monkeypatch, "segment", tmp_path / "c", "--out", tmp_path / "d") == 0
    assert "10 clips (0 new) of at most 30 s" in capsys.readouterr().out
