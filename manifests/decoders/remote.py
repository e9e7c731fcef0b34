"""Fetches a whole file, or a range of its bytes, from an object store or a web server."""

from __future__ import annotations

from manifests import web
from manifests.audio_address import ByteRange
from manifests.decoders.ranged import check_inside
from manifests.errors import AudioError
from manifests.storage import filesystem


def fetch(file: str, part: ByteRange | None) -> bytes:
    """Returns the bytes of a file at an address with a scheme.

    Raises:
        AudioError: the range is not in the file, or the web server does not serve ranges.
        FileNotFoundError: there is no such file.
        OSError: the object store or the web server did not answer.
        ValueError: the file is too large.
    """
    if part is not None and part.size > web.MAX_BYTES:
        raise AudioError("unreadable", f"{file}{part} is larger than {web.MAX_BYTES} bytes")
    if file.startswith(web.SCHEMES):
        return _fetch_web(file, part)
    files, path = filesystem(file)
    if part is None:
        with files.open_input_stream(path) as stream:
            return stream.read()
    with files.open_input_file(path) as stream:
        check_inside(file, part, stream.size())
        return stream.read_at(part.size, part.first)


def _fetch_web(file: str, part: ByteRange | None) -> bytes:
    if part is None:
        return web.get(file).data
    answer = web.get(file, part.first, part.last)
    if answer.ignores_ranges:
        raise AudioError("unreadable", web.no_ranges(file))
    if len(answer.data) != part.size:
        raise AudioError("unreadable", f"{file}{part} is beyond the file's end")
    return answer.data
