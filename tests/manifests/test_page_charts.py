"""Tests that charts and tracks of a few points show a line, and have a legend."""

from __future__ import annotations

import base64
import io
import itertools
from importlib import resources
from typing import Any

import pytest

from manifests.page.assemble import SHARED
from manifests.page.figure import draw_tracks
from manifests.page.tracks import Track
from tests.pages import NEEDS_BROWSER

FRAME = {"start": 0.05, "hop": 0.1}
INK = """canvas => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return data.filter((value, index) => index % 4 === 3 && value > 60).length;
}"""


def in_browser(test: Any) -> Any:
    """Marks a test that needs a browser; the others of this file draw with matplotlib."""
    for mark in NEEDS_BROWSER:
        test = mark(test)
    return test


def pack(*levels: int) -> str:
    return base64.b64encode(bytes(levels)).decode()


@pytest.fixture
def page(browser: Any) -> Any:
    """An empty page with the code of all pages."""
    opened = browser.new_page(viewport={"width": 800, "height": 600})
    shared = resources.files("manifests.page")
    style = (shared / "page.css").read_text("utf-8")
    opened.set_content(
        f"<style>{style}</style><div id=box style='width:700px'></div>"
        "<script type='application/json' id=facts>{}</script>"
    )
    code = "\n".join((shared / name).read_text("utf-8") for name in SHARED)
    opened.add_script_tag(
        content=f"{code}\nwindow.code = {{ lines, dots, view, fixed, percent, histogram }};"
    )
    yield opened
    opened.close()


def draw_lines(page: Any, series: list[dict[str, Any]]) -> Any:
    page.evaluate(
        "series => box.replaceChildren(code.lines(series, { unit: 'loss', across: 'steps' }))",
        series,
    )
    page.wait_for_selector("#box svg[role=img]")
    return page.locator("#box svg[role=img]")


@in_browser
@pytest.mark.parametrize(
    ("steps", "dots", "points", "width"),
    [([1, 2, 3], [0, 2], 3, "2"), ([2], [0, 2, 4], 3, "1"), ([], [0, 4], 2, "1")],
)
def test_chart_connects_its_dots_with_a_line(
    page: Any, steps: list[int], dots: list[int], points: int, width: str
) -> None:
    """Through the logged losses; where a run logged fewer than two, thin and through the dots."""
    item = {"name": "coat-0", "at": steps, "values": [2.0 - 0.1 * step for step in steps]}
    item |= {"dots": {"at": dots, "values": [2.0 - 0.2 * step for step in dots]}}
    chart = draw_lines(page, [item])
    assert chart.locator("circle").count() == len(dots)
    (path,) = chart.locator("path").all()
    ends = path.get_attribute("d")[1:].split("L")
    assert len(ends) == points
    assert float(path.get_attribute("stroke-width")) == float(width)
    if points == len(dots):
        centres = [float(each.get_attribute("cx")) for each in chart.locator("circle").all()]
        assert [float(end.split()[0]) for end in ends] == pytest.approx(centres, abs=0.1)
    assert page.locator("#box .legend").inner_text().strip() == "coat-0"


@in_browser
@pytest.mark.parametrize("width", [90, 200, 640])
@pytest.mark.parametrize(
    ("edges", "beyond", "last"),
    [
        ([step * 0.05 for step in range(31)], True, "≥ 1.45 words/s"),
        ([4.7, 4.75], False, " words/s"),
        ([0.0, 1.0, 2.0], False, " words/s"),
    ],
)
def test_ticks_of_a_histogram_do_not_overlap(
    page: Any, edges: list[float], beyond: bool, last: str, width: int
) -> None:
    """The last bar also counts larger values, which only its tooltip used to say."""
    chart = {"edges": edges, "counts": [1] * (len(edges) - 1), "log": False, "beyond": beyond}
    page.evaluate(
        "([chart, width]) => { box.style.width = `${width}px`;"
        " box.replaceChildren(code.histogram(chart, { unit: 'words/s', noun: 'clips' })); }",
        [chart, width],
    )
    page.wait_for_selector("#box svg[role=img] text")
    ticks = page.locator("#box svg[role=img] text").all()
    boxes = sorted((tick.bounding_box() for tick in ticks), key=lambda box: box["x"])
    for left, right in itertools.pairwise(boxes):
        assert left["x"] + left["width"] < right["x"]
    assert any(tick.text_content().endswith(last) for tick in ticks)


