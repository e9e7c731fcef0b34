"""Tests for the commands of `coat-cache`: JSON output, exit codes, options, and completion."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from manifests.cache.layout import Layout
from manifests.clips import Clip
from manifests.corpus.corpus import build
from manifests.errors import UserError
from pipeline import cli
from pipeline.build import environment, plan, setup
from pipeline.build.languages import warn_of_languages
from pipeline.config import BuildConfig
from pipeline.teacher_options import merge_teacher_options
from tests.pipeline.report_cache import TEACHERS, make_cache


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cache(tmp_path_factory.mktemp("terminal"))


def run_command(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    """Runs a command, and returns its exit code, stdout and stderr."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["coat-cache", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
    printed = capsys.readouterr()
    code = end.value.code
    assert isinstance(code, int | None)
    return code or 0, printed.out, printed.err


@pytest.mark.parametrize(
    ("words", "first"),
    [
        (("status",), {"teacher": str, "rows": int}),
        (("coverage",), {"clips": int, "holes": dict}),
        (("ls",), {"teacher": str, "newest": bool}),
        (("show", "clip000"), None),
        (("plan", "--corpus", "{root}/things"), {"version": str, "cache_bytes": float}),
    ],
)
def test_read_commands_print_json(
    cache: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], first: Any
) -> None:
    filled = [word.format(root=cache.parent) for word in words]
    _, out, err = run_command(capsys, *filled, "--cache", cache, "--json")
    assert err == ""
    result = json.loads(out)
    if first is None:
        assert set(result["teachers"]) >= {"asr", "pitch"}
        return
    assert {key: type(result[0][key]) for key in first} == first


def test_reasons_below_the_status_name_the_corpus_if_there_are_several(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = make_cache(tmp_path)
    _, alone, _ = run_command(capsys, "status", "--cache", cache)
    assert re.search(r"music@\w+ failed: expert 1", alone)
    layout = Layout.open(cache)
    for folder in (cache / "corpora", *(cache / "teachers" / key for key in layout.teachers())):
        shutil.copytree(folder / "things", folder / "other")
    _, shown, _ = run_command(capsys, "status", "--cache", cache)
    named = re.findall(r"music@\w+ on (\w+) failed: expert 1", " ".join(shown.split()))
    assert sorted(named) == ["other", "things"]


def test_show_works_without_audio_or_targets(
    cache: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Clip004 has targets but no audio; the other clip has neither."""
    picture = tmp_path / "clip.png"
    code, out, err = run_command(capsys, "show", "clip004", "--cache", cache, "--picture", picture)
    assert (code, err) == (0, "")
    assert "pitch.f0" in out
    assert picture.read_bytes().startswith(b"\x89PNG")

    lost = Clip(clip_id="lost", uri="/nowhere/lost.wav", duration=1.0)
    Layout.create(tmp_path / "empty").register(build([lost], tmp_path / "lost"))
    words = ("show", "lost", "--cache", tmp_path / "empty", "--picture", tmp_path / "none.png")
    code, out, _ = run_command(capsys, *words)
    assert (code, out.splitlines()[-1]) == (0, "no picture: neither audio nor targets")
    assert not (tmp_path / "none.png").exists()


def test_checks_print_json_lines(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(capsys, "verify", "--deep", "--cache", cache, "--json") == (0, "", "")
    words = ("audit", "--content-only", "--teacher", "pitch", "--sample", "0")
    code, out, err = run_command(capsys, *words, "--cache", cache, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert len(lines) == 24
    gone = [line for line in lines if line["verdict"] != "same"]
    assert [line["clip_id"] for line in gone] == ["clip004"]
    assert (code, err) == (1, "")


def test_status_exits_with_1_for_an_incomplete_cache(
    cache: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run_command(capsys, "status", "--cache", cache)[0] == 1
    whole = make_cache(tmp_path, count=8, failures=False)
    assert run_command(capsys, "status", "--cache", whole)[0] == 0
    code, out, err = run_command(capsys, "status", "--cache", tmp_path / "nowhere")
    assert (code, out, len(err.splitlines())) == (2, "", 1)


def test_shell_completion_completes_commands_and_options(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, script, _ = run_command(capsys, "completion", "bash")
    assert code == 0
    (tmp_path / "script").write_text(script)
    shell = f"""source {tmp_path}/script
        try() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=();
                 _shtab_coat_cache 2>/dev/null; echo "${{COMPREPLY[*]}}"; }}
        try coat-cache sta; try coat-cache build --ray; try coat-cache completion ''"""
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["status", "--ray-address", "bash zsh"]


def test_output_to_a_pipe_has_no_colours(cache: Path) -> None:
    words = [sys.executable, "-c", "import pipeline.cli; pipeline.cli.main()", "ls"]
    done = subprocess.run(
        [*words, "--cache", str(cache)], capture_output=True, text=True, check=True
    )
    assert "\x1b" not in done.stdout + done.stderr
    assert "Versions" in done.stdout


TEACHER_FILE = """
teacher:
  energy: {family: "tests.pipeline.fakes:Energy", settings: {gain: 2.0}, resources: {num_cpus: 0.5}}
  other: {family: "tests.pipeline.fakes:Energy"}
