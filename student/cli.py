"""The command line `coat-student`, which trains, evaluates and exports students.

Each command imports the modules that need torch itself, so that `--help` and errors in a recipe are
fast.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

from manifests.console import console, messages, run_command
from manifests.errors import UserError, check_least
from student.evaluation.cli import ablate, evaluate, probe
from student.plan.options import PlanOptions
from student.quiet import quiet_imports
from student.recipe_names import settle_arguments
from student.run_options import ArmsOptions, TrainOptions


def _check_sources(options: TrainOptions | ArmsOptions) -> None:
    """Opens corpus and caches and looks for the checkpoint, so that a wrong address or stream is
    reported before PyTorch is imported.

    Raises:
        UserError: one of them is not there.
    """
    from manifests.cache.layout import Layout
    from manifests.corpus.corpus import Corpus
    from student.distill.streams import check_streams
    from student.model.backbones.availability import bytes_to_download

    Corpus(options.corpus)
    caches = [options.cache] if isinstance(options.cache, str) else options.cache
    layouts = [Layout.open(cache) for cache in caches]
    recipe = options.recipe()
    if layouts:
        check_streams(layouts, recipe.streams or ())
    if recipe.model.path is not None:
        bytes_to_download(recipe.model.path)
    if messages.is_terminal:
        messages.print("loading PyTorch and transformers")


def train(options: TrainOptions) -> None:
    """Train a student on a corpus and its teacher cache, or resume an unfinished run."""
    _check_sources(options)
    from student.quiet import quiet_libraries
    from student.train import train as run_training

    quiet_libraries()
    run_training(options)


def plan(options: PlanOptions) -> None:
    """Estimate the memory per GPU, the tokens per second and the hours that a recipe needs."""
    from student.distill.streams import open_streams
    from student.plan.estimate import build_plan
    from student.plan.table import render
    from student.quiet import quiet_libraries

    quiet_libraries()
    recipe = options.recipe()
    caches = [options.cache] if isinstance(options.cache, str) else options.cache
    selected = recipe.streams if caches and recipe.distils else {}
    streams = open_streams(caches, selected)
    widths = {name: stream.dim for name, stream in streams.items() if stream.dim}
    console.print(render(build_plan(options, streams=widths), options))


def base(options: TrainOptions) -> int:
    """Train a language model to process audio, and write the initial checkpoint of all arms."""
    _check_sources(options)
    from student.base import CHECKPOINT, build_base
    from student.quiet import quiet_libraries
    from student.release.export import describe

    quiet_libraries()
    proof = build_base(options)
    console.print(f"{options.out}/{CHECKPOINT}: {describe(proof)}")
    return 0 if proof.holds else 1


def arms(options: ArmsOptions) -> None:
    """Train coat and its controls with several seeds, all with one recipe."""
    _check_sources(options)
    from student.arms import run_arms
    from student.quiet import quiet_libraries

    quiet_libraries()
    console.print(run_arms(options))


def generate(
    audio: str,
    question: str,
    *,
    run: str = "run",
    max_tokens: int = 128,
    batch_size: int = 8,
    chat: bool = False,
) -> None:
    """Answer a question about a recording, or about each recording of a folder as JSON lines.

    The line of a recording that cannot be read has the answer null and an error.

    Args:
        audio: Audio file, or folder of audio files.
        question: The question.
        run: Folder of the run.
        max_tokens: Maximum length of an answer.
        batch_size: Recordings per batch.
        chat: Print the answer while it is generated, and read further questions about the same
            recording from standard input, one per line, until an empty line.
    """
    from student.inference.conversations import about, answers, talk

    asked = about(audio, question)
    if chat and len(asked) > 1:
        raise UserError(f"--chat is about one recording, and {audio} is a folder of {len(asked)}")
    student = _trained(run)
    if chat:
        for _ in talk(student, asked[0], sys.stdin, max_tokens=max_tokens):
            continue
    elif len(asked) == 1:
        (result,) = answers(student, asked, batch_size=batch_size, max_tokens=max_tokens)
        console.print(result["answer"], markup=False)
    else:
        _print_lines(answers(student, asked, batch_size=batch_size, max_tokens=max_tokens))


def reply(
    conversations: str, *, run: str = "run", max_tokens: int = 128, batch_size: int = 8
) -> None:
    """Generate the assistant's next turn for each conversation of a file, as JSON lines.

    Args:
        conversations: JSON lines, {"messages": [...]}; audio parts are
            {"type": "audio", "audio": PATH}, relative to the folder of the file.
        run: Folder of the run.
        max_tokens: Maximum length of an answer.
        batch_size: Conversations per batch.
    """
    from student.inference.conversations import answers, read_conversations

    asked = read_conversations(conversations)
    student = _trained(run)
    _print_lines(answers(student, asked, batch_size=batch_size, max_tokens=max_tokens))


def demo(run: str = "run", *, port: int = 7860, share: bool = False) -> None:
    """Serve a page that answers questions about recordings and shows the outputs of the heads.

    Args:
        run: Folder of the run.
        port: Port of the page on this machine.
        share: Make the page public through gradio's tunnel.
    """
    if not 0 < port < 2**16:
        raise UserError(f"--port must be 1 to 65535; it is {port}")
    from student.demo import page

    page.serve(run, port=port, share=share)


def report(
    runs: list[str], *, out: str = "report", cache: str | list[str] | None = None, clips: int = 6
) -> None:
    """Write an HTML report of training runs: curves, comparison of arms, predicted tracks, cost.

    Args:
        runs: Folders of runs, or folders that contain runs, as written by `arms`.
        out: Folder for the page, `index.html`.
        cache: One or more caches that the runs were trained on. With a cache, the first run with
            heads predicts held-out clips.
        clips: Number of held-out clips to predict.
    """
    check_least("--clips", clips, 1)
    from student.quiet import quiet_libraries
    from student.report import page

    quiet_libraries()
    caches = [cache] if isinstance(cache, str) else cache or []
    console.print(str(page.write(runs, out, caches=caches, clips=clips, console=messages)))


def fetch(models: list[str], *, out: str = "models", list_only: bool = False) -> None:
    """Print the sizes of backbones on a hub and download them into a folder, for `model.path`.

    Args:
        models: Hub ids, OWNER/NAME or OWNER/NAME@REVISION.
        out: Folder for the checkpoints; each is written to OUT/OWNER/NAME.
        list_only: List the files without downloading them.
    """
    from student import fetch as downloads

    for model in models:
        name, _, revision = model.partition("@")
        download = downloads.look_up(name, out, revision=revision or "main")
        for line in downloads.describe(download):
            console.print(line, markup=False)
        if not list_only:
            downloads.download(download)
            console.print(f"model.path: {download.folder}", markup=False)


def export(run: str, out: str) -> int:
    """Write a run as a plain checkpoint for transformers and vLLM, and verify its logits.

    Args:
        run: Folder of the run.
        out: Folder of the checkpoint.
    """
    from student.quiet import quiet_libraries
    from student.release.export import describe
    from student.release.export import export as run_export

    quiet_libraries()
    proof = run_export(run, out)
    console.print(f"{out}: {describe(proof)}")
    return 0 if proof.holds else 1


def push(checkpoint: str, repo: str, *, upload: bool = False, public: bool = False) -> None:
    """Upload an exported checkpoint to a hub, or list the files that would be uploaded.

    Args:
        checkpoint: Folder written by `export`.
        repo: OWNER/NAME on the hub (HF_ENDPOINT, HF_TOKEN); created if it does not exist.
        upload: Upload the files instead of only listing them.
        public: Make a new repository public.
    """
    from student.release.push import describe
    from student.release.push import push as run_push

    done = run_push(checkpoint, repo, upload=upload, private=not public)
    console.print(describe(done, repo), markup=False)


def _print_lines(lines: Iterable[dict[str, Any]]) -> None:
    for line in lines:
        print(json.dumps(line, ensure_ascii=False), flush=True)


def _trained(run: str) -> Any:
    # A typed signature would import torch.
    from student.inference.generate import TrainedStudent
    from student.quiet import quiet_libraries

    quiet_libraries()
    return TrainedStudent(run)


def main() -> None:
    """Entry point of `coat-student`."""
    quiet_imports()
    recipes = {
        "train": TrainOptions,
        "plan": PlanOptions,
        "base": TrainOptions,
        "arms": ArmsOptions,
    }
    try:
        arguments = settle_arguments(sys.argv[1:], recipes)
    except UserError as error:
        print(f"coat-student: error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        sys.exit(2)
    run_command(
        "coat-student",
        {"plan": plan, "fetch": fetch, "train": train, "base": base, "arms": arms,
         "generate": generate, "reply": reply, "demo": demo,
         "eval": evaluate, "ablate": ablate, "probe": probe, "report": report,
         "export": export, "push": push},
        description="Stage 2: train students with continuous audio thinking on a teacher cache.",
        arguments=arguments,
    )  # fmt: skip


if __name__ == "__main__":
    main()
