"""Tests for the cache report in a real browser, in both themes and at several widths."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from manifests.cache.layout import Layout
from manifests.clips import Clip
from manifests.corpus.corpus import build
from pipeline.config import ReportConfig
from pipeline.inspect.maintenance import coverage
from pipeline.report import page as report
from tests.pages import NEEDS_BROWSER, background_lightness, open_pages
from tests.pipeline.report_cache import OFF, ON, SECONDS, make_cache

pytestmark = NEEDS_BROWSER
EDGES = """plot => {
    const canvas = plot.querySelector("canvas");
    const {width, height} = canvas;
    const {data} = canvas.getContext("2d").getImageData(0, 0, width, height);
    const level = (x, y) => [0, 1, 2, 3].map((part) => data[(y * width + x) * 4 + part]);
    const apart = (a, b) => a.reduce((sum, value, part) => sum + Math.abs(value - b[part]), 0);
    const quiet = Math.round(width / 4);
    const loud = [];
    for (let x = 0; x < width; x += 1)
        for (let y = 0; y < height; y += 1)
            if (apart(level(x, y), level(quiet, y)) > 90) { loud.push(x); break; }
    return [loud[0] / width, (loud[loud.length - 1] + 1) / width];
}"""
"""JavaScript that returns where the sound in a canvas starts and ends, as shares of its width."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    config = ReportConfig(cache=str(make_cache(folder)), out=str(folder / "report"))
    return Path(report.write(config, Console(quiet=True)).uri).as_uri()


def open_card(page: Any, clip_id: str) -> Any:
    """Opens the card of a clip with all its streams, and returns it."""
    card = page.locator(".clip", has=page.locator(".name", has_text=clip_id))
    face = card.locator(".face")
    if face.get_attribute("aria-expanded") == "false":
        face.click()
    card.locator("button.more").click()
    return card


@pytest.mark.parametrize("width", [400, 1280])
def test_tracks_share_one_time_axis(visit: Any, width: int) -> None:
    card = open_card(visit(width=width), "clip000")
    plots = card.locator(".plot").all()
    names = [plot.get_attribute("data-track") for plot in plots]
    assert len(names) == 14, names
    boxes = [plot.bounding_box() for plot in plots]
    assert len({round(box["x"], 2) for box in boxes}) == 1
    assert len({round(box["width"], 2) for box in boxes}) == 1
    overlay = card.locator(".overlay").bounding_box()
    assert (overlay["x"], overlay["width"]) == (boxes[0]["x"], boxes[0]["width"])
    for name, plot in zip(names, plots, strict=True):
        if name == "time":
            continue
        first, last = plot.evaluate(EDGES)
        # The spectrogram sees 15 ms ahead; a curve rises over one hop; labels are a word long.
        slack = 0.03 if name == "spectrogram" else 0.012
        assert first * SECONDS == pytest.approx(ON, abs=slack), name
        assert last * SECONDS == pytest.approx(OFF, abs=slack), name


def test_playhead_spans_all_tracks_and_follows_playback_and_clicks(visit: Any) -> None:
    page = visit()
    card = open_card(page, "clip000")
    overlay, audio = card.locator(".overlay"), card.locator("audio")
    playhead = card.locator(".playhead")

    def share() -> float:
        box, whole = playhead.bounding_box(), overlay.bounding_box()
        assert box["height"] == pytest.approx(whole["height"], abs=1)
        return (box["x"] + box["width"] / 2 - whole["x"]) / whole["width"]

    audio.evaluate("audio => { audio.currentTime = 0.5 }")
    page.wait_for_function("() => document.querySelector('.playhead').style.left.startsWith('25')")
    assert share() == pytest.approx(0.25, abs=0.005)

    audio.evaluate("audio => audio.play()")
    page.wait_for_function("() => parseFloat(document.querySelector('.playhead').style.left) > 40")
    audio.evaluate("audio => audio.pause()")
    page.wait_for_timeout(100)
    stopped = audio.evaluate("audio => audio.currentTime")
    assert share() * SECONDS == pytest.approx(stopped, abs=0.05)

    box = overlay.bounding_box()
    overlay.click(position={"x": 0.625 * box["width"], "y": 30})
    page.wait_for_function("() => document.querySelector('audio').currentTime > 1.2")
    assert audio.evaluate("audio => audio.currentTime") == pytest.approx(1.25, abs=0.01)
    assert share() == pytest.approx(0.625, abs=0.005)
    readout = card.locator(".readout").inner_text()
    for part in ("1.25 s", "“tone”", "f0 220 Hz", "Speech 1.00", "C4", "Loudness"):
        assert part in readout


