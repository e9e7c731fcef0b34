"""Assembles one self-contained HTML file from style, code and data.

Style and shared code are in this folder; a report adds its own sections and the code that fills
them. The page can be opened from a disk or sent by mail, and does not change with the cache or run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from manifests.console import as_fields
from manifests.corpus.corpus_index import CACHE_FILE, INDEX_FILE
from manifests.errors import UserError
from manifests.storage import Folder

PAGE = "index.html"
FACTS = b'id="facts"'
"""Part of every page of this program."""
SHARED = ("dom.js", "parts.js", "charts.js", "drawing.js", "viewer.js")
"""Scripts of every page, in the order in which they run."""


@dataclass(frozen=True, slots=True)
class WrittenPage:
    """A page on a disk or in an object store."""

    uri: str
    bytes: int

    def __str__(self) -> str:
        return f"{self.uri} ({self.bytes / 1e6:.1f} MB)"


def check_place(out: str | Path) -> None:
    """Checks the folder of a page, before the work for it begins.

    Raises:
        UserError: it is a cache or a corpus, or has another page.
    """
    folder = Folder(out)
    for mark, kind in ((CACHE_FILE, "teacher cache"), (INDEX_FILE, "corpus")):
        if folder.exists(mark):
            raise UserError(f"{folder.uri} is a {kind}, give another folder for the report")
    if folder.exists(PAGE) and FACTS not in folder.read_bytes(PAGE):
        raise UserError(
            f"{folder.uri}/{PAGE} is a page that this program did not write; give another folder "
            "for the report"
        )


def write(
    out: str | Path, *, sections: dict[str, str], package: str, scripts: Sequence[str], facts: Any
) -> WrittenPage:
    """Writes a page.

    Args:
        out: Folder or address of a folder for the page, `index.html`.
        sections: Section id -> heading, which is also the link at the top, in order.
        package: Package with the report's own scripts.
        scripts: Their names, in the order in which they run.
        facts: The data of the page as JSON fields; NaN is not allowed.

    Returns:
        The page.
    """
    shared, own = resources.files("manifests.page"), resources.files(package)
    code = [(shared / name).read_text("utf-8") for name in SHARED]
    code += [(own / name).read_text("utf-8") for name in scripts]
    data = json.dumps(as_fields(facts), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    links = (f'<a href="#{key}">{escape(heading)}</a>' for key, heading in sections.items())
    bodies = (
        f'<section id="{key}"><h2>{escape(heading)}</h2></section>'
        for key, heading in sections.items()
    )
    parts = {
        "/*STYLE*/": (shared / "page.css").read_text("utf-8"),
        "<!--LINKS-->": "\n".join(links),
        "<!--SECTIONS-->": "\n".join(bodies),
        "/*SCRIPT*/": "\n".join(code),
        # Content of a corpus is only data: escaping ensures that it cannot close a tag.
        "/*FACTS*/": data.replace("<", "\\u003c"),
    }
    page = (shared / "frame.html").read_text("utf-8")
    for mark, content in parts.items():
        before, _, after = page.partition(mark)
        page = before + content + after
    data = page.encode()
    Folder(out).write_atomic(PAGE, data)
    return WrittenPage(f"{str(out).rstrip('/')}/{PAGE}", len(data))
