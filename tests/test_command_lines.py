"""Tests that each `--help`, a completion script, a wrong option and `--version` return quickly.

Times on a shared machine vary, so the tests check that no module that reads audio, Parquet or
weights is imported, and they measure CPU time as the best of three.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from manifests.clips import Clip
from manifests.corpus.corpus import build
from tests.manifests.frames import make_cache

HEAVY = {
    "accelerate", "av", "huggingface_hub", "matplotlib", "numpy", "onnxruntime", "pandas", "peft",
    "pyarrow", "ray", "scipy", "soundfile", "soxr", "torch", "transformers",
}  # fmt: skip
PROGRAMS = {
    "coat-corpus": ("manifests.cli", ("build", "segment", "stats")),
    "coat-cache": (
        "pipeline.cli",
        ("build", "plan", "status", "coverage", "show", "report", "failures", "retry-failures",
         "verify", "audit", "ls", "rm", "rm-corpus", "use", "compact", "teachers", "fetch"),
    ),
    "coat-student": (
        "student.cli",
        ("plan", "train", "base", "arms", "generate", "reply", "demo", "eval", "ablate", "probe",
         "report", "fetch", "export", "push"),
    ),
}  # fmt: skip
TRAINING = ("train", "arms")
"""Commands that train students."""
SCRIPT = """
import contextlib, io, json, sys
from {module} import main
ends = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["{program}", *words]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            ends.append([end.code, out.getvalue(), err.getvalue()])
print(json.dumps([ends, sorted({{name.partition(".")[0] for name in sys.modules}})]))
"""


def run_lines(program: str, lines: list[list[str]]) -> tuple[list[tuple[int, str, str]], set[str]]:
    """Runs command lines in one process.

    Returns:
        (exit code, stdout, stderr) of each, and the names of all imported top-level modules.
    """
    script = SCRIPT.format(module=PROGRAMS[program][0], program=program)
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(lines)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    ends, modules = json.loads(done.stdout)
    return [tuple(end) for end in ends], set(modules)


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_imports_no_heavy_module(program: str) -> None:
    commands = PROGRAMS[program][1]
    lines = [["--help"], *([command, "--help"] for command in commands), ["completion", "bash"]]
    ends, modules = run_lines(program, lines)
    assert [code for code, _, _ in ends] == [0] * len(lines)
    assert all(command in ends[0][1] for command in commands), "a command is missing in this test"
    listed = ends[0][1].partition("{")[2].partition("}")[0].split(",")
    assert {*listed} - {"completion"} == {*commands}
    assert modules & HEAVY == set()


@pytest.mark.parametrize("program", PROGRAMS)
def test_wrong_option_imports_no_heavy_module(program: str) -> None:
    lines = [[command, "--no-such-option"] for command in PROGRAMS[program][1]]
    ends, modules = run_lines(program, [*lines, ["no-such-command"], ["--version"]])
    assert [code for code, _, _ in ends] == [2] * (len(lines) + 1) + [0]
    assert all(err.count("\n") == 1 for _, _, err in ends[:-1])
    assert modules & HEAVY == set()


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_takes_less_than_a_second_of_cpu_time(program: str) -> None:
    module, (command, *_) = PROGRAMS[program]
    script = f"from {module} import main; main()"
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-c", script, command, "--help"], capture_output=True, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if seconds[-1] < 1:
            return
    pytest.fail(f"{program} {command} --help took {min(seconds):.1f} s of CPU time")


def test_wrong_corpus_or_cache_is_reported_before_torch_is_imported(tmp_path: Path) -> None:
    corpus = build([Clip(clip_id="a", uri="/a.wav", duration=1.0)], tmp_path / "corpus")
    common = ["--model.build", "tiny", "--out", str(tmp_path / "run")]
    lines = [
        [command, *common, "--corpus", str(folder), "--cache", str(tmp_path / "cache")]
        for command in TRAINING
        for folder in (tmp_path / "absent", corpus.folder.uri)
    ]
    ends, modules = run_lines("coat-student", lines)
    assert [code for code, _, _ in ends] == [2] * len(lines)
    assert ["not a corpus" in err for _, _, err in ends] == [True, False] * 2
    assert ["not a teacher cache" in err for _, _, err in ends] == [False, True] * 2
    assert modules & {"torch", "transformers"} == set()


def test_unknown_stream_is_reported_before_torch_is_imported(tmp_path: Path) -> None:
    (key,) = make_cache(tmp_path).teachers()
    name = key.partition("@")[0]
    common = ["train", "--model.build", "tiny", "--out", str(tmp_path / "run")]
    common += ["--corpus", str(tmp_path / "corpus"), "--cache", str(tmp_path / "cache")]
    lines = [
        [*common, "--streams", f"{{{stream}: {{}}}}"] for stream in (f"{name}.salienz", "other.f0")
    ]
    ends, modules = run_lines("coat-student", lines)
    assert [code for code, _, _ in ends] == [2, 2]
    assert f"teacher {name} has no stream 'salienz'; it has " in ends[0][2]
    assert "no cache has the stream 'other.f0'; there are " in ends[1][2]
    assert modules & {"torch", "transformers"} == set()


def test_wrong_checkpoint_is_reported_before_torch_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    corpus = build([Clip(clip_id="a", uri="/a.wav", duration=1.0)], tmp_path / "corpus")
    common = ["--corpus", corpus.folder.uri, "--out", str(tmp_path / "run")]
    own = {"train": ["--arm", "sft"], "arms": ["--arms", "[sft]"]}
    paths = ("/nowhere/x", str(tmp_path), "own/backbone")
    lines = [
        [command, *own[command], *common, "--model.path", path]
        for command in TRAINING
        for path in paths
    ]
    ends, modules = run_lines("coat-student", lines)
    assert [code for code, _, _ in ends] == [2] * len(lines)
    for number, end in enumerate(
        ("no folder /nowhere/x", "has no config.json", "coat-student fetch own/backbone")
    ):
        assert all(end in err for _, _, err in ends[number :: len(paths)])
    assert modules & {"torch", "transformers"} == set()


def test_too_few_clips_for_probes_are_reported_before_torch_is_imported(tmp_path: Path) -> None:
    rows = [
        {"id": str(number), "audio": f"{number}.wav", "question": "Which?", "answer": "a"}
        for number in range(21)
    ]
    questions = tmp_path / "q.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ends, modules = run_lines(
        "coat-student", [["probe", str(tmp_path), "--questions", str(questions)]]
    )
    ((code, _, err),) = ends
    assert code == 2
    assert "21 clips of 21 recordings (" in err
    assert "too few for probes, which need 30 clips" in err
    assert modules & {"torch", "transformers"} == set()


def test_wrong_questions_are_reported_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text('{"audio": "a.wav", "question": "?"}\n')
    lines = [
        [command, str(tmp_path), "--questions", str(tmp_path / name)]
        for command in ("eval", "ablate", "probe")
        for name in ("broken.jsonl", "absent.jsonl")
    ]
    lines.append(["eval", str(tmp_path / "no-run")])
    ends, modules = run_lines("coat-student", lines)
    assert [code for code, _, _ in ends] == [2] * len(lines)
    errors = [err for _, _, err in ends]
    assert ["broken.jsonl, line 1: not a question: it lacks answer" in each for each in errors] == [
        True, False, True, False, True, False, False
    ]  # fmt: skip
    assert ["there is no question file" in each for each in errors].count(True) == 3
    assert "there is no folder" in errors[-1]
    assert modules & {"torch", "transformers"} == set()
