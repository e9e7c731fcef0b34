"""Opens local pages in a real headless Chromium."""

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
def launch_browser() -> Iterator[Any]:
    """Runs a browser, and yields it."""
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield running
        running.close()


@contextmanager
def open_pages(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Yields a function that opens the page; checks finally that it logged and fetched nothing."""
    logged: list[str] = []
    fetched: list[str] = []
    pages = []

    def open_page(*, width: int = 1280, scheme: str = "light") -> Any:
        view = {"width": width, "height": 900}
        page = browser.new_page(viewport=view, color_scheme=scheme)
        page.on("console", lambda message: logged.append(message.text))
        page.on("pageerror", lambda error: logged.append(str(error)))
        page.on("request", lambda request: fetched.append(request.url))
        page.goto(address)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert logged == []
    assert [url for url in fetched if not url.startswith("data:")] == [address] * len(pages)


def background_lightness(page: Any) -> int:
    """Returns the sum of the red, green and blue values of a page's background, 0 to 765."""
    colour = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    return sum(int(part) for part in colour.strip("rgb()").split(","))