@in_browser
@pytest.mark.parametrize("digits", [0, 1, 2, 3])
def test_numbers_on_pages_are_rounded_as_in_tables(page: Any, digits: int) -> None:
    """JavaScript's toFixed rounds 0.625 to 0.63, Python to 0.62."""
    values = [eighth / 16 for eighth in range(-40, 41)] + [0.355, 1.005, 2.675, 0.1, 1 / 3, 123.45]
    shown = page.evaluate(
        "([values, digits]) => values.map((value) => code.fixed(value, digits))", [values, digits]
    )
    expected = [f"{value:.{digits}f}" for value in values]
    assert [float(text) for text in shown] == [float(text) for text in expected]
    assert [text.removeprefix("-") for text in shown] == [x.removeprefix("-") for x in expected]
    shares = [0.125, 0.375, 0.625, 0.115, 0.995]
    percents = page.evaluate("shares => shares.map(code.percent)", shares)
    assert percents == [f"{share:.0%}" for share in shares]


@in_browser
@pytest.mark.parametrize(
    ("low", "high"), [(0.52032, 0.52367), (0.1, 6.5), (2.0, 2.0004), (1000, 1004), (0.0, 3.2e6)]
)
def test_ticks_of_an_axis_have_different_texts(page: Any, low: float, high: float) -> None:
    """Lines at 0.520 and 0.5205 were both labelled 0.52."""
    page.evaluate(
        "([low, high]) => { const groups = [['a', low], ['b', high]].map(([name, value], tint) =>"
        " ({ name, tint, values: [value], notes: [name] }));"
        " box.style.width = '900px'; box.replaceChildren(code.dots(groups, { unit: 'nats' })); }",
        [low, high],
    )
    page.wait_for_selector("#box svg[role=img] circle")
    texts = page.locator("#box svg[role=img] text:not(.strong)").all_text_contents()
    numbers = [float(text.removesuffix(" nats").replace(",", "")) for text in texts]
    assert len(numbers) >= 3
    assert numbers == sorted(set(numbers))
    gaps = [after - before for before, after in itertools.pairwise(numbers)]
    assert gaps == pytest.approx([gaps[0]] * len(gaps), rel=1e-6)


@in_browser
def test_single_dot_has_a_legend(page: Any) -> None:
    item = {"name": "pause-0", "at": [], "values": [], "dots": {"at": [3], "values": [1.0]}}
    chart = draw_lines(page, [item])
    assert chart.locator("circle").count() == 1
    assert chart.locator("path").count() == 0
    assert page.locator("#box .legend").inner_text().strip() == "pause-0"


@in_browser
def test_tracks_of_one_frame_are_visible_and_pitch_has_a_legend(page: Any) -> None:
    curve = {"name": "loudness", "low": 0.0, "high": 1.0, "values": pack(200)}
    tracks = [
        {"kind": "curves", "source": "a", "title": "curves", "data": {**FRAME, "curves": [curve]}},
        {"kind": "pitch", "source": "b", "title": "pitch",
         "data": {**FRAME, "f0": [220.0, 220.0, 230.0], "voicing": pack(0, 255, 0)}},
    ]  # fmt: skip
    page.evaluate("tracks => code.view(box, { clip_id: 'x', seconds: 0.4, tracks }, [])", tracks)
    page.wait_for_function("document.querySelectorAll('#box .plot canvas').length >= 4")
    for name, least in (("a:curves", 20), ("b:pitch", 8)):
        canvas = page.locator(f"#box [data-track='{name}'] canvas")
        assert canvas.evaluate(INK) > least, name
    captions = page.locator("#box .caption").all_inner_texts()
    (pitch,) = [text for text in captions if "pitch" in text]
    assert "line: voiced, dots: unvoiced, strip: voicing" in " ".join(pitch.split())


def count_dark_pixels(track: Track) -> int:
    """Counts the dark pixels within the axes of a track, in a PNG."""
    from matplotlib import image

    figure = draw_tracks([track], seconds=0.4)
    (axes,) = figure.axes
    for spine in axes.spines.values():
        spine.set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=figure.dpi)
    file.seek(0)
    pixels = image.imread(file)[::-1, :, :3]
    x, y, width, height = map(int, axes.get_window_extent().bounds)
    inside = pixels[y + 6 : y + height - 6, x + 6 : x + width - 6]
    return int((inside.min(axis=-1) < 0.9).sum())


@pytest.mark.parametrize("frames", [1, 3])
def test_figure_shows_tracks_of_one_frame(frames: int) -> None:
    curve = {"name": "x", "low": 0.0, "high": 1.0, "values": pack(*[200] * frames)}
    pitch = {"f0": [220.0] * frames, "voicing": pack(*[255] * frames)}
    for kind, data in (("curves", {"curves": [curve]}), ("pitch", pitch)):
        track = Track(kind=kind, source="a", title=kind, data={**FRAME, **data})
        assert count_dark_pixels(track) > 40, kind
    silent = {"f0": [220.0] * frames, "voicing": pack(*[0] * frames)}
    assert (
        count_dark_pixels(Track(kind="pitch", source="a", title="p", data={**FRAME, **silent})) == 0
    )
