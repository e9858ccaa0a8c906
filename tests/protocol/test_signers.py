"""Which servers must have signed an event, by room version."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.protocol.signers import required_signers
from homeserver.protocol.versions import VERSIONS, RoomRules
from tests.protocol.rooms import ALICE, BOB, Sent

RULES = pytest.mark.parametrize("rules", VERSIONS.values(), ids=VERSIONS)
INVITED = {"membership": "invite", "third_party_invite": {"signed": {"mxid": BOB, "token": "t"}}}


def signers(rules: RoomRules, event_type: str, content: dict[str, Any], domain: str = "a.example") -> set[str]:
    event_id = "$" + "e" * 43 if rules.event_id_is_hash else f"$e:{domain}"
    room_id = "!" + "r" * 43 if rules.room_id_is_create_hash else "!r:r.example"
    return set(required_signers(rules, Sent(event_id, room_id, event_type, ALICE, content, BOB)))


@RULES
def test_the_server_of_the_sender_signs(rules: RoomRules) -> None:
    assert signers(rules, "m.room.message", {}) == {"a.example"}
    assert signers(rules, "m.room.message", INVITED) == {"a.example"}
    assert signers(rules, "m.room.member", {"membership": "invite"}) == {"a.example"}
    assert signers(rules, "m.room.member", {**INVITED, "membership": "join"}) == {"a.example"}


@RULES
def test_in_the_first_versions_the_server_in_the_event_id_signs_too(rules: RoomRules) -> None:
    """spec: server-server-api/#validating-hashes-and-signatures-on-received-events"""
    named = {"x.example:8448"} if rules.version in ("1", "2") else set()
    assert signers(rules, "m.room.message", {}, "x.example:8448") == {"a.example"} | named
    assert signers(rules, "m.room.member", INVITED, "x.example:8448") == named


@RULES
def test_who_admits_to_a_restricted_room_signs(rules: RoomRules) -> None:
    """spec: rooms/v8/#authorisation-rules"""
    content = {"membership": "join", "join_authorised_via_users_server": "@x:x.example"}
    expected = {"a.example", "x.example"} if rules.restricted_join else {"a.example"}
    assert signers(rules, "m.room.member", content) == expected
