"""Tests for the progress bars of a build in a terminal of 80 columns."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.terminal import record_terminal

ROOT = Path(__file__).parents[3]
SCRIPT = """
import sys, time
from collections import Counter
from pathlib import Path
from manifests.console import messages
from pipeline.build.progress import BuildProgress
with BuildProgress({"sound_event": 4000, "asr": 4000}, messages) as progress:
    progress.tick(); time.sleep(0.4)
    progress.workers(2, 1.0)
    for _ in range(5):
        progress.clips_done("sound_event", 500, 3600.0, 3)
        progress.tick(); time.sleep(0.4)
"""


def test_progress_bar_of_each_teacher_fits_into_80_columns() -> None:
    session = record_terminal([sys.executable, "-c", SCRIPT], cwd=ROOT)
    assert session.exit_code == 0, session.last
    lines = session.lines()
    assert [line for line in lines if re.match(r"^ +asr \S+ +0/4,000 loading models", line)], lines
    full = re.compile(
        r"^ sound_event \S+ +\d,\d00/4,000 \d\.00 h, [\d,.]+ x real time, \d+ failed +\d+ min$"
    )
    assert [line for line in lines if full.match(line)], lines
    assert not [line for line in lines if "\N{HORIZONTAL ELLIPSIS}" in line], lines
