"""The locator finds each path of a document, on the line where it stands."""

import tomllib
from typing import Any

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from config.positions import locate
from config.problems import KeyPath, dotted

TEXT = '''\
# a comment with [brackets] and = signs
title = "a # not a comment"   # but this is
dotted.key . "with space" = 1

[server.tls]           # line 5
"odd.key" = """
line one \\""" ] still
"""
next = \'\'\'it's
fine\'\'\'
after = 1979-05-27 07:32:00

[[flows]]
to = [   # line 14
  "IR",
  # between
  ["a", "b"], { x = 1,
  }]
[flows.inner]
deep = { a = { b.c = [1, { d = 2 }] }, e = "}" }
[[flows]]
to = []
[flows.inner]
deep = {}
[[flows.inner.more]]
x = 1
[server]
z = 1
'''.replace(" { x = 1,\n  }]", " { x = 1 }\n  ]")

EXPECTED = {
    "title": 2,
    "dotted": 3,
    "dotted.key": 3,
    "dotted.key.with space": 3,
    "server.tls": 5,
    "server.tls.odd.key": 6,
    "server.tls.next": 9,
    "server.tls.after": 11,
    "flows": 13,
    "flows[0]": 13,
    "flows[0].to": 14,
    "flows[0].to[0]": 15,
    "flows[0].to[1]": 17,
    "flows[0].to[1][0]": 17,
    "flows[0].to[1][1]": 17,
    "flows[0].to[2]": 17,
    "flows[0].to[2].x": 17,
    "flows[0].inner": 19,
    "flows[0].inner.deep": 20,
    "flows[0].inner.deep.a": 20,
    "flows[0].inner.deep.a.b": 20,
    "flows[0].inner.deep.a.b.c": 20,
    "flows[0].inner.deep.a.b.c[0]": 20,
    "flows[0].inner.deep.a.b.c[1]": 20,
    "flows[0].inner.deep.a.b.c[1].d": 20,
    "flows[0].inner.deep.e": 20,
    "flows[1]": 21,
    "flows[1].to": 22,
    "flows[1].inner": 23,
    "flows[1].inner.deep": 24,
    "flows[1].inner.more": 25,
    "flows[1].inner.more[0]": 25,
    "flows[1].inner.more[0].x": 26,
    "server": 27,
    "server.z": 28,
}


def paths(value: Any, path: KeyPath = ()) -> set[KeyPath]:
    found: set[KeyPath] = {path} if path else set()
    steps: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        steps = list(value.items())
    elif isinstance(value, list):
        steps = list(enumerate(value))
    for step, below in steps:
        found |= paths(below, (*path, step))
    return found


def test_every_path_has_its_line() -> None:
    assert paths(tomllib.loads(TEXT)) == set(locate(TEXT))
    assert {dotted(path): line for path, line in locate(TEXT).items()} == EXPECTED


def test_windows_line_ends_count_once() -> None:
    assert locate("a = 1\r\n\r\n[b]\r\nc = '''x\r\ny'''\r\nd = 1\r\n") == {
        ("a",): 1,
        ("b",): 3,
        ("b", "c"): 4,
        ("b", "d"): 6,
    }


@pytest.mark.parametrize(
    "text", ["", "\n", "# only\n", "a = 1", 'a = """"""\nb = 1', "a = '''''''\nb = 1", 'a = """"x"""""\nb = 1']
)
def test_small_texts(text: str) -> None:
    assert set(locate(text)) == paths(tomllib.loads(text))
    assert locate(text).get(("b",), 2) == 2


KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\0\x7f", exclude_categories=["Cc", "Cs"]), max_size=6)
SCALARS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    st.floats(allow_nan=False),
    st.datetimes(),
    st.dates(),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])),
    st.sampled_from(['"""', "'''", "# no", "a]b", "{", "\\", "x\ny", 'q"']),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_all_paths_of_any_document_are_found(document: dict[str, Any]) -> None:
    text = tomlkit.dumps(document)
    lines = locate(text)
    assert set(lines) == paths(tomllib.loads(text))
    rows = text.split("\n")
    for path, line in lines.items():
        if isinstance(path[-1], str) and path[-1].isalnum() and path[-1].isascii():
            assert path[-1] in rows[line - 1]