"""


@pytest.mark.parametrize("file_first", [True, False])
@pytest.mark.parametrize("command", ["plan", "build", "retry-failures"])
def test_teacher_options_are_merged_with_the_config_file(
    tmp_path: Path, command: str, *, file_first: bool
) -> None:
    file = tmp_path / "build.yaml"
    file.write_text(TEACHER_FILE)
    config = ["--config", str(file)]
    option = ["--teacher", '{"energy": {"runtime": {"fail": "no"}, "settings": {"rate": 8000}}}']
    words = [*config, *option] if file_first else [*option, *config]
    merged = merge_teacher_options([command, "--cache", "c", *words, "--part", "1/2"])
    assert merged[:3] == [command, "--cache", "c"]
    assert merged[-2:] == ["--part", "1/2"]
    (merged_option,) = [word for word in merged if word.startswith("--teacher")]
    assert merged.index(merged_option) > merged.index("--config")
    assert json.loads(merged_option.partition("=")[2]) == {
        "energy": {
            "family": "tests.pipeline.fakes:Energy",
            "settings": {"gain": 2.0, "rate": 8000},
            "resources": {"num_cpus": 0.5},
            "runtime": {"fail": "no"},
        },
        "other": {"family": "tests.pipeline.fakes:Energy"},
    }


@pytest.mark.parametrize("file_first", [True, False])
def test_plan_merges_teachers_of_file_and_option(
    cache: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, *, file_first: bool
) -> None:
    file = tmp_path / "build.yaml"
    file.write_text(
        'teacher:\n  energy: {family: "tests.pipeline.fakes:Energy", settings: {gain: 2.0}}\n'
        "teachers: energy\n"
    )
    config = ("--config", file)
    option = ("--teacher", '{"energy": {"resources": {"num_cpus": 0.5}}}')
    both = (*config, *option) if file_first else (*option, *config)
    corpus = ("--corpus", cache.parent / "things", "--cache", tmp_path / "new", "--json")
    (from_file,) = json.loads(run_command(capsys, "plan", *corpus, *config)[1])
    code, out, err = run_command(capsys, "plan", *corpus, *both)
    assert (code, err) == (0, "")
    (changed,) = json.loads(out)
    assert changed["version"] == from_file["version"]


def test_teacher_option_with_another_family_replaces_the_settings() -> None:
    words = ["build", '--teacher={"asr": {"family": "a:B", "settings": {"x": 1}}}']
    words += ["--teacher", '{"asr": {"family": "c:D"}}']
    assert json.loads(merge_teacher_options(words)[-1].partition("=")[2]) == {
        "asr": {"family": "c:D"}
    }
    assert merge_teacher_options(["build", "--teacher", "{}"]) == ["build", "--teacher", "{}"]
    with pytest.raises(UserError, match="--teacher must be a mapping"):
        merge_teacher_options(["build", "--teacher", "asr", "--teacher", "{}"])


def test_teacher_option_can_name_one_setting() -> None:
    words = ["plan", "--teacher.pitch.settings.model", "full", "--teacher.pitch.family=crepe"]
    merged = merge_teacher_options([*words, "--part", "1/2"])
    assert json.loads(merged[-1].partition("=")[2]) == {
        "pitch": {"settings": {"model": "full"}, "family": "crepe"}
    }
    assert merged[:-1] == ["plan", "--part", "1/2"]
    assert merge_teacher_options(["build", "--teacher.help"]) == ["build", "--teacher.help"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"pitch": {"setting": {}}}, "teacher pitch has no field 'setting'; the fields are family"),
        ({"pitch": {"resources": {"cpus": 1}}}, "the resources of teacher pitch have no field"),
        ({"pitch": "full"}, "pitch must be a mapping of fields; found 'full'"),
        (["pitch"], "must be a mapping"),
        (
            {"pitch": {"resources": {"num_cpus": "many"}}},
            "teacher pitch: resources.num_cpus: expected a number, found 'many'",
        ),
        ({"pitch": {"resources": {"custom": {"a": "x"}}}}, "resources.custom.a: expected a number"),
        ({"pitch": {"resources": -1}}, "teacher pitch: resources: expected a mapping, found -1"),
        ({"pitch": {"settings": 5}}, "teacher pitch: settings: expected a mapping, found 5"),
        ({"pitch": {"codecs": {"f0": 1}}}, "teacher pitch: codecs.f0: expected a text, found 1"),
        ({"pitch": {"family": ["a"]}}, "teacher pitch: family: expected a text"),
    ],
)
@pytest.mark.parametrize("in_file", [True, False])
def test_unknown_field_of_a_teacher_is_reported_with_its_name(
    tmp_path: Path, option: object, message: str, *, in_file: bool
) -> None:
    file = tmp_path / "build.yaml"
    file.write_text(json.dumps({"teacher": option}))
    words = ["--config", str(file)] if in_file else ["--teacher", json.dumps(option)]
    with pytest.raises(UserError, match=re.escape(message)):
        merge_teacher_options(["build", *words])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("teacherss: pitch\n", "the configuration has the unknown key 'teacherss'; did you mean"),
        ("teachers: [asr, pich]\n", "unknown teacher 'pich'"),
        ("py_modules: mine\n", "write a list, such as '[\"mine\"]'"),
        ("corpus: x\n cache: y\n", "build.yaml is not YAML"),
        ("price_per_core_hour: -1\n", "price_per_core_hour must not be negative"),
        ("preset: none\n", "there is no teacher to run"),
        ("teachers:\n", "teachers has no value; give one, or leave the line out"),
        ("block_clips:\n", "block_clips has no value"),
        ("decode: {num_cpus: }\n", "decode.num_cpus has no value"),
        ("decode: 3\n", "decode: expected a mapping, found 3"),
        ("decode: {num_cpus: .nan}\n", "resources must be finite and not negative"),
        ("- pitch\n", "must be a mapping, such as 'cache: cache'; found ['pitch']"),
        (" \n", "the file of --config must be a mapping of options, found none"),
        (None, "build.yaml: there is no such file"),
    ],
)
def test_mistake_in_a_config_file_is_reported_in_one_line(
    cache: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "build.yaml"
    if content:
        file.write_text(content)
    corpus = ("--corpus", cache.parent / "things", "--cache", tmp_path / "new")
    code, _, err = run_command(capsys, "plan", *corpus, "--config", file)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_rm_without_a_fingerprint_lists_the_versions(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (version,) = (key for key in Layout.open(cache).teachers() if key.startswith("pitch@"))
    code, _, err = run_command(capsys, "rm", "pitch", "--cache", cache)
    assert code == 2
    assert f"found 'pitch'; the cache has {version}" in err


@pytest.mark.parametrize("version", ["pich@0123456789ab", "pitch@0123456789ab", "@", "pitch@"])
def test_versions_that_do_not_exist_are_reported_with_those_that_do(
    version: str, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (there,) = (key for key in Layout.open(cache).teachers() if key.startswith("pitch@"))
    for command in ("rm", "use"):
        code, _, err = run_command(capsys, command, version, "--cache", cache)
        assert code == 2, err
        assert "has no teacher" in err
        assert there in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["audit", "--sample", "-1"], "--sample must be at least 0"),
        (["compact", "--older-than-hours", "-1"], "--older-than-hours must be at least 0"),
        (["compact", "--older-than-hours", "nan"], "--older-than-hours: expected a number"),
    ],
)
def test_numbers_out_of_range_are_reported_in_one_line(
    words: list[str], message: str, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run_command(capsys, *words, "--cache", cache)
    assert code == 2
    assert message in err


def test_failures_command_lists_clips_with_audio_warnings(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`status` only counts them; `failures --warnings` lists every clip."""
    _, out, _ = run_command(capsys, "failures", "--warnings", "--cache", cache, "--json")
    warned = {line["clip_id"]: line["warnings"] for line in json.loads(out)}
    assert warned == {"clip001": ["silent"], "clip002": ["clipped"]}
    _, out, _ = run_command(capsys, "failures", "--warnings", "--cache", cache)
    assert "clip002" in out
    assert "002.wav" in out
    code, _, err = run_command(capsys, "failures", "--warnings", "--export", "x", "--cache", cache)
    assert code == 2
    assert "--export" in err