def test_corpus_without_targets_counts_as_not_run(browser: Any, tmp_path: Path) -> None:
    """The page used to count only the corpora on which a teacher had started, unlike `coverage`."""
    cache = make_cache(tmp_path)
    other = build([Clip(clip_id=f"o{n}", uri="/o.wav", duration=1.0) for n in range(50)],
                  tmp_path / "other")  # fmt: skip
    layout = Layout.open(cache)
    layout.register(other)
    (name,) = set(layout.corpora()) - {"other"}
    pitch = layout.shards(layout.current()["pitch"], name)
    shutil.copytree(pitch.path(""), Path(pitch.path("")).parent / "again")
    layout.register(build(layout.corpus(name).clips(), tmp_path / "again"))
    config = ReportConfig(cache=str(cache), out=str(tmp_path / "report"), listen=0)
    address = Path(report.write(config, Console(quiet=True)).uri).as_uri()
    not_run = sum(
        clips
        for line in coverage(layout)
        for hole, clips in line.holes.items()
        if hole.endswith("not run")
    )
    assert not_run >= 50 * len(layout.current())
    with open_pages(browser, address) as visit:
        page = visit()
        head = page.locator("#figures").inner_text()
        page.locator("summary", has_text="Streams").first.click()
        streams = page.locator("#teachers details td:first-child").all_inner_texts()
    assert f"{not_run:,} not run yet" in head
    specs = layout.current().values()
    assert f"{sum(len(spec.streams) for spec in specs)} streams" in head
    assert {f"pitch.f0 · {name}", "pitch.f0 · again"} < set(streams)
    assert len(set(streams)) == len(streams)


def test_embedded_audio_has_the_duration_of_the_clip(visit: Any) -> None:
    audio = open_card(visit(), "clip000").locator("audio")
    audio.page.wait_for_function("() => document.querySelector('audio').readyState >= 1")
    assert audio.evaluate("audio => audio.duration") == pytest.approx(SECONDS, abs=0.02)


def test_search_and_filters_select_clips(visit: Any) -> None:
    page = visit()

    def shown() -> set[str]:
        return set(page.locator(".clip:visible .name").all_inner_texts())

    everything = shown()
    assert len(everything) == 24
    page.fill("[name=text]", "MORNING good")
    assert shown() == {"clip003"}
    page.fill("[name=text]", "nothing says this")
    assert shown() == set()
    assert page.locator("#matches").inner_text().startswith("0 of 24")
    page.click("[type=reset]")
    page.wait_for_timeout(50)
    assert shown() == everything
    page.select_option("[name=label]", '["kind","tone"]')
    assert shown() == {f"clip{index:03d}" for index in range(0, 24, 2)}
    page.select_option("[name=teacher]", "lacks mood")
    assert shown() == {f"clip{index:03d}" for index in range(16, 24, 2)}
    page.click("[type=reset]")
    page.select_option("[name=problem]", "failed")
    assert shown() == {"clip006"}
    page.select_option("[name=problem]", "suspicious:silent")
    assert shown() == {"clip001"}


def test_findings_link_to_their_clips(visit: Any) -> None:
    page = visit()
    page.click("#suspicious button[data-kind=clipped]")
    rows = page.locator("#suspicious tbody tr")
    assert rows.count() == 1
    rows.locator("a").click()
    assert page.locator("#clip-2 .viewer").is_visible()
    top = "Math.abs(document.getElementById('clip-2').getBoundingClientRect().top)"
    page.wait_for_function(f"() => {top} < 100")


def test_clips_without_audio_or_targets_are_shown(visit: Any) -> None:
    page = visit()
    gone = open_card(page, "clip004")
    assert "No audio" in gone.inner_text()
    assert gone.locator(".plot[data-track='pitch.f0:pitch']").is_visible()
    failed = open_card(page, "clip006")
    assert "the model failed" in failed.inner_text()
    assert "not run yet" in open_card(page, "clip020").inner_text()


def test_markup_in_texts_is_shown_literally(visit: Any) -> None:
    page = visit()
    assert "<b>bold</b>" in open_card(page, "clip005").inner_text()
    assert page.evaluate("() => window.foreign") is None


@pytest.mark.parametrize("width", [400, 768, 1280])
def test_page_is_not_wider_than_the_screen(visit: Any, width: int) -> None:
    page = visit(width=width)
    open_card(page, "clip006")
    page.locator("#teachers summary").click()
    page.wait_for_timeout(100)
    assert page.evaluate("() => document.documentElement.scrollWidth") == width


def test_theme_follows_the_system_and_the_button(visit: Any) -> None:
    light, dark = visit(scheme="light"), visit(scheme="dark")
    assert background_lightness(light) > 600 > 200 > background_lightness(dark)
    wave = ".plot[data-track=waveform] canvas"
    before = light.locator(wave).first.evaluate("canvas => canvas.toDataURL()")
    for name in ("light", "dark"):
        light.click("#theme")
        assert light.locator("#theme").inner_text() == f"Theme: {name}"
    assert background_lightness(light) == background_lightness(dark)
    assert light.locator(wave).first.evaluate("canvas => canvas.toDataURL()") != before


def test_audio_warnings_link_to_their_clips(visit: Any) -> None:
    panel = visit(width=1280).locator(".panel", has_text="Warnings about the audio")
    assert panel.locator("tbody tr").all_inner_texts()[0].split()[:2] == ["clipped", "1"]
    assert panel.locator("a", has_text="clip002").get_attribute("href").startswith("#clip-")
