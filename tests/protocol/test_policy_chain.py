"""The chain of a policy's versions: whatever is changed in it, dropped from it or put into it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest

from homeserver.protocol import canonical
from homeserver.protocol.errors import BadJson
from homeserver.protocol.policy_chain import (
    Approval,
    How,
    Link,
    Version,
    approve,
    approves,
    chain_faults,
    digest,
    read,
    signed,
)
from homeserver.protocol.signing import SigningKey, sign_json

NAME = "example.org"
KEY = SigningKey("residency", b"k" * 32)
ANN, BEN = SigningKey("ann", b"a" * 32), SigningKey("ben", b"b" * 32)
PLAN = "f" * 64

FREE = "serial = {}\n"
ASKING = f"""serial = {{}}
[changes]
plan = true
approvals = 2
approvers = [
    {{{{ name = "ann", key = "{ANN.verify_key.base64}" }}}},
    {{{{ name = "ben", key = "{BEN.verify_key.base64}" }}}},
]
"""


def link(before: Link | None, serial: int, text: str, how: How, **more: Any) -> Link:
    version = Version(
        server_name=NAME,
        serial=serial,
        text_sha256=digest(text),
        previous=None if before is None else digest(before.record),
        time=1_700_000_000_000 + serial,
        how=how,
        **more,
    )
    return Link(serial, signed(version, KEY), text)


def approvals(*names: tuple[str, SigningKey], plan: str = PLAN) -> tuple[Approval, ...]:
    return tuple(approve(NAME, plan, name, key) for name, key in names)


def whole() -> list[Link]:
    """Five versions, one of each kind, of which the later ones need two approvals."""
    first = link(None, 3, FREE.format(3), How.FIRST)
    second = link(first, 4, ASKING.format(4), How.READ)
    both = approvals(("ann", ANN), ("ben", BEN))
    third = link(second, 5, ASKING.format(5), How.APPLIED, plan=PLAN, approvals=both)
    fourth = link(third, 6, FREE.format(6), How.ROLLED_BACK, plan=PLAN, restores=3, approvals=both)
    return [first, second, third, fourth, link(fourth, 7, FREE.format(7), How.READ)]


def faults(links: Sequence[Link]) -> dict[int, list[str]]:
    return chain_faults(links, NAME, KEY.verify_key)


def test_a_chain_that_holds() -> None:
    links = whole()
    assert faults(links) == {}
    assert chain_faults(links[2:], NAME, KEY.verify_key, before=links[1]) == {}
    assert read(links[3].record).restores == 3


def flipped(text: str, at: int = 0) -> str:
    return text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :]


def bent(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, str):
        return flipped(value)
    if isinstance(value, int):
        return value + 1
    if isinstance(value, list):
        return [*value, *value] if value else [{"name": "x", "key": "y", "signature": "z"}]
    if isinstance(value, Mapping):
        return {name: bent(inner) for name, inner in value.items()}
    return "x"


FIELDS = sorted(orjson.loads(whole()[2].record))


@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize("field", FIELDS)
def test_a_change_in_any_field_of_any_record_shows(at: int, field: str) -> None:
    links = whole()
    said = orjson.loads(links[at].record)
    said[field] = bent(said[field])
    links[at] = links[at]._replace(record=canonical.encode(said))
    assert links[at].serial in faults(links)


def test_a_change_of_any_byte_shows() -> None:
    links = whole()
    record = links[2].record
    for place in range(0, len(record), 7):
        changed = record[:place] + bytes([record[place] ^ 1]) + record[place + 1 :]
        assert 5 in faults([*links[:2], links[2]._replace(record=changed), *links[3:]]), place


@pytest.mark.parametrize("at", range(5))
def test_a_change_in_a_text_or_a_number_shows(at: int) -> None:
    links = whole()
    other = links[at]._replace(text=links[at].text + " ")
    assert any("not the one that was signed" in fault for fault in faults([*links[:at], other])[links[at].serial])
    other = links[at]._replace(serial=40)
    assert faults([*links[:at], other])[40]


def test_a_version_that_is_missing_shows() -> None:
    links = whole()
    for at in range(4):
        assert faults([*links[:at], *links[at + 1 :]]).keys() == {links[at + 1].serial}


def test_a_version_that_was_put_in_shows() -> None:
    """Even by somebody who has the key: what followed on the other one does not follow on this."""
    links = whole()
    forged = link(links[0], 4, "serial = 4 # mine", How.READ)
    assert faults([links[0], forged, *links[2:]]).keys() == {5}
    assert faults([*links, link(links[-1], 8, FREE.format(8), How.FIRST)]).keys() == {8}


def test_another_key_and_another_deployment_show() -> None:
    other = SigningKey("residency", b"x" * 32)
    first = whole()[0]
    forged = Link(3, canonical.encode(sign_json(_unsigned(first), NAME, other)), first.text)
    assert faults([forged])[3] == ["its record is not signed by this deployment's key"]
    foreign = Link(3, signed(replace(read(first.record), server_name="other.org"), KEY), first.text)
    assert 3 in faults([foreign])


def _unsigned(version: Link) -> dict[str, Any]:
    said: dict[str, Any] = orjson.loads(version.record)
    del said["signatures"]
    return said


def test_a_policy_that_asked_for_a_plan_and_was_replaced_without_one_shows() -> None:
    links = whole()[:2]
    (fault,) = faults([*links, link(links[1], 5, FREE.format(5), How.READ, approvals=())])[5][:1]
    assert "asked for a plan" in fault


@pytest.mark.parametrize(
    "given",
    [
        (),
        approvals(("ann", ANN)),
        approvals(("ann", ANN), ("ann", ANN)),
        approvals(("ann", ANN), ("ben", ANN)),
        approvals(("ann", ANN), ("eve", SigningKey("eve", b"e" * 32))),
        approvals(("ann", ANN), ("ben", BEN), plan="e" * 64),
        (*approvals(("ann", ANN)), approvals(("ben", BEN))[0]._replace(name="ben2")),
    ],
    ids=["none", "one", "one twice", "one under two names", "a stranger", "of another plan", "renamed"],
)
def test_too_few_approvals_show(given: tuple[Approval, ...]) -> None:
    links = whole()[:2]
    assert faults([*links, link(links[1], 5, FREE.format(5), How.APPLIED, plan=PLAN, approvals=given)]).keys() == {5}


def test_an_approval_is_of_one_plan_by_one_person_of_one_deployment() -> None:
    (yes,) = approvals(("ann", ANN))
    assert approves(yes, NAME, PLAN)
    assert not approves(yes, "other.org", PLAN)
    assert not approves(yes, NAME, "e" * 64)
    assert not approves(yes._replace(name="ben"), NAME, PLAN)
    assert not approves(yes._replace(signature="???"), NAME, PLAN)
    assert not approves(yes._replace(key="short"), NAME, PLAN)


@pytest.mark.parametrize("record", [b"", b"[]", b"{}", b'{"a": 1}', b"\xff"])
def test_what_is_no_record(record: bytes) -> None:
    with pytest.raises(BadJson):
        read(record)
