"""What uploads say of themselves, made safe to say again in a header."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote

OPAQUE: Final = "application/octet-stream"

INLINE: Final = frozenset(
    {
        "text/css",
        "text/plain",
        "text/csv",
        "application/json",
        "application/ld+json",
        "image/jpeg",
        "image/gif",
        "image/png",
        "image/apng",
        "image/webp",
        "image/avif",
        "video/mp4",
        "video/webm",
        "video/ogg",
        "video/quicktime",
        "audio/mp4",
        "audio/webm",
        "audio/aac",
        "audio/mpeg",
        "audio/ogg",
        "audio/wave",
        "audio/wav",
        "audio/x-wav",
        "audio/x-pn-wav",
        "audio/flac",
        "audio/x-flac",
    }
)
"""What a browser may show in place. spec: client-server-api/#serving-inline-content"""

_PART: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}"
_CONTENT_TYPE: Final = re.compile(rf"({_PART}/{_PART})(?:[ \t]*;[\x20-\x7e\t]*)?")
_LONGEST: Final = 255
_UNWANTED: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LONGEST_HEADER: Final = 4096
_EXTENDED_NAME: Final = re.compile(r";\s*filename\*\s*=\s*utf-8'[^']*'([^;\s]+)", re.IGNORECASE)
_QUOTED_NAME: Final = re.compile(r';\s*filename\s*=\s*"((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_TOKEN_NAME: Final = re.compile(r";\s*filename\s*=\s*([^;\s\"]+)", re.IGNORECASE)
_ESCAPED: Final = re.compile(r"\\(.)")
_PLAIN: Final = re.compile(r"[\x20-\x7e]*")


def content_type(header: str | None) -> str:
    """The Content-Type of an upload as it is stored; what is none counts as bytes without a meaning."""
    text = (header or "").strip()
    return text if len(text) <= _LONGEST and _CONTENT_TYPE.fullmatch(text) else OPAQUE


def file_name(text: str | None) -> str | None:
    """The name of an upload as it is stored: without control characters, and no path; None when nothing is left."""
    cleaned = _UNWANTED.sub("", text or "").replace("/", "_").replace("\\", "_")[:_LONGEST].strip()
    return cleaned if cleaned not in ("", ".", "..") else None


def disposition(kind: str, filename: str | None) -> str:
    """The Content-Disposition for content of this type.

    spec: client-server-api/#serving-inline-content
    """
    how = "inline" if kind.partition(";")[0].strip().lower() in INLINE else "attachment"
    if filename is None:
        return how
    if _PLAIN.fullmatch(filename):
        return '{}; filename="{}"'.format(how, filename.replace('"', r"\""))  # file_name() left no backslash
    return f"{how}; filename*=utf-8''{quote(filename, safe='')}"


def filename_in(header: str | None) -> str | None:
    """The name of the file in a Content-Disposition of another server; None when there is none that can be read."""
    text = (header or "")[:_LONGEST_HEADER]
    extended = _EXTENDED_NAME.search(text)
    if extended is not None:
        try:
            return file_name(unquote(extended[1], errors="strict"))
        except UnicodeDecodeError:
            return None
    found = _QUOTED_NAME.search(text) or _TOKEN_NAME.search(text)
    return None if found is None else file_name(_ESCAPED.sub(r"\1", found[1]))
