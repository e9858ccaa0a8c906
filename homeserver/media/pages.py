"""What a web page says of itself in its head, for a preview: the Open Graph protocol, and what pages without it have.

Pages come from anybody: each is read once from its beginning to its end, and no further than heads are long.
"""

from __future__ import annotations

import codecs
import html
import re
from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST_TAG: Final = 8192
"""Characters; what is longer is taken for a tag that never ends."""
MOST_TAGS: Final = 20_000
MOST_ATTRIBUTES: Final = 50
"""Of one tag; those after them are not read."""
LONGEST_TITLE: Final = 300
LONGEST_DESCRIPTION: Final = 1000
LONGEST_ADDRESS: Final = 2000
BEGINNING: Final = 2048
"""Bytes in which a page says how it is encoded."""

_EAST: Final = ("shift_jis", "euc-jp", "iso2022_jp", "cp932", "gb2312", "gbk", "gb18030", "big5", "euc-kr", "cp949")
CHARSETS: Final = frozenset(
    codecs.lookup(name).name
    for name in (
        *("utf-8", "utf-16", "utf-16-le", "utf-16-be", "koi8-r", "koi8-u", "cp866", "cp874", "tis-620", "mac_cyrillic"),
        *_EAST,
        *(f"cp{number}" for number in range(1250, 1259)),
        *(f"iso8859-{number}" for number in range(2, 17) if number != 12),
    )
)
"""Encodings that pages have. Python knows others, some of which take long over little, and some that are none."""

_HEADER_CHARSET: Final = re.compile(r"charset\s*=\s*[\"']?([A-Za-z0-9._:-]{1,40})", re.IGNORECASE)
_PAGE_CHARSET: Final = re.compile(
    rb"<(?:meta|\?xml)\b[^>]{0,300}?\b(?:charset|encoding)\s*=\s*[\"']?([A-Za-z0-9._:-]{1,40})", re.IGNORECASE
)
_NAME: Final = re.compile(r"/?[A-Za-z][A-Za-z0-9:-]{0,30}")
_REST: Final = re.compile(r"""(?:[^>"']|"[^"]*+"|'[^']*+')*+>""")
_ATTRIBUTE: Final = re.compile(r"""([^\s"'<>/=]+)(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'=<>`]+)))?""")
_RAW: Final = {
    name: re.compile(rf"</{name}\b", re.IGNORECASE | re.ASCII)
    for name in ("script", "style", "title", "noscript", "template", "textarea", "svg")
}
"""Elements whose content is not looked into, and their ends."""
_SPACE: Final = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff]+")
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)

_TEXTS: Final = {
    "og:title": (LONGEST_TITLE, ("og:title", "twitter:title", "title")),
    "og:description": (LONGEST_DESCRIPTION, ("og:description", "twitter:description", "description")),
    "og:site_name": (LONGEST_TITLE, ("og:site_name",)),
    "og:type": (LONGEST_TITLE, ("og:type",)),
    "og:image:alt": (LONGEST_TITLE, ("og:image:alt",)),
}
_PICTURES: Final = ("og:image:secure_url", "og:image", "og:image:url", "twitter:image", "image_src")


def decoded(page: bytes, content_type: str) -> str:
    """The text of a page: as it was said to be encoded, or it says itself, or else UTF-8. What cannot be read becomes
    U+FFFD.
    """
    for mark, charset in ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if page.startswith(mark):
            return page.decode(charset, "replace").removeprefix("\ufeff")
    said = _HEADER_CHARSET.search(content_type)
    within = _PAGE_CHARSET.search(page, 0, BEGINNING)
    names = [said[1]] if said else []
    if within:
        names.append(within[1].decode("ascii"))
    for name in names:
        known = _charset(name)
        if known is not None:
            return page.decode(known, "replace")
    return page.decode("utf-8", "replace")


def _charset(name: str) -> str | None:
    """The encoding of this name as pages mean it, None for one that no page has."""
    try:
        found = codecs.lookup(name).name
    except (LookupError, ValueError):
        return None
    if found in ("iso8859-1", "ascii"):
        return "cp1252"  # which is what browsers take it for
    return found if found in CHARSETS else None


def properties(page: str) -> dict[str, str]:
    """What the head of a page says, by the names of the Open Graph protocol; ``og:image`` as it is written there.

    spec: client-server-api/#get_matrixclientv1mediapreview_url
    """
    said: dict[str, str] = {}
    for name, content in _statements(page):
        said.setdefault(name, content)  # of several pictures the first
    found = {}
    for name, (longest, sources) in _TEXTS.items():
        text = next((text for source in sources if (text := plain(said.get(source, ""), longest))), None)
        if text is not None:
            found[name] = text
    picture = next((text for source in _PICTURES if (text := said.get(source, "").strip())), None)
    if picture is not None and len(picture) <= LONGEST_ADDRESS:
        found["og:image"] = picture
        for name in ("og:image:width", "og:image:height"):
            if _NUMBER.fullmatch(said.get(name, "").strip()):
                found[name] = said[name].strip()
    return found


def plain(text: str, longest: int) -> str:
    """A text on one line, without characters that turn or hide others, no longer than that."""
    text = _SPACE.sub(" ", text[: 4 * longest]).strip()
    return text if len(text) <= longest else f"{text[: longest - 1].rstrip()}…"


def _statements(page: str) -> Iterator[tuple[str, str]]:
    """Names and values that the head of a page has, with their entities resolved."""
    for tag, attributes in _tags(page):
        if tag == "title":
            yield "title", attributes[""]
        elif tag == "link":
            if "image_src" in attributes.get("rel", "").lower().split():
                yield "image_src", attributes.get("href", "")
        else:
            name = attributes.get("property") or attributes.get("name") or ""
            if name and "content" in attributes:
                yield name.strip().lower(), attributes["content"]


def _tags(page: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The tags ``meta`` and ``link`` of a head with their attributes; a ``title``, whose text has the name ''.

    The place where it reads never goes back, and whatever has no end ends the page.
    """
    at = 0
    for _ in range(MOST_TAGS):
        at = page.find("<", at)
        if at < 0:
            return
        if page.startswith("<!--", at):
            end = page.find("-->", at + 4)
            if end < 0:
                return
            at = end + 3
            continue
        name = _NAME.match(page, at + 1)
        if name is None:
            at += 1
            continue
        rest = _REST.match(page, name.end(), name.end() + LONGEST_TAG)
        if rest is None:
            return
        tag, at = name[0].lower(), rest.end()
        if tag in ("body", "/head"):
            return
        if tag in ("meta", "link"):
            yield tag, _attributes(rest[0])
        if tag in _RAW:
            end_tag = _RAW[tag].search(page, at)
            if end_tag is None:
                return
            if tag == "title":
                yield tag, {"": html.unescape(page[at : min(end_tag.start(), at + LONGEST_TAG)])}
            at = end_tag.start() + 1


def _attributes(rest: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for match in islice(_ATTRIBUTE.finditer(rest), MOST_ATTRIBUTES):
        name, *values = match.groups()
        found.setdefault(name.lower(), html.unescape(next((value for value in values if value is not None), "")))
    return found
