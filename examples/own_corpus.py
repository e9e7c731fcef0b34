"""A corpus of one's own from a folder whose layout says something: `LABEL/SPEAKER_anything.wav`.

    python -m examples.own_corpus recordings/ --out corpus/

`coat-corpus build recordings/` would take the same folder, but cannot know what its names mean. A
clip is one row: where the audio is and what is known of it; anything that JSON can hold is a label.
Run it again after recordings were added, and only those are new.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from manifests.clips import Clip
from manifests.corpus import corpus
from manifests.corpus.sources import folder


def clips(recordings: str | Path) -> Iterator[Clip]:
    """Every recording, in an order that stays, with what its path says of it.

    Args:
        recordings: Folder of folders of audio; a `.txt` beside a file is what is said in it.
    """
    for clip in folder.clips(str(recordings)):
        path = Path(clip.uri)
        labels = {"sound": path.parent.name.replace("-", " ")}
        speaker, underscore, _ = path.stem.partition("_")
        if underscore:
            labels["speaker"] = speaker
        yield replace(clip, labels=labels)


def main() -> None:
    """Builds the corpus."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings")
    parser.add_argument("--out", default="corpus")
    options = parser.parse_args()
    made = corpus.build(clips(options.recordings), options.out)
    print(f"{options.out}: {made.num_clips} clips, {made.seconds / 3600:.3f} h")


if __name__ == "__main__":
    main()
