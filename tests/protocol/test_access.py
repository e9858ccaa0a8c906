"""History visibility as tables. spec: client-server-api/#room-history-visibility"""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.protocol.access import StateAccess, may_read_state, may_see, server_may_see, visibility_of
from tests.protocol.rooms import ALICE, BOB, Sent

MEMBERSHIPS = ("join", "invite", "knock", "leave", "ban")
VISIBILITIES = ("world_readable", "shared", "invited", "joined")


def sent(event_type: str = "m.room.encrypted", state_key: str | None = None, **content: Any) -> Sent:
    return Sent("$1", "!r:a.example", event_type, ALICE, content, state_key)


@pytest.mark.parametrize("membership", MEMBERSHIPS)
@pytest.mark.parametrize("visibility", VISIBILITIES)
@pytest.mark.parametrize("joined_later", [False, True])
@pytest.mark.parametrize("event", [sent(), sent("m.room.topic", "", topic="t"), sent("m.room.member", ALICE)])
def test_events_of_others(event: Sent, visibility: str, membership: str, joined_later: bool) -> None:
    expected = {
        "world_readable": True,
        "shared": membership == "join" or joined_later,
        "invited": membership in ("join", "invite"),
        "joined": membership == "join",
    }[visibility]
    assert may_see(event, BOB, visibility=visibility, membership=membership, joined_later=joined_later) == expected


@pytest.mark.parametrize("before", MEMBERSHIPS)
@pytest.mark.parametrize("after", MEMBERSHIPS)
@pytest.mark.parametrize("visibility", VISIBILITIES)
def test_one_s_own_membership_is_seen_from_either_side(visibility: str, before: str, after: str) -> None:
    event = sent("m.room.member", BOB, membership=after)
    seen = may_see(event, BOB, visibility=visibility, membership=before, joined_later=False)
    either = any(
        may_see(sent(), BOB, visibility=visibility, membership=each, joined_later=False) for each in (before, after)
    )
    assert seen == either
    for_alice = may_see(event, ALICE, visibility=visibility, membership=before, joined_later=False)
    assert for_alice == may_see(sent(), ALICE, visibility=visibility, membership=before, joined_later=False)


@pytest.mark.parametrize("before", VISIBILITIES)
@pytest.mark.parametrize("after", VISIBILITIES)
@pytest.mark.parametrize("membership", MEMBERSHIPS)
@pytest.mark.parametrize("joined_later", [False, True])
def test_a_change_of_visibility_is_seen_from_either_side(
    before: str, after: str, membership: str, joined_later: bool
) -> None:
    event = sent("m.room.history_visibility", "", history_visibility=after)
    seen = may_see(event, BOB, visibility=before, membership=membership, joined_later=joined_later)
    either = any(
        may_see(sent(), BOB, visibility=each, membership=membership, joined_later=joined_later)
        for each in (before, after)
    )
    assert seen == either


@pytest.mark.parametrize("state_key", [None, "x"])
def test_what_only_looks_like_a_change_of_visibility_is_none(state_key: str | None) -> None:
    event = sent("m.room.history_visibility", state_key, history_visibility="world_readable")
    assert not may_see(event, BOB, visibility="joined", membership="leave", joined_later=True)


@pytest.mark.parametrize("membership", [None, 5, ["join"]])
def test_a_broken_membership_shows_nothing(membership: object) -> None:
    event = sent("m.room.member", BOB, membership=membership)
    assert not may_see(event, BOB, visibility="joined", membership="leave", joined_later=False)


@pytest.mark.parametrize(
    ("event", "visibility"),
    [
        (None, "shared"),
        (sent("m.room.history_visibility", ""), "shared"),
        (sent("m.room.history_visibility", "", history_visibility="secret"), "shared"),
        (sent("m.room.history_visibility", "", history_visibility=["joined"]), "shared"),
        *[(sent("m.room.history_visibility", "", history_visibility=each), each) for each in VISIBILITIES],
    ],
)
def test_the_visibility_that_is_set(event: Sent | None, visibility: str) -> None:
    assert visibility_of(event) == visibility


@pytest.mark.parametrize(
    ("membership", "was_joined", "visibility", "access"),
    [
        *[("join", True, visibility, StateAccess.CURRENT) for visibility in VISIBILITIES],
        *[(membership, False, "world_readable", StateAccess.CURRENT) for membership in MEMBERSHIPS],
        ("leave", True, "world_readable", StateAccess.CURRENT),
        *[("leave", True, visibility, StateAccess.AT_LEAVING) for visibility in VISIBILITIES[1:]],
        *[("ban", True, visibility, StateAccess.AT_LEAVING) for visibility in VISIBILITIES[1:]],
        *[(membership, False, "shared", StateAccess.NONE) for membership in ("leave", "ban", "invite", "knock")],
        ("invite", True, "shared", StateAccess.NONE),
        ("knock", True, "invited", StateAccess.NONE),
    ],
)
def test_reading_the_state(membership: str, was_joined: bool, visibility: str, access: StateAccess) -> None:
    assert may_read_state(membership, was_joined=was_joined, visibility=visibility) is access


@pytest.mark.parametrize(
    ("visibility", "memberships", "in_room", "allowed"),
    [
        ("world_readable", [], False, True),
        ("shared", [], True, True),
        ("shared", ["leave", "invite"], False, False),
        ("shared", ["leave", "join"], False, True),
        ("invited", ["leave", "invite"], True, True),
        ("invited", ["leave"], True, False),
        ("joined", ["invite", "join"], True, True),
        ("joined", ["invite", "leave"], True, False),
        ("joined", [], True, False),
    ],
)
def test_what_another_server_may_see(visibility: str, memberships: list[str], in_room: bool, allowed: bool) -> None:
    assert server_may_see(visibility, memberships, in_room=in_room) == allowed
