"""Tests for rules of the code that no linter checks: imports, docstrings, names, dependencies."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from examples.own_teacher import SAMPLE_RATE, Loudness, LoudnessSettings
from manifests.streams.codecs import CODECS
from manifests.streams.kinds import KINDS

ROOT = Path(__file__).parents[1]
PACKAGES = ("manifests", "teachers", "pipeline", "student")


def test_four_packages_share_one_root():
    import manifests
    import pipeline
    import student
    import teachers

    roots = {Path(p.__path__[0]).parent for p in (manifests, teachers, pipeline, student)}
    assert roots == {ROOT}


@pytest.mark.parametrize(
    ("module", "excluded"),
    [
        ("student.train", ("ray", "teachers", "pipeline", "faster_whisper", "opensmile")),
        ("manifests.cache.reader", ("torch", "transformers", "ray")),
        ("pipeline.job", ("torch", "transformers", "student")),
    ],
)
def test_importing_a_package_does_not_load_the_others(module: str, excluded: tuple[str, ...]):
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert set(done.stdout.split()).isdisjoint(excluded)


def test_init_files_contain_only_a_docstring():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("__init__.py"):
            text = path.read_text().strip()
            assert text.startswith('"""'), path
            assert text.endswith('"""'), path
            assert text.count('"""') == 2, path


def test_skipped_tests_beyond_the_allowed_number_fail_the_run(tmp_path: Path):
    folder = tmp_path / "tests"
    folder.mkdir()
    for name in ("conftest.py", "emulators.py"):
        (folder / name).write_text((ROOT / "tests" / name).read_text())
    (folder / "test_it.py").write_text("import pytest\ndef test_it(): pytest.skip('no')\n")
    command = [sys.executable, "-m", "pytest", "-q", "--count-skips", "--rootdir", str(tmp_path)]
    for allowed, code in (("0", 1), ("1", 0)):
        (folder / "allowed_skips.txt").write_text(f"{allowed} tests/test_it.py  no reason\n")
        done = subprocess.run([*command, str(folder)], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == code, done.stdout


def test_every_test_file_is_collected():
    """By default, pytest does not collect folders named `build`."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/pipeline", "-p",
         "no:cacheprovider"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    collected = {line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line}
    files = {str(path.relative_to(ROOT)) for path in ROOT.glob("tests/pipeline/**/test_*.py")}
    assert files
    assert files == collected


def test_no_file_is_longer_than_four_hundred_lines():
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert not {path: n for path in files if (n := len(path.read_text().splitlines())) > 400}


DIALECT = re.compile(r"(Of|What|Whom|Whose|How|That)\b")
"""First words of docstrings without a subject (CONTRIBUTING, "Plain English")."""
NO_NAMES = {"found", "at", "one", "heard", "told", "wanted", "tap", "of"}
ENTRY = re.compile(r"^\s+\w+: (Of|What|Whom|Whose|How|That)\b", re.M)


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yields (line, text) of all docstrings of a module, including those of fields."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        for statement in body:
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield statement.lineno, value.value


def bound_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yields (line, name) of every variable, parameter, function and class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name


@pytest.mark.parametrize("folder", [*PACKAGES, "benchmarks", "examples", "tests"])
def test_names_and_docstrings_are_plain_english(folder: str):
    dialect = []
    for path in (ROOT / folder).rglob("*.py"):
        tree = ast.parse(path.read_text())
        dialect += [
            f"{path.relative_to(ROOT)}:{line} {text.splitlines()[0]}"
            for line, text in docstrings(tree)
            if DIALECT.match(text) or ENTRY.search(text)
        ]
        dialect += [
            f"{path.relative_to(ROOT)}:{line} {name}"
            for line, name in bound_names(tree)
            if name.strip("_") in NO_NAMES or re.match(r"_*of_", name)
        ]
    assert not dialect


NO_SUBJECT = re.compile(r"test_(an?|the|its?|what|which|who|whom|whose|where|when|how|that)_")
"""Starts of test names that do not name the tested unit."""
VERB = re.compile(r"[A-Z][\w.`]*s\b|See |`")
"""Start of a function's docstring: "Returns", "Writes", "See `Teacher`"."""
WITHOUT_VERB = {"fixture", "property", "contextmanager"}


def is_named_for_a_thing(node: ast.FunctionDef) -> bool:
    """Returns whether a function is described by a noun, like a fixture or a property."""
    return any(
        word in ast.unparse(decorator) for decorator in node.decorator_list for word in WITHOUT_VERB
    )


def test_names_of_tests_state_unit_and_behaviour():
    """A name has at least three words and starts with its subject, without an article."""
    unclear = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("test_")
        and (NO_SUBJECT.match(node.name) or node.name.count("_") < 3)
    ]
    assert not unclear