def test_show_prints_the_file_labels_and_warnings_of_a_clip(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # where the picture goes
    _, out, _ = run_command(capsys, "show", "clip002", "--cache", cache)
    assert "002.wav" in out
    assert "language=en" in out
    assert "audio warnings: clipped" in out


def test_transcriber_for_another_language_gets_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clips = [
        Clip(clip_id=str(n), uri="/x.wav", duration=1.0, labels={"language": language})
        for n, language in enumerate(["de", "en-GB", "de", "fr"])
    ]
    corpus = build(clips, tmp_path / "corpus")
    (asr,) = (spec for spec in TEACHERS if spec.name == "asr")
    english = replace(asr, settings={"language": "en"})
    warn_of_languages(corpus, [english, replace(english, settings={})])
    assert "asr transcribes en" in caplog.text
    assert "3 of 4 labelled clips are in other languages (de, fr)" in caplog.text
    assert len(caplog.records) == 1
    caplog.clear()
    warn_of_languages(corpus, [replace(asr, settings={"language": "en", "transcribe": False})])
    assert not caplog.records


def test_labels_of_an_unknown_language_are_not_another_language(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clips = [
        Clip(clip_id=str(n), uri="/x.wav", duration=1.0, labels={"language": language})
        for n, language in enumerate(["und", "mul", "Unknown", "zxx", "en", ""])
    ]
    (asr,) = (spec for spec in TEACHERS if spec.name == "asr")
    corpus = build(clips, tmp_path / "corpus")
    warn_of_languages(corpus, [replace(asr, settings={"language": "en"})])
    assert not caplog.records


def test_language_at_the_end_of_a_sorted_corpus_gets_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the first shard used to be read."""
    clips = [
        Clip(
            clip_id=str(n),
            uri="/x.wav",
            duration=1.0,
            labels={"language": "en" if n < 90 else "fr"},
        )
        for n in range(100)
    ]
    (asr,) = (spec for spec in TEACHERS if spec.name == "asr")
    english = replace(asr, settings={"language": "en"})
    warn_of_languages(build(clips, tmp_path / "few", clips_per_shard=10), [english])
    assert "10 of 100 labelled clips are in other languages (fr)" in caplog.text
    caplog.clear()
    warn_of_languages(build(clips, tmp_path / "many", clips_per_shard=4), [english])
    assert "6 of 64 sampled labelled clips are in other languages (fr)" in caplog.text


def test_small_prices_are_not_rounded_to_zero() -> None:
    assert [plan._price(value) for value in (None, 0.0, 0.00109, 0.5, 1234.5)] == [
        "unknown", "0", "0.0011", "0.50", "1,234.50"
    ]  # fmt: skip


def test_unreachable_cluster_address_raises_an_error() -> None:
    """Ray itself tries to connect for more than ten minutes."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        environment.check_address(f"127.0.0.1:{port}")
        environment.check_address("auto")
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", f"[::1]:{port}"):
        with pytest.raises(UserError, match=r"no Ray cluster answers at .* leave it out"):
            environment.check_address(address)


@pytest.mark.parametrize(
    "address",
    ["head", "localhost", "127.0.0.1:abc", "127.0.0.1:", ":6379", "ray://head", "h:99999"],
)
def test_address_without_host_or_port_raises_an_error(address: str) -> None:
    """Ray's own error was a traceback."""
    with pytest.raises(UserError, match=r"expected HOST:PORT \(6379 .*, ray://HOST:PORT or auto"):
        environment.check_address(address)


def test_missing_module_for_a_cluster_raises_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own error was a traceback of thirty lines."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "one.py").write_text("")
    environment.find_modules([str(tmp_path), str(tmp_path / "one.py"), "s3://bucket/code.zip"])
    for path in (tmp_path / "absent", tmp_path / "notes.txt"):
        with pytest.raises(UserError, match=r"--py-modules: '.*' is not here; expected the folder"):
            environment.find_modules([str(path)])
    config = BuildConfig(corpus="c", cache="k", ray_address="auto", py_modules=["nowhere"])
    with pytest.raises(UserError, match="'nowhere' is not here"):
        setup.teachers(config)


def test_rm_reports_which_version_readers_get_now(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = make_cache(tmp_path, count=8, failures=False)
    (version,) = (key for key in Layout.open(cache).teachers() if key.startswith("pitch@"))
    _, out, _ = run_command(capsys, "rm", version, "--cache", cache)
    assert "now they get no version of pitch" in out


def test_rm_corpus_deletes_its_targets_and_no_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = make_cache(tmp_path, count=8, failures=False)
    layout = Layout.open(cache)
    (name,), versions = layout.corpora(), layout.teachers()
    shutil.copytree(cache / "corpora" / name, cache / "corpora" / "other")
    for key in versions:
        shutil.copytree(cache / "teachers" / key / name, cache / "teachers" / key / "other")
    code, _, err = run_command(capsys, "rm-corpus", "othr", "--cache", cache)
    assert code == 2
    assert f"the cache has no corpus 'othr'; its corpora: other, {name}" in err
    code, out, _ = run_command(capsys, "rm-corpus", name, "--cache", cache)
    assert code == 0
    assert f"corpus {name} deleted from {cache}" in out
    assert layout.corpora() == ["other"]
    assert not list(cache.glob(f"**/{name}"))
    assert list(layout.teachers()) == list(versions)
    code, out, _ = run_command(capsys, "status", "--cache", cache, "--json")
    assert {line["corpus"] for line in json.loads(out)} == {"other"}
    assert all(line["clips"] == 8 for line in json.loads(out))


def test_output_path_that_cannot_be_created_is_reported_in_one_line(
    cache: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """These were tracebacks with exit code 1, which stands for a check that found damage."""
    (tmp_path / "file").write_text("")
    layout = Layout.open(cache)
    clip = next(iter(layout.corpus(layout.corpora()[0]).clips())).clip_id
    absent = tmp_path / "absent"
    for words, message in (
        (("report", "--out", tmp_path / "file"), f"cannot use {tmp_path / 'file'}"),
        (("failures", "--export", absent / "a.jsonl"), f"there is no folder {absent} for a.jsonl"),
        (("show", clip, "--picture", absent / "a.png"), f"there is no folder {absent} for a.png"),
    ):
        code, _, err = run_command(capsys, *words, "--cache", cache)
        assert (code, err.count("\n")) == (2, 1), err
        assert message in err


@pytest.mark.parametrize("command", ["build", "plan", "retry-failures", "fetch"])
def test_config_that_is_not_text_is_reported_in_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "noise.wav").write_bytes(b"\xfa\xfb\x00RIFF")
    code, _, err = run_command(capsys, command, "--config", tmp_path / "noise.wav")
    assert code == 2
    assert "is not UTF-8 text" in err
    if command != "fetch":
        code, _, err = run_command(capsys, command, "--config", tmp_path)
        assert code == 2
        assert "is a folder, expected a YAML file" in err
