"""The page of a run: upload or record audio, ask a question, and see answer and head predictions.

The page uses Gradio. Everything stays on this machine: no analytics, no external fonts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

from manifests.errors import UserError
from student.config import Recipe
from student.inference.generate import TrainedStudent, to_clip
from student.quiet import quiet_libraries
from student.runs.folder import Run
from student.runs.sources import Sources

try:
    import gradio
    from gradio import themes
except ModuleNotFoundError:
    raise UserError("the page needs gradio: pip install -e '.[demo]'") from None

from manifests.audio import Waveform
from manifests.page.figure import draw_tracks, to_svg
from student.inference.head_outputs import HeadOutput, head_outputs
from student.inference.head_tracks import output_tracks

MAX_TOKENS = 128
ABOUT = (
    "Predictions of the heads from {positions}. The heads have no other input, so they show the "
    "information that the model can use for its answer."
)
NO_HEADS = "This run (arm {arm}) has no heads, so the page shows only the answer."


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
    """Builds the page of one run."""
    files = Run.open(run)
    recipe, sources = files.recipe, files.sources
    student = TrainedStudent(run, heads=recipe.distils)
    about = describe_heads(recipe)
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


def describe_heads(recipe: Recipe) -> str:
    """The text above the picture, which names the positions that the heads of a run read."""
    if not recipe.distils:
        return NO_HEADS.format(arm=recipe.arm)
    block = f"the {recipe.block.tokens} thinking positions"
    return ABOUT.format(positions=block if recipe.has_block else "the audio tokens")


def _reply(
    student: TrainedStudent, sources: Sources
) -> Callable[[str | None, str], tuple[str, str]]:
    def reply(recording: str | None, question: str) -> tuple[str, str]:
        if recording is None:
            raise gradio.Error("Upload a recording, or record one.")
        try:
            wave = student.load_audio(to_clip(recording))
            (answer,) = student.answer([wave], question, max_tokens=MAX_TOKENS)
        except UserError as error:
            raise gradio.Error(str(error)) from None
        outputs = head_outputs(student, wave, question, sources.streams)
        rate = student.student.backbone.sample_rate
        return answer, draw(wave, rate, outputs) if outputs else ""

    return reply


def draw(wave: np.ndarray, sample_rate: int, outputs: Sequence[HeadOutput]) -> str:
    """An SVG element: the waveform, and below it a panel for each head that can be shown."""
    seconds = len(wave) / sample_rate
    figure = draw_tracks(
        output_tracks(outputs, seconds=seconds),
        seconds=seconds,
        wave=Waveform(wave, sample_rate, ""),
        spectrogram=False,
    )
    return to_svg(figure)


def _theme() -> Any:
    return themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