@pytest.mark.parametrize("folder", ["benchmarks", "examples", "tests"])
def test_docstrings_of_functions_start_with_a_verb(folder: str):
    """Docstrings of test modules start with "Tests"; tests and fixtures are exempt."""
    fragments = []
    for path in (ROOT / folder).rglob("*.py"):
        tree = ast.parse(path.read_text())
        text = ast.get_docstring(tree) or ""
        if path.name.startswith("test_") and not text.startswith("Tests"):
            fragments.append(f"{path.relative_to(ROOT)}:1 {text}")
        fragments += [
            f"{path.relative_to(ROOT)}:{node.lineno} {text.splitlines()[0]}"
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)
            and not node.name.startswith("test_")
            and not is_named_for_a_thing(node)
            and (text := ast.get_docstring(node))
            and not VERB.match(text)
        ]
    assert not fragments


@pytest.mark.parametrize("folder", [*PACKAGES])
def test_every_signature_is_typed(folder: str):
    untyped = []
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
                continue
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            missing = [
                argument.arg
                for argument in arguments
                if argument.annotation is None and argument.arg not in ("self", "cls")
            ]
            if missing or node.returns is None:
                untyped.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} {missing}")
    assert not untyped


MOST_POSITIONAL = 5
CALLED_BY_LIBRARIES = {"compute_loss", "to"}
"""Methods whose signatures a library defines."""


