"""Tests for the demo page of a run, in a real browser and without one."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifests.errors import UserError
from manifests.streams.pitch_bins import CREPE_BINS
from student.demo.page import describe_heads, draw
from student.distill.kinds import to_target_units
from student.inference.generate import TrainedStudent
from student.inference.head_outputs import HeadOutput, head_outputs
from student.runs.folder import Run

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
    "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(runs: Callable[[str], Path]) -> Path:
    return runs("qwen2_audio")


def test_head_outputs_are_converted_to_hertz_and_probabilities() -> None:
    """Logits become Hz in voiced frames, or probabilities."""
    pitch_ND = np.full((2, 361), -10.0)
    pitch_ND[:, 150] = 10.0
    pitch_ND[0, -1] = 3.0
    output = HeadOutput(
        stream="pitch.salience", kind="pitch", names=(), unit="",
        values_ND=to_target_units("pitch", pitch_ND), pitch_bins=CREPE_BINS,
    )  # fmt: skip
    hertz = output.pitch_track
    assert hertz[0] == pytest.approx(CREPE_BINS.lowest_hz * 2 ** (150 * 20 / 1200), rel=1e-4)
    assert np.isnan(hertz[1])
    assert to_target_units("multilabel", np.zeros((1, 3))).tolist() == [[0.5] * 3]
    np.testing.assert_allclose(to_target_units("distribution", np.zeros((1, 4))), 0.25)


def test_heads_loaded_without_the_cache_give_the_same_predictions(toy_data: Any, run: Path) -> None:
    """The shapes are those of the run's streams, and the predictions depend on the audio."""
    student = TrainedStudent(run, heads=True)
    wave = student.load_audio(toy_data.clips[5])
    readings = head_outputs(student, wave, "Which note?", Run(run).sources.streams)
    shapes = {output.stream: output.values_ND.shape for output in readings}
    assert shapes == {"toy.bands": (8, 24), "toy.events": (8, 5), "toy.class": (8, 5),
                      "toy.salience": (8, 361)}  # fmt: skip
    by_name = {output.stream: output.values_ND for output in readings}
    assert ((by_name["toy.events"] > 0) & (by_name["toy.events"] < 1)).all()
    np.testing.assert_allclose(by_name["toy.class"].sum(1), 1, rtol=1e-5)
    other = head_outputs(student, wave[::-1].copy(), "Which note?", Run(run).sources.streams)
    assert not np.allclose(other[1].values_ND, readings[1].values_ND, atol=1e-5)


def test_picture_shows_pitch_and_the_strongest_classes() -> None:
    values_ND = np.zeros((4, 20), np.float32)
    values_ND[1, 7], values_ND[2, 3] = 0.9, 0.6
    names = tuple(f"class {n}" for n in range(20))
    events = HeadOutput(
        stream="a.events", kind="multilabel", names=names, unit="", values_ND=values_ND
    )
    pitch_ND = np.eye(4, 361, 100, dtype=np.float32)
    pitch_ND[1:, -1] = 1
    pitch = HeadOutput(stream="a.pitch", kind="pitch", names=(), unit="", values_ND=pitch_ND)
    features = HeadOutput(
        stream="a.hidden", kind="features", names=(), unit="", values_ND=values_ND
    )
    svg = draw(np.zeros(16_000, np.float32), 16_000, [events, features, pitch])
    assert svg.startswith("<svg")
    for text in ("a.pitch (Hz)", "a.events (probability)", "class 7  0.90", "class 3  0.60"):
        assert f">{text}<" in svg
    assert "a.hidden" not in svg
    assert svg.index("a.pitch (Hz)") < svg.index("a.events (probability)")
    assert 'id="pitch"' in svg
    assert svg.index("class 7") < svg.index("class 3")


def test_page_describes_where_the_heads_read(run: Path) -> None:
    recipe = Run(run).recipe
    assert f"{recipe.block.tokens} thinking positions" in describe_heads(recipe)
    assert "audio tokens" in describe_heads(dataclasses.replace(recipe, arm="distill"))
    assert "no heads" in describe_heads(dataclasses.replace(recipe, arm="pause"))


def test_folder_that_is_not_a_run_raises_an_error(tmp_path: Path) -> None:
    from student.demo import page

    with pytest.raises(UserError, match="is not a run"):
        page.build(tmp_path)


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[str]:
    from student.demo import page

    with pytest.MonkeyPatch.context() as environment:
        for name in ("no_proxy", "NO_PROXY"):
            environment.setenv(name, "127.0.0.1,localhost")
        blocks = page.build(run)
        _, url, _ = blocks.launch(
            server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, inbrowser=False
        )
        yield url
        blocks.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs: pip install playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield running
        running.close()


@pytest.mark.debian
def test_page_answers_a_question_about_an_uploaded_file(
    toy_data: Any, run: Path, browser: Any, address: str
) -> None:
    clip = toy_data.clips[5]
    page = browser.new_page(viewport={"width": 1200, "height": 1400})
    external_requests: list[str] = []
    page.on("request", lambda request: external_requests.append(request.url)
            if not request.url.startswith((address, "blob:", "data:")) else None)  # fmt: skip
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.locator("#ask").wait_for(timeout=60_000)
    page.locator("input[type=file]").first.set_input_files(clip.uri)
    page.locator("audio, [data-testid=waveform-Recording], #waveform").first.wait_for(
        state="attached", timeout=30_000
    )
    page.locator("#question textarea").fill("Which note?")
    page.locator("#ask").click()
    svg = page.locator("#readings svg:has(text)")
    svg.wait_for(timeout=60_000)
    texts = svg.locator("text").all_text_contents()
    assert "recording" in texts
    assert "toy.salience (Hz)" in texts
    expected = TrainedStudent(run).answer([clip.uri], "Which note?", max_tokens=128)[0]
    assert page.locator("#answer textarea").input_value() == expected
    page.close()
    assert errors == []
    assert external_requests == []
