"""Hypothesis strategies for JSON values and events, odd ones preferred."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from homeserver.protocol.versions import MAX_INTEGER, VERSIONS

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    [
        "",
        "\x00\x1f\x7f\x80",
        '"\\/\b\f\n\r\t',
        "\u2028\u2029\ufeff\ufffd\uffff",
        "\U0001f600\U0010ffff",
        "e\u0301 é",
        "\ud7ff\ue000",
        '","event_id":"$x","sender":"@y:z"}',
    ]
)
INTEGERS = st.integers(-MAX_INTEGER, MAX_INTEGER) | st.sampled_from([0, -1, MAX_INTEGER, -MAX_INTEGER])
ODD_NUMBERS = (
    st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(min_value=MAX_INTEGER + 1)
    | st.integers(max_value=-MAX_INTEGER - 1)
    | st.sampled_from([2**63, 2**64, 10**30, -(10**30), 1e16, 1e-7, -0.0, 1e10])
)


def json_values(numbers: st.SearchStrategy[Any] = INTEGERS) -> st.SearchStrategy[Any]:
    """Values of JSON whose numbers come from ``numbers``."""
    return st.recursive(
        st.none() | st.booleans() | numbers | TEXT,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=5),
        max_leaves=25,
    )


def json_objects(numbers: st.SearchStrategy[Any] = INTEGERS) -> st.SearchStrategy[dict[str, Any]]:
    """Objects of JSON whose numbers come from ``numbers``."""
    return st.dictionaries(TEXT, json_values(numbers), max_size=6)


VERSION = st.sampled_from(list(VERSIONS.values()))
SOME_TYPES = st.sampled_from(
    [
        "m.room.message",
        "m.room.encrypted",
        "m.room.member",
        "m.room.create",
        "m.room.power_levels",
        "m.room.join_rules",
        "m.room.aliases",
        "m.room.redaction",
    ]
)
EVENT_IDS = st.text(alphabet="abcXYZ019-_", min_size=43, max_size=43).map(lambda text: "$" + text)
EVENT_IDS_WITH_DOMAIN = st.text(alphabet='abcXYZ019-_,"\\é', max_size=20).map(lambda text: f"${text}:b.example")