@pytest.mark.parametrize("folder", [*PACKAGES])
def test_flags_and_arguments_after_the_fifth_are_keyword_only(folder: str):
    """Commands (`cli.py`) are exempt, because their parameters become options."""
    positional = []
    for path in (path for path in (ROOT / folder).rglob("*.py") if path.name != "cli.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
                continue
            arguments = [
                argument
                for argument in (*node.args.posonlyargs, *node.args.args)
                if argument.arg not in ("self", "cls")
            ]
            has_flag = any(ast.unparse(a.annotation) == "bool" for a in arguments if a.annotation)
            if node.name not in CALLED_BY_LIBRARIES and (
                has_flag or len(arguments) > MOST_POSITIONAL
            ):
                positional.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not positional


def test_modules_and_public_functions_have_docstrings():
    undocumented = []
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in (tree, *tree.body):
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"
            if (public or node is tree) and not ast.get_docstring(node):  # pyright: ignore
                undocumented.append(f"{path.relative_to(ROOT)} {getattr(node, 'name', '')}")
    assert not undocumented


def test_no_pickle_is_loaded_and_no_except_is_bare():
    loads = re.compile(r"\bpickle\.loads?\(|allow_pickle=True|weights_only=False|\bexcept:")
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert not [path for path in files if loads.search(path.read_text())]


def test_kinds_and_codecs_are_not_compared_by_name():
    """Each stream kind and codec has one record, so that a new one changes only this file."""
    names = "|".join([*KINDS, *CODECS])
    compared = re.compile(rf"(kind|codec)\s*(==|!=|in|not in)\s*[(\[{{]?[\"']({names})[\"']")
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert not [path for path in files if compared.search(path.read_text())]


def test_kinds_and_codecs_are_defined_only_in_their_records():
    """Names of kinds and codecs may otherwise occur only in the specs of teachers."""
    kinds = {f'"{name}"' for name in KINDS} - {'"features"', '"pitch"'}  # common words
    codec_names = set(CODECS) - set(KINDS)
    record_files = {"manifests/streams/kinds.py", "student/distill/kinds.py"}
    holders: dict[str, set[str]] = {name: set() for name in kinds}
    for package in ("manifests", "pipeline", "student"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            for name in kinds:
                if re.search(rf"\bkind={name}|KINDS\[{name}\]|{name}: TrainingKind", text):
                    holders[name].add(path.relative_to(ROOT).as_posix())
    assert all(files <= record_files for files in holders.values()), holders
    codecs = {
        path.relative_to(ROOT).as_posix()
        for package in ("manifests", "pipeline", "student")
        for path in (ROOT / package).rglob("*.py")
        for name in codec_names
        if re.search(rf"CODECS\[\"{name}\"\]|name=\"{name}\"", path.read_text())
    }
    assert codecs <= {"manifests/streams/codecs.py"}, codecs


IMPORT_NAMES = {"pyyaml": "yaml", "huggingface-hub": "huggingface_hub", "mir_eval": "mir_eval"}


def imported_by(package: str) -> set[str]:
    """Returns the top-level modules that a package imports at the start of its files."""
    names: set[str] = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").partition(".")[0])
    return names


def declared(requirements: list[str]) -> set[str]:
    """Returns the modules that a list of requirements provides."""
    names = [re.split(r"[\[><=]", requirement)[0] for requirement in requirements]
    return {IMPORT_NAMES.get(name, name) for name in names}


def test_base_dependencies_match_the_imports():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = declared(project["dependencies"])
    imported = imported_by("manifests") - set(sys.stdlib_module_names) - set(PACKAGES)
    assert imported <= base, "an import that no base dependency provides"
    everywhere = set().union(*(imported_by(package) for package in PACKAGES))
    lazily = "\n".join(
        path.read_text() for package in PACKAGES for path in (ROOT / package).rglob("*.py")
    )
    used_by_others = {"shtab"}  # jsonargparse uses it for shell completion
    unused = {name for name in base - everywhere - used_by_others if f"import {name}" not in lazily}
    assert not unused, "a base dependency that nothing imports"


def test_requirements_are_ranges():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    assert not [line for group in groups for line in group if "==" in line]


OPTIONS = ("student/config.py", "student/run_options.py", "student/plan/options.py",
           "pipeline/config.py")  # fmt: skip


@pytest.mark.parametrize("file", OPTIONS)
def test_options_are_frozen_and_documented(file: str):
    undocumented = []
    for node in ast.parse((ROOT / file).read_text()).body:
        if not isinstance(node, ast.ClassDef):
            continue
        assert [ast.unparse(call) for call in node.decorator_list] == [
            "dataclass(frozen=True, kw_only=True)"
        ], node.name
        for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(statement, ast.AnnAssign) and not isinstance(following, ast.Expr):
                undocumented.append(f"{node.name}.{ast.unparse(statement.target)}")
    assert not undocumented


def test_student_never_trusts_remote_code():
    files = (ROOT / "student").rglob("*.py")
    assert not [path for path in files if "trust_remote_code" in path.read_text()]


def test_torchaudio_and_tensorflow_are_not_installed():
    from importlib import metadata

    installed = {str(d.metadata["Name"]).lower() for d in metadata.distributions()}
    assert installed.isdisjoint({"torchaudio", "tensorflow"})


def test_example_teacher_measures_the_level_of_a_step():
    wave = np.zeros(SAMPLE_RATE, np.float32)
    wave[SAMPLE_RATE // 2 :] = 0.5
    (targets,) = Loudness("loudness", LoudnessSettings()).extract([wave])
    level_T = targets.frames["level"][:, 0]
    assert len(level_T) == 100
    assert np.allclose(level_T[:50], -80)
    assert np.allclose(level_T[50:], 20 * np.log10(0.5), atol=0.01)
