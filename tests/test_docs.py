"""Tests the documentation: its commands parse or run, its links and messages exist.

Commands are the lines of fenced `sh` and `bash` blocks. Commands of this project are parsed, so
that an unknown option fails; commands that only read also run on a small corpus and cache.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import manifests.cli
import pipeline.cli
import student.cli
from manifests import console
from manifests.cache.layout import Layout
from manifests.corpus.corpus import build
from manifests.library_internals import options_of, subcommands_of
from tests.pipeline import report_cache
from tests.pipeline.report_cache import make_cache

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
PROGRAMS = {
    "coat-corpus": manifests.cli, "coat-cache": pipeline.cli, "coat-student": student.cli
}  # fmt: skip
OTHER_PROGRAMS = {
    "ray", "kubectl", "docker", "vllm", "curl", "export", "cd", "source", "aws", "git",
    "tensorboard",
    "apt-get", "helm", "ct2-transformers-converter",
}  # fmt: skip
"""Programs of others, whose options are not checked."""
RUNNABLE = {
    ("coat-corpus", "build"), ("coat-corpus", "stats"), ("coat-cache", "plan"),
    ("coat-cache", "status"), ("coat-cache", "coverage"), ("coat-cache", "show"),
    ("coat-cache", "report"), ("coat-cache", "verify"), ("coat-cache", "ls"),
    ("coat-cache", "completion"),
}  # fmt: skip
"""Commands that run without Ray and without a model."""
VALUES = {"CLIP_ID": "clip000"}


def commands(page: Path) -> list[list[str]]:
    """Returns the words of each command of a page."""
    result = []
    text = page.read_text("utf-8")
    for block in re.findall(r"^```(?:sh|bash)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        block = re.sub(r"(^|\s)# .*$", "", block.replace("\\\n", " "), flags=re.MULTILINE)
        block = re.sub(r"source <\((.*)\)", r"\1", block)
        lexer = shlex.shlex(block, posix=True, punctuation_chars="&|;\n")
        lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
        words: list[str] = []
        for word in [*lexer, ";"]:
            if not set(word) <= set("&|;\n"):
                words.append(word)
            elif words:
                result.append(words)
                words = []
    return result


def programs(page: Path) -> list[list[str]]:
    """Returns the commands of a page without preceding variables and launchers."""
    result = []
    for words in commands(page):
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if not words:
            continue
        if words[0] in ("torchrun", "accelerate"):
            module = words.index("-m")
            words = ["python", *words[module:]]
        if words[:3] == ["python", "-m", "student.cli"]:
            words = ["coat-student", *words[3:]]
        if words[0] == "ray" and "--" in words:
            words = words[words.index("--") + 1 :]
        result.append(words)
    return result


ALL = [(page.name, words) for page in PAGES for words in programs(page)]


def make_parser(program: str) -> Any:
    """Returns the argument parser of a program of this project."""
    kept: dict[str, Any] = {}
    module = PROGRAMS[program]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            module, "run_command", lambda *given, **named: kept.update(call=(given, named))
        )
        module.main()
    (name, functions), named = kept["call"]
    return console.make_parser(name, functions, description=named["description"])[0]


def test_readme_lists_the_commands_with_json() -> None:
    children = subcommands_of(make_parser("coat-cache"))
    expected = {name for name, child in children.items() if "--json" in options_of(child)}
    (listed,) = re.findall(r"^(`.*) have `--json`", (ROOT / "README.md").read_text(), re.M)
    assert set(re.findall(r"`([a-z-]+)`", listed)) == expected


def test_pages_contain_commands_of_all_programs() -> None:
    assert len(ALL) > 40
    assert {words[0] for _, words in ALL} >= set(PROGRAMS)


@pytest.mark.parametrize(
    ("page", "words"),
    [item for item in ALL if item[1][0] in PROGRAMS],
    ids=lambda item: str(item)[:60],
)
def test_commands_of_this_project_parse(
    page: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    if "--config" in words:
        place = words.index("--config") + 1
        is_ours = words[place].startswith(("student/", "benchmarks/", "examples/"))
        assert not is_ours or Path(words[place]).is_file(), f"{page}: there is no {words[place]}"
        if not is_ours:
            # The reader writes this file; other options replace it here.
            words = words[: place - 1] + words[place + 1 :]
            words += ["--model.build", "tiny"] if words[0] == "coat-student" else []
            words += ["--corpus", "c", "--cache", "d"] if words[0] == "coat-cache" else []
    make_parser(words[0]).parse_args([console._underscored(word) for word in words[1:]])


def test_other_commands_refer_to_existing_targets() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    texts = {path.name: path.read_text("utf-8") for path in PAGES}
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page, words in ALL:
        program = words[0]
        where = f"{page}: {shlex.join(words)}"
        if program in PROGRAMS or program in OTHER_PROGRAMS:
            continue
        if program == "make":
            assert words[1] in targets, where
        elif program == "pip":
            for extra in re.findall(r"\[([\w,-]+)\]", " ".join(words)):
                assert set(extra.split(",")) <= set(extras), where
            for file in re.findall(r"-r (\S+)", " ".join(words)):
                assert (ROOT / file).is_file(), where
        elif program in ("python", ".venv/bin/python"):
            if words[1] == "-m":
                assert find_spec(words[2]) is not None, where
            else:
                # The reader writes the tutorial's programs (tests/test_tutorial.py).
                written = f"```python\n# {words[1]}\n" in texts[page]
                assert written or (ROOT / words[1]).is_file(), where
        else:
            raise AssertionError(f"{where}: is {program} a program? then add it to OTHER_PROGRAMS")


def test_reading_commands_of_the_readme_run(tmp_path: Path) -> None:
    """The commands run in a folder with recordings/, corpus/ and cache/, as in the README."""
    make_cache(tmp_path, count=8, failures=False)
    (tmp_path / "corpus").symlink_to("things")
    (tmp_path / "recordings").symlink_to("audio")
    (tmp_path / "gone").mkdir()
    ran = set()
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for words in programs(ROOT / "README.md"):
        if tuple(words[:2]) not in RUNNABLE or "s3:" in " ".join(words):
            continue
        words = [VALUES.get(word, word) for word in words]
        if words[:2] == ["coat-corpus", "build"]:
            words[words.index("--out") + 1] = "made"
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr}"
        assert done.stderr == "", shlex.join(words)
        ran.add(tuple(words[:2]))
    assert ran >= RUNNABLE - {("coat-corpus", "stats"), ("coat-cache", "plan")}
    assert (tmp_path / "report" / "index.html").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_point_to_existing_files(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http", "mailto", "#")):
            path = page.parent / target.partition("#")[0]
            assert path.exists(), f"{page.name} links to {target}"


def test_messages_in_troubleshooting_exist_in_the_code() -> None:
    """The fixed parts of a quoted message must occur in the code in this order."""
    code = ""
    for package in ("manifests", "teachers", "pipeline", "student"):
        for path in sorted((ROOT / package).rglob("*.py")):
            code += path.read_text("utf-8")
    # Join adjacent string literals, and replace fields with an ellipsis.
    code = re.sub(r'"\s*\n\s*f?"', "", code)
    code = re.sub(r"(?<!\{)\{(?!\{)[^{}]*(?:\{[^{}]*\}[^{}]*)*\}", "…", code)
    quoted = re.findall(r"^> (.+)$", (ROOT / "docs/troubleshooting.md").read_text("utf-8"), re.M)
    assert len(quoted) > 15
    for message in quoted:
        assert message.rstrip("…").strip() in code, message


def test_python_blocks_of_read_a_cache_run(tmp_path: Path) -> None:
    """All Python blocks of the page run as one program."""
    clips = report_cache.make_clips(tmp_path / "audio", 10)
    corpus = build(clips, tmp_path / "corpus", clips_per_shard=3)
    layout = Layout.create(tmp_path / "cache")
    layout.register(corpus)
    asr, _, _, music, _, _ = report_cache.TEACHERS
    events = report_cache.stream("events", "multilabel", 3, 0.1, "uint8", *report_cache.CLASSES)
    pitch = (
        report_cache.stream("salience", "pitch", 361, 0.01, "pitch"),
        replace(
            report_cache.stream("f0", "curve", 2, 0.01, "fp16", "f0", "voicing"),
            unit="Hz, probability",
        ),
    )
    for spec in (
        asr,
        music,
        report_cache.teacher("sound_event", events),
        report_cache.teacher("pitch", *pitch),
    ):
        layout.add_teacher(spec)
        for number in range(corpus.num_shards):
            report_cache.write_shard(layout, spec, corpus, number, {"clip005": "the model failed"})
    page = (ROOT / "docs" / "read_a_cache.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 9
    (tmp_path / "page.py").write_text("\n".join(blocks), "utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "page.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "('f0', 'voicing') Hz, probability" in lines
    assert "tone 1.0 1.5" in lines
    assert "60 261.6255653005986 1.0 1.5 0.9" in lines
