"""Opens pages in a real headless Chromium, from a file and without a network."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs: pip install playwright")
CHROMIUM = shutil.which("chromium")
NEEDS_BROWSER = [
    pytest.mark.debian,
    pytest.mark.skipif(CHROMIUM is None, reason="needs: apt-get install chromium"),
]
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
    "--autoplay-policy=no-user-gesture-required",
)  # fmt: skip


@contextmanager
def launched() -> Iterator[Any]:
    """A running browser."""
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield running
        running.close()


@contextmanager
def visiting(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Opens a page, and checks that it logged nothing and fetched nothing."""
    said: list[str] = []
    fetched: list[str] = []
    pages = []

    def open_page(*, width: int = 1280, scheme: str = "light") -> Any:
        view = {"width": width, "height": 900}
        page = browser.new_page(viewport=view, color_scheme=scheme)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: fetched.append(request.url))
        page.goto(address)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert said == []
    assert [url for url in fetched if not url.startswith("data:")] == [address] * len(pages)


def ground(page: Any) -> int:
    """Lightness of a page's background, 0 to 765."""
    colour = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    return sum(int(part) for part in colour.strip("rgb()").split(","))
