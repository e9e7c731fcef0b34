"""Builds a corpus from a folder with labels in its paths: `LABEL/SPEAKER_anything.wav`.

    PYTHONPATH=/path/to/coat-distill python -m examples.own_corpus recordings/ --out corpus/

`coat-corpus build recordings/` can read the same folder, but cannot interpret its names. A clip
is one row with the location of the audio and its labels, which can be any JSON values.
`lengths.fill` reads the lengths of clips from the headers of their files; without them,
`coat-corpus stats` and `coat-cache plan` can only say that they are unknown. After you have added
recordings, run the program again: it adds only the new ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from manifests.clips import Clip
from manifests.corpus import corpus, lengths
from manifests.corpus.source_index import SourceIndex
from manifests.corpus.sources import folder
from manifests.errors import UserError


def clips(recordings: str | Path) -> Iterator[Clip]:
    """Yields all recordings in a fixed order, with labels from their paths.

    Args:
        recordings: Folder of folders of audio; a `.txt` file beside a recording is its transcript.
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
    with_lengths = lengths.fill(clips(options.recordings), options.recordings, SourceIndex())
    made = corpus.build(with_lengths, options.out)
    print(f"{options.out}: {made.num_clips} clips, {made.seconds / 3600:.3f} h")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
