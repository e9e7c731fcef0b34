"""The page: upload or record, ask, read the answer and what the block holds. Gradio draws it.

Everything stays on this machine: no analytics, no fonts from elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

from manifests.errors import UserError
from student.inference.generate import TrainedStudent, as_clip
from student.quiet import quiet_libraries
from student.runs.folder import Run
from student.runs.sources import Sources

try:
    import gradio
    from gradio import themes
except ModuleNotFoundError:
    raise UserError("the page needs gradio: pip install 'coat-distill[demo]'") from None

from student.demo.drawing import draw
from student.inference.head_outputs import read_block

MAX_TOKENS = 128
ABOUT = (
    "What the heads read at the {positions} thinking positions. They see nothing but the block: "
    "this is what the model carries into its answer."
)
NO_BLOCK = "This run (arm {arm}) has no block that heads could read."


def serve(run: str, *, port: int, share: bool = False) -> None:
    """Serves the page until it is interrupted.

    Raises:
        UserError: there is no run, none of its stages is finished, or the port is taken.
    """
    quiet_libraries()
    try:
        build(Path(run)).launch(server_port=port, share=share, theme=_theme())
    except OSError as error:
        raise UserError(f"the page cannot be served: {error}") from None


def build(run: Path) -> gradio.Blocks:
    """The page of one run."""
    files = Run.open(run)
    recipe, sources = files.recipe, files.sources
    read = recipe.has_block and recipe.distils
    student = TrainedStudent(run, heads=read)
    about = (ABOUT if read else NO_BLOCK).format(positions=recipe.block.tokens, arm=recipe.arm)
    with gradio.Blocks(title="Continuous audio thinking") as page:
        gradio.Markdown(f"## Continuous audio thinking\n`{run}`, arm `{recipe.arm}`")
        with gradio.Row():
            recording = gradio.Audio(
                sources=["upload", "microphone"], type="filepath", label="Recording"
            )
            with gradio.Column():
                question = gradio.Textbox(
                    value=recipe.data.tasks[0].questions[0], label="Question", elem_id="question"
                )
                button = gradio.Button("Ask", variant="primary", elem_id="ask")
                answer = gradio.Textbox(label="Answer", elem_id="answer", interactive=False)
        gradio.Markdown(about)
        picture = gradio.HTML(elem_id="readings")
        gradio.on(
            [button.click, question.submit],
            _reply(student, sources),
            [recording, question],
            [answer, picture],
            api_name="ask",
        )
    return page


def _reply(
    student: TrainedStudent, sources: Sources
) -> Callable[[str | None, str], tuple[str, str]]:
    def reply(recording: str | None, question: str) -> tuple[str, str]:
        if recording is None:
            raise gradio.Error("Upload a recording, or record one.")
        try:
            wave = student.load_audio(as_clip(recording))
            (said,) = student.answer([wave], question, max_tokens=MAX_TOKENS)
        except UserError as error:
            raise gradio.Error(str(error)) from None
        readings = read_block(student, wave, question, sources.streams)
        picture = draw(wave, student.student.backbone.sample_rate, readings) if readings else ""
        return said, picture

    return reply


def _theme() -> Any:
    return themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
