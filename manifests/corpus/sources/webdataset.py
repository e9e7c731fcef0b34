"""Reads WebDataset tars, in which the members of one sample follow each other and share a key.

    speech/000.flac  speech/000.json  speech/000.txt      one sample, whose key is speech/000

The audio stays in the tar. `txt` is the text. The fields of `json` become labels (without a `txt`,
a transcript among them is the text), and so do members such as `cls` or `speaker.txt`. A clip's id
is its sample's key.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

from manifests.clips import Clip
from manifests.corpus.source_index import Member, SourceIndex
from manifests.corpus.sources.folder import AUDIO
from manifests.corpus.sources.json_lines import TEXT_KEYS, number
from manifests.corpus.sources.tar_index import Tar, read_tars
from manifests.errors import UserError
from manifests.storage import Folder

log = logging.getLogger(__name__)

_NAME = re.compile(r"((?:.*/|)[^./]+)\.([^/]*)")
"""A key and the part after the first dot of the file name, as the package webdataset splits it."""
IS_TAR = re.compile(r"\.(tar|tgz|tar\.\w+)$", re.IGNORECASE)
_MANIFEST = re.compile(r"(cuts\.|.*manifest).*\.jsonl?(\.gz)?$")
"""Manifests that lhotse's Shar and NeMo write next to tars."""
TEXT = ("txt", "text", "transcript")
NUMBER = ("cls", "cls2", "class", "count", "index", "inx", "id")
JSON = ("json", "jsn")
_SMALL = re.compile(rf"\.({'|'.join((*TEXT, *NUMBER, *JSON))})$", re.IGNORECASE)


def tars_within(folder: Folder) -> list[str]:
    """Paths or addresses of a folder's tars, sorted; compressed ones too.

    For a folder that also contains audio files or other folders, the result is empty.

    Raises:
        UserError: there is a manifest, whose texts would be missing.
    """
    try:
        names = [name for name in folder.names() if not name.startswith(".")]
    except UnicodeDecodeError:  # The walk through the audio folder reports the invalid name.
        return []
    if any(PurePosixPath(name).suffix.lower() in AUDIO for name in names):
        return []
    manifest = next((name for name in names if _MANIFEST.match(name)), None)
    names = [name for name in names if IS_TAR.search(name)]
    if names and manifest:
        raise UserError(
            f"{folder.uri} holds {manifest} beside its tars, so these are not WebDataset's; for a "
            f"tarred set of NeMo give {folder.uri}/{manifest}; for plain WebDataset move the "
            "manifest elsewhere"
        )
    if not names or any(not name.startswith(".") for name in folder.folders()):
        return []
    return [folder.path(name) if folder.is_local else f"{folder.uri}/{name}" for name in names]


def clips(
    source: str,
    tars: Sequence[str],
    index: SourceIndex,
    *,
    ids_by_tar: bool = False,
    excluded: Collection[str] = (),
) -> Iterator[Clip]:
    """Yields the samples of tars as clips, in the order of the tars and of their samples.

    Args:
        source: The source as the user gave it, for messages.
        tars: Paths or addresses.
        index: Index of the corpus, which remembers what was read.
        ids_by_tar: Put the tar's name before each id, where keys repeat from tar to tar.
        excluded: TAR/KEY of samples that are left out.

    Raises:
        UserError: a tar or a sample cannot be used, or no sample has audio.
    """
    passed_over: Counter[str] = Counter()
    count = 0
    for tar in read_tars(tars, _SMALL, index=index):
        for key, sample in _samples(tar, passed_over):
            if f"{tar.uri}/{key}" in excluded:
                passed_over["excluded samples"] += 1
                continue
            try:
                clip_id = f"{PurePosixPath(tar.uri).stem}/{key}" if ids_by_tar else key
                clip = _clip(tar, clip_id, sample, passed_over)
            except (UserError, ValueError) as error:
                raise UserError(f"{tar.uri}, sample {key}: {error}") from None
            if clip is not None:
                count += 1
                yield clip
    what = ", ".join(f"{count:,} {name}" for name, count in passed_over.most_common())
    if not count:
        raise UserError(
            f"{source} holds no sample with audio (skipped {what or 'nothing'}); expected "
            "tars with members such as 000.flac and 000.json"
        )
    if what:
        log.warning("%s: skipped %s", source, what)


def _samples(tar: Tar, passed_over: Counter[str]) -> Iterator[tuple[str, dict[str, Member]]]:
    """Yields each key, and its members by suffix in lower case."""
    named = []
    for member in tar.members:
        match = _NAME.fullmatch(member.name)
        is_note = "/" not in member.name and re.fullmatch(r"__.*__", member.name)
        if match and not is_note:
            named.append((match[1], match[2].lower(), member))
        elif not is_note:
            passed_over["hidden members and members without an extension"] += 1
    has_audio: dict[str, bool] = {}
    for key, group in groupby(named, lambda each: each[0]):
        sample: dict[str, Member] = {}
        for _, suffix, member in group:
            if suffix in sample:
                raise UserError(
                    f"{tar.uri}: two members {key}.{suffix} follow each other; give each sample a "
                    "key of its own"
                )
            sample[suffix] = member
        with_audio = any(map(_is_audio, sample))
        if key in has_audio and not (with_audio and has_audio[key]):
            raise UserError(
                f"{tar.uri}: the members of the sample {key} do not follow each other, so they "
                "would be samples of their own; write the tar sorted by name (tar --sort=name)"
            )
        has_audio[key] = with_audio
        yield key, sample


def _is_audio(suffix: str) -> bool:
    return f".{suffix.rpartition('.')[2]}" in AUDIO


def _clip(
    tar: Tar, clip_id: str, sample: dict[str, Member], passed_over: Counter[str]
) -> Clip | None:
    audio = list(filter(_is_audio, sample))
    if len(audio) > 1:
        raise UserError(
            f"found the audio members {', '.join(audio)}, expected one; a sample's key ends at the "
            "first dot of its members' names, so rename utt.001.flac to utt_001.flac, or write "
            "tars with one audio member each"
        )
    if not audio:
        passed_over["samples without audio"] += 1
        return None
    member = sample.pop(audio[0])
    if not member.size:
        passed_over["samples whose audio is empty"] += 1
        return None
    labels: dict[str, Any] = {}
    for name, each in sample.items():
        if each.content is None:
            passed_over[f"members .{name}"] += 1
            continue
        labels |= _labels(name, each.content)
    texts = [each for each in (*TEXT, *TEXT_KEYS) if isinstance(labels.get(each), str)]
    text = labels.pop(texts[0]) or None if texts else None
    seconds = labels.get("duration")
    uri = tar.address(member)
    estimate = None
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds > 0:
        estimate = number(labels, "duration")
    return Clip(clip_id=clip_id, uri=uri, text=text, labels=labels, estimated_duration=estimate)


def _labels(name: str, content: bytes) -> dict[str, Any]:
    """The labels in a small member."""
    kind = name.rpartition(".")[2]
    try:
        if kind in JSON:
            value = json.loads(content)
            if b"\\u" in content:
                json.dumps(value, ensure_ascii=False).encode()  # Half a character is none.
            whole = isinstance(value, dict) and name == kind
            return value if whole else {name.removesuffix(f".{kind}"): value}
        value = content.decode("utf-8-sig").strip()
        if kind in NUMBER:
            return {name: int(value) if re.fullmatch(r"-?[0-9]{1,18}", value) else value}
    except (ValueError, RecursionError) as error:
        raise UserError(f"the member .{name} cannot be read ({error}); mend it") from None
    return {name if name == kind else name.removesuffix(f".{kind}"): value}
