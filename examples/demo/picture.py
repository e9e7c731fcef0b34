"""Takes the picture in README: the tracks of a speech clip in the demo's report on its cache.

    python -m examples.demo.picture

Run it after `make demo`. It needs playwright and chromium, as the tests of the pages do.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PAGE = Path("demo/reports/cache/index.html")
PICTURE = Path("docs/clip.png")
WIDTH, HEIGHT = 900, 1500
"""Size of the browser's window in pixels."""


def main() -> None:
    """Takes a picture of the first clip's tracks in the report."""
    chromium = shutil.which("chromium")
    if chromium is None or not PAGE.is_file():
        sys.exit(f"needs chromium (apt-get install chromium) and {PAGE} (make demo)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(PAGE.resolve().as_uri())
        page.wait_for_load_state("networkidle")
        tracks = page.locator("article.clip .stack").first
        tracks.scroll_into_view_if_needed()
        page.wait_for_timeout(1000)
        tracks.screenshot(path=PICTURE)
        browser.close()


if __name__ == "__main__":
    main()
