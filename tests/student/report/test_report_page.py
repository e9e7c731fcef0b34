"""Tests for the report of runs in a real browser, in both themes and at several widths."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from student.report import page as report
from student.train import train
from tests.pages import NEEDS_BROWSER, background_lightness, open_pages

pytestmark = NEEDS_BROWSER
SCORE = {"score": 0.5, "low": 0.4, "high": 0.6}
LOW = {"score": -0.2, "low": -0.3, "high": -0.1}
ABLATION = {
    "arm": "coat",
    "seed": 0,
    "conditions": {
        "intact": {"mean": SCORE, "change": {**SCORE, "score": 0.0}, "same_reply": 1.0},
        "zero": {"mean": SCORE, "change": LOW, "same_reply": 0.25},
        "other audio": {},
    },
    "attention": {"audio": [0.25, 0.31], "block": [0.125, 0.42], "text": [0.625, 0.27]},
    "block_states": {"cosine_between_clips": 0.87, "change_with_other_audio": 0.33},
}
PROBES = {
    "arm": "coat",
    "seed": 0,
    "head_layer": 2,
    "targets": {
        "note": {
            "metric": "accuracy",
            "floor": 0.3,
            "scores": {"audio": [0.3, 0.5, 0.9, 0.8], "thinking": [0.3, 0.4, 0.7, None]},
        }
    },
}

SCORES = {
    "tasks": {
        "Which tone?": {"kind": "choice", "n": 12, "score": 0.75, "low": 0.5, "high": 0.9,
                        "chance": 0.25, "majority": 0.4},
        "What is said?": {"kind": "transcription", "n": 3, "score": 0.1, "low": 0.0, "high": 0.3,
                          "chance": 0.0, "majority": 0.0},
    },
    "mean": {"score": 0.425, "low": 0.25, "high": 0.6},
}  # fmt: skip

CHOICES = {
    "tasks": {
        "Which tone?": {"kind": "choice", "n": 1, "score": 1.0, "low": None, "high": None,
                        "chance": 0.25, "majority": 11 / 19},
        "Which word?": {"kind": "label", "n": 10, "score": 0.5, "low": 0.2, "high": 0.8,
                        "chance": 0.5, "majority": 6 / 22},
    },
    "mean": {"score": 0.75, "low": 0.6, "high": 0.9},
}  # fmt: skip


@pytest.fixture(scope="module")
def address(toy_data: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a page of two arms, one of which was evaluated."""
    folder: Path = tmp_path_factory.mktemp("page")
    for arm in ("coat", "pause"):
        train(toy_data.options(folder / "runs" / f"{arm}-0", arm=arm))
    (folder / "runs/coat-0/ablation.json").write_text(json.dumps(ABLATION))
    (folder / "runs/coat-0/probes.json").write_text(json.dumps(PROBES))
    (folder / "runs/coat-0/eval").mkdir()
    (folder / "runs/coat-0/eval/held_out.json").write_text(json.dumps(SCORES))
    (folder / "runs/coat-0/eval/questions.json").write_text(json.dumps(CHOICES))
    written = report.write(
        [str(folder / "runs")],
        str(folder / "report"),
        caches=[str(toy_data.cache)],
        clips=3,
        console=Console(quiet=True),
    )
    return Path(written.uri).as_uri()


def test_page_has_all_sections_and_charts(visit: Any) -> None:
    page = visit()
    headings = page.locator("h2").all_inner_texts()
    assert headings == [
        "Arms", "Training curves", "Before and after", "Held-out answers",
        "Predicted against cached", "Is the block used?", "Cost",
    ]  # fmt: skip
    assert page.locator("nav a").all_inner_texts() == headings
    charts = page.locator("#curves .panel h3").all_inner_texts()
    assert charts[0] == "answer"
    assert set(charts[1:]) == {
        "toy.bands", "toy.events", "toy.class", "toy.salience", "reconstruction"
    }  # fmt: skip
    assert page.locator("#cost tbody tr").count() == 4


