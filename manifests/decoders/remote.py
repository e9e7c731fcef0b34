"""Fetches a file, or a range of its bytes, from an object store or over HTTP.

Web servers are asked by the standard library alone: no package beyond the base is needed, and a
range is one request. Redirects lead to http and https only, and no credentials are sent.
"""

from __future__ import annotations

import functools
import http.client
import urllib.request
from urllib.error import HTTPError

from manifests.audio_address import ByteRange
from manifests.errors import AudioError, StoreError
from manifests.storage import filesystem

TIMEOUT_S = 60.0
"""Seconds without an answer from a web server after which it counts as unreachable."""
MAX_BYTES = 1 << 32
"""Bytes of one clip's audio that are fetched at most: an hour of 24-channel WAV at 48 kHz."""
GONE = (404, 410)


def fetch(file: str, part: ByteRange | None) -> bytes:
    """The bytes of a file at an address with a scheme.

    Raises:
        AudioError: the range is not in the file, or the web server does not have the file or
            does not serve ranges.
        StoreError: a web server did not answer.
        OSError: an object store did not answer, or does not have the file.
    """
    if part is not None and part.size > MAX_BYTES:
        raise AudioError("unreadable", f"{file}{part} is larger than {MAX_BYTES} bytes")
    if file.startswith(("http://", "https://")):
        return _fetch_http(file, part)
    files, path = filesystem(file)
    if part is None:
        with files.open_input_stream(path) as stream:
            return stream.read()
    with files.open_input_file(path) as stream:
        check_inside(file, part, stream.size())
        return stream.read_at(part.size, part.first)


def check_inside(file: str, part: ByteRange, size: int) -> None:
    """Checks a range against its file.

    Raises:
        AudioError: the range goes beyond the end.
    """
    if part.last >= size:
        raise AudioError(
            "unreadable",
            f"{file}{part} is beyond the file's end, which has {size} bytes: it was cut off or "
            "replaced",
        )


def _fetch_http(file: str, part: ByteRange | None) -> bytes:
    url = urllib.request.quote(file, safe=":/?&=%~+,;@!$'()*[]")  # type: ignore[attr-defined]
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    if part is not None:
        request.add_header("Range", f"bytes={part.first}-{part.last}")
    try:
        with _opener().open(request, timeout=TIMEOUT_S) as answer:
            if part is not None and answer.status != 206:
                raise AudioError(
                    "unreadable",
                    f"{file}: the web server ignores ranges of bytes; copy the file to a disk or "
                    "an object store",
                )
            data = answer.read(MAX_BYTES + 1)
            missing = answer.length
    except HTTPError as error:
        if error.code in GONE:
            raise AudioError("missing", f"{file} is not there (HTTP {error.code})") from None
        if error.code == 416:
            raise AudioError("unreadable", f"{file}{part} is beyond the file's end") from None
        raise StoreError(f"{file} could not be fetched: HTTP {error.code}") from None
    except (OSError, http.client.HTTPException) as error:
        raise StoreError(f"{file} could not be fetched: {error}") from None
    if len(data) > MAX_BYTES:
        raise AudioError("unreadable", f"{file} is larger than {MAX_BYTES} bytes")
    if missing:
        raise StoreError(f"{file} could not be fetched: {missing} bytes are missing")
    if part is not None and len(data) != part.size:
        raise AudioError("unreadable", f"{file}{part} is beyond the file's end")
    return data


@functools.cache
def _opener() -> urllib.request.OpenerDirector:
    """An opener for http and https alone: not for file:, ftp: and data:."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener
