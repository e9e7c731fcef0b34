"""One HTML file out of its parts: style, code and facts, with nothing to fetch.

The parts lie beside this file and are shared by every report; a report adds its own sections and
the code that fills them. The page opens from a disk, travels by mail and still says in a year what
was seen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from manifests.console import as_fields
from manifests.storage import Folder

SHARED = ("dom.js", "parts.js", "charts.js", "drawing.js", "viewer.js")
"""Code that every page has, in the order in which it runs."""


def write(
    out: str | Path, *, sections: dict[str, str], package: str, scripts: Sequence[str], facts: Any
) -> Path:
    """Writes a page.

    Args:
        out: Folder for the page, `index.html`.
        sections: Id, which is also the link to it at the top -> heading, in their order.
        package: Package with the report's own scripts.
        scripts: Their names, in the order in which they run.
        facts: The data of the page, as fields; NaN is not allowed.

    Returns:
        The page.
    """
    shared, own = resources.files("manifests.page"), resources.files(package)
    code = [(shared / name).read_text("utf-8") for name in SHARED]
    code += [(own / name).read_text("utf-8") for name in scripts]
    data = json.dumps(as_fields(facts), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    links = (f'<a href="#{key}">{key.capitalize()}</a>' for key in sections)
    bodies = (
        f'<section id="{key}"><h2>{escape(heading)}</h2></section>'
        for key, heading in sections.items()
    )
    parts = {
        "/*STYLE*/": (shared / "page.css").read_text("utf-8"),
        "<!--LINKS-->": "\n".join(links),
        "<!--SECTIONS-->": "\n".join(bodies),
        "/*SCRIPT*/": "\n".join(code),
        # Whatever a corpus holds stays data: nothing in it closes a tag.
        "/*FACTS*/": data.replace("<", "\\u003c"),
    }
    page = (shared / "frame.html").read_text("utf-8")
    for mark, content in parts.items():
        before, _, after = page.partition(mark)
        page = before + content + after
    Folder(out).write_atomic("index.html", page.encode())
    return Path(out) / "index.html"