def test_unfinished_runs_are_named_and_not_compared(
    address: str, browser: Any, tmp_path: Path
) -> None:
    """A page showed the answer loss after `align` of a killed run beside those of finished ones."""
    runs = Path(address.removeprefix("file://")).parent.parent / "runs"
    shutil.copytree(runs, tmp_path / "runs")
    numbers = json.loads((tmp_path / "runs/coat-0/report.json").read_text())
    del numbers["joint"]
    (tmp_path / "runs/coat-0/report.json").write_text(json.dumps(numbers))
    written = report.write(
        [str(tmp_path / "runs")], str(tmp_path / "page"), caches=[], clips=1,
        console=Console(quiet=True),
    )  # fmt: skip
    with open_pages(browser, Path(written.uri).as_uri()) as open_page:
        arms = open_page().locator("#arms")
        assert "Not finished, and not compared: coat-0 (after align)." in arms.inner_text()
        row = arms.locator("tbody tr", has_text="loss, lower").locator("td").all_inner_texts()
    assert "\N{EN DASH}" in row[-2:]
    assert min(map(float, set(row[-2:]) - {"\N{EN DASH}"})) > 0


def test_results_of_other_questions_are_shown_apart(
    address: str, browser: Any, tmp_path: Path
) -> None:
    """One axis showed ablations of runs that had been asked different questions."""
    runs = Path(address.removeprefix("file://")).parent.parent / "runs"
    shutil.copytree(runs, tmp_path / "runs")
    shutil.copytree(runs / "coat-0/eval", tmp_path / "runs/pause-0/eval")
    for arm, digest, asked in (("coat", "a", 38), ("pause", "b", 55)):
        folder = tmp_path / f"runs/{arm}-0"
        about = {"digest": digest, "questions": asked}
        (folder / "ablation.json").write_text(json.dumps(ABLATION | about))
        (folder / "eval/held_out.json").write_text(json.dumps(SCORES | about))
    written = report.write(
        [str(tmp_path / "runs")], str(tmp_path / "page"), caches=[], clips=1,
        console=Console(quiet=True),
    )  # fmt: skip
    with open_pages(browser, Path(written.uri).as_uri()) as open_page:
        page = open_page()
        panels = page.locator("#evaluation .panel", has_text="Token replacement")
        shown = [panel.inner_text() for panel in panels.all()]
        assert ["38 questions" in text for text in shown] == [True, False]
        assert ["55 questions" in text for text in shown] == [False, True]
        assert ["pause-0" in text for text in shown] == [False, True]
        tables = page.locator("#answers .panel", has=page.locator("h3", has_text="held out"))
        names = [table.locator("th").all_inner_texts() for table in tables.all()]
        assert [("coat-0" in row, "pause-0" in row) for row in names] == [
            (True, False), (False, True)
        ]  # fmt: skip
        both = page.locator("#answers .panel", has=page.locator("h3", has_text="questions"))
        assert both.count() == 1


def test_unfinished_run_alone_is_marked(address: str, browser: Any, tmp_path: Path) -> None:
    run = Path(address.removeprefix("file://")).parent.parent / "runs/coat-0"
    shutil.copytree(run, tmp_path / "run")
    numbers = json.loads((run / "report.json").read_text())
    del numbers["joint"]
    (tmp_path / "run/report.json").write_text(json.dumps(numbers))
    written = report.write(
        [str(tmp_path / "run")], str(tmp_path / "page"), caches=[], clips=1,
        console=Console(quiet=True),
    )  # fmt: skip
    with open_pages(browser, Path(written.uri).as_uri()) as open_page:
        page = open_page()
        assert "not finished: after align" in page.locator("#subtitle").inner_text()
        for section in ("#answers", "#evaluation"):
            assert "(not finished: after align)" in page.locator(section).inner_text()


