"""Every link into the Matrix specification names a page and an anchor that version 1.19 has.

A link is written ``spec: client-server-api/#login``: the page under spec.matrix.org/v1.19/ and the anchor.
``scripts/anchors`` makes the list of valid ones.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SPEC = re.compile(r"\bspec\s?[:=]\s*[\"'(]?((?:[\w./-]*#[\w.-]*(?:,\s+|\s+and\s+)?)+)")
LINK = re.compile(r"([\w./-]*)#([\w.-]*)")
ANSWER = re.compile(r"_(?:request|response)(?:-\w+)?$")


@cache
def anchors() -> frozenset[str]:
    return frozenset((ROOT / "tests/vectors/spec-anchors.txt").read_text(encoding="utf-8").split())


def links(text: str) -> list[str]:
    """Every link after ``spec:`` in a comment or docstring, or in a ``spec=`` argument."""
    found: list[str] = []
    for match in SPEC.finditer(text):
        found += [f"{page}#{anchor.rstrip('.')}" for page, anchor in LINK.findall(match[1])]
    return found


def exists(link: str) -> bool:
    return ANSWER.sub("", link) in anchors()


def test_the_links_of_every_module_exist() -> None:
    paths = [path for top in ("config", "homeserver", "federation", "tests") for path in ROOT.glob(f"{top}/**/*.py")]
    found = {
        (path.relative_to(ROOT).as_posix(), link)
        for path in sorted(paths)
        if path != Path(__file__) and "node_modules" not in path.parts
        for link in links(path.read_text(encoding="utf-8"))
    }
    assert len(found) > 20, "the links were not found: has their form changed?"
    assert [(name, link) for name, link in sorted(found) if not exists(link)] == []


@pytest.mark.parametrize(
    "text",
    [
        '"""Log in. spec: client-server-api/#no-such-anchor"""',
        "# spec: client-server/#login",
        "# spec: client-server-api#login",
        "# spec: #login",
        'spec="client-server-api/#get_matrixclientv3sinc"',
        "spec: client-server-api/#login, server-server-api/#lacking",
    ],
)
def test_a_wrong_link_is_seen(text: str) -> None:
    assert links(text)
    assert not all(exists(link) for link in links(text))


def test_right_links_are_read_whole() -> None:
    text = (
        "See spec: client-server-api/#login, rooms/v12/#authorisation-rules\n"
        '@route(spec="client-server-api/#get_matrixclientv3sync_response-200")  # spec: appendices/#canonical-json.'
    )
    found = links(text)
    assert found == [
        "client-server-api/#login",
        "rooms/v12/#authorisation-rules",
        "client-server-api/#get_matrixclientv3sync_response-200",
        "appendices/#canonical-json",
    ]
    assert all(exists(link) for link in found)