def test_curves_start_and_end_at_the_positions_of_their_steps(visit: Any) -> None:
    chart = visit().locator("#curves .panel", has_text="toy.bands").locator("svg[role=img]")
    dots = chart.locator("circle").evaluate_all("all => all.map(one => +one.getAttribute('cx'))")
    assert len(dots) == 3
    (path,) = chart.locator("path").evaluate_all("all => all.map(one => one.getAttribute('d'))")
    assert path.count("L") == 3
    # Steps 1 to 4 of 4; validated at 0, 2 and 4.
    xs = [float(point.split()[0]) for point in path[1:].split("L")]
    assert xs[1] == pytest.approx(dots[1], abs=0.1)
    assert xs[3] == pytest.approx(dots[2], abs=0.1)
    assert xs[0] - dots[0] == pytest.approx(xs[1] - xs[0], abs=0.2)


def test_another_run_can_be_selected(visit: Any) -> None:
    page = visit()
    table = page.locator("#streams tbody tr")
    assert table.count() == 6
    page.click("#streams button[data-kind=pause-0]")
    assert table.count() == 1
    assert (
        page.locator("#streams button[data-kind=pause-0]").get_attribute("aria-pressed") == "true"
    )


@pytest.mark.parametrize("width", [400, 1280])
def test_pairs_share_one_time_axis(visit: Any, width: int) -> None:
    card = visit(width=width).locator(".clip").first
    boxes = [plot.bounding_box() for plot in card.locator(".plot").all() if plot.is_visible()]
    assert len(boxes) >= 12
    assert len({(round(box["x"], 2), round(box["width"], 2)) for box in boxes}) == 1
    captions = card.locator(".caption b").all_inner_texts()
    pairs = [title for title in captions if title.endswith((", cached", ", predicted"))]
    for theirs, ours in zip(pairs[::2], pairs[1::2], strict=True):
        assert theirs.removesuffix(", cached") == ours.removesuffix(", predicted")
    overlay = card.locator(".overlay")
    overlay.click(position={"x": overlay.bounding_box()["width"] / 2, "y": 30})
    card.page.wait_for_function("() => document.querySelector('audio').currentTime > 0.2")
    card.page.wait_for_function("() => document.querySelector('.playhead').style.left")
    assert card.locator(".playhead").evaluate("mark => mark.style.left").startswith(("49", "50"))


def test_held_out_answers_are_shown_with_chance_and_majority(visit: Any) -> None:
    section = visit().locator("#answers")
    rows = [row.split("\t") for row in section.locator("tbody tr").all_inner_texts()]
    assert rows[0][:5] == ["Which tone?", "12", "0.25", "0.40", "0.75 (0.50 to 0.90)"]
    assert rows[1][:5] == ["What is said?", "3", "\u2013", "\u2013", "0.10 (0.00 to 0.30)"]
    assert rows[2][2:5] == ["", "", "0.42 (0.25 to 0.60)"], "a transcription has no baseline"
    assert rows[3][:5] == ["Which tone?", "1", "0.25", "0.58", "1.00"], "one question: no interval"
    assert rows[4][2] == "0.50", "a label with choices has a chance, too"
    assert rows[5][2:5] == ["0.38", "0.43", "0.75 (0.60 to 0.90)"], "not the mean of 0.58 and 0.27"
    assert "coat-0" in section.inner_text()
    assert "pause-0" not in section.inner_text()


def test_existing_evaluations_are_shown(visit: Any) -> None:
    page = visit()
    section = page.locator("#evaluation")
    section.locator("summary").click()
    text = section.inner_text()
    for part in ("zero", "-0.200", "-0.300 to -0.100", "25%", "2 (heads)", "0.70",
                 "cosine of block states between clips 0.87", "0.42"):  # fmt: skip
        assert part in text, part
    section.locator("button[data-kind=audio]").click()
    assert "0.90" in section.inner_text()


@pytest.mark.parametrize("width", [400, 768, 1280])
def test_page_is_not_wider_than_the_screen(visit: Any, width: int) -> None:
    page = visit(width=width)
    page.locator("#evaluation summary").click()
    page.wait_for_timeout(100)
    assert page.evaluate("() => document.documentElement.scrollWidth") == width


def test_page_has_a_light_and_a_dark_theme(visit: Any) -> None:
    assert (
        background_lightness(visit(scheme="light"))
        > 600
        > 200
        > background_lightness(visit(scheme="dark"))
    )
