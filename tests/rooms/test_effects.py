"""What a change of the state makes of the other servers in a room."""

from __future__ import annotations

from immutables import Map

from homeserver.protocol.event_view import MEMBER
from homeserver.rooms import effects
from homeserver.rooms.effects import Place
from homeserver.rooms.state import Entry, Snapshot
from homeserver.storage.state import Group

ANN, BEA, CARL = "@ann:a.test", "@bea:b.test", "@carl:b.test"
PLACES = {user: Place(None, None, user.partition(":")[2]) for user in (ANN, BEA, CARL)}


def entry(membership: str) -> Entry:
    return Entry(f"${membership}", None, membership)


def with_members(*users: str) -> Snapshot:
    empty = Snapshot(Map(), {}, 1, Group(None, 0, None), 0, 0, {})
    return effects.apply(empty, {(MEMBER, user): entry("join") for user in users}, PLACES).after


def test_a_server_takes_part_from_its_first_member_to_its_last() -> None:
    before = with_members(ANN, BEA)
    assert dict(before.servers) == {"a.test": 1, "b.test": 1}
    more = effects.apply(before, {(MEMBER, CARL): entry("join")}, PLACES)
    assert (dict(more.after.servers), more.entered, more.left) == ({"a.test": 1, "b.test": 2}, [], [])
    one_less = effects.apply(more.after, {(MEMBER, BEA): entry("ban")}, PLACES)
    assert (one_less.entered, one_less.left) == ([], [])
    none = effects.apply(one_less.after, {(MEMBER, CARL): entry("leave")}, PLACES)
    assert (dict(none.after.servers), none.left) == ({"a.test": 1}, ["b.test"])


def test_a_resolution_that_drops_memberships_ends_what_they_began() -> None:
    done = effects.apply(with_members(ANN, BEA), {(MEMBER, BEA): None, (MEMBER, CARL): entry("invite")}, PLACES)
    assert (dict(done.after.servers), done.entered, done.left) == ({"a.test": 1}, [], ["b.test"])
    back = effects.apply(done.after, {(MEMBER, CARL): entry("join")}, PLACES)
    assert back.entered == ["b.test"]


def test_users_of_this_server_are_no_other_server() -> None:
    done = effects.apply(with_members(ANN), {(MEMBER, "@us:here.test"): entry("join")}, {})
    assert (dict(done.after.servers), done.entered) == ({"a.test": 1}, [])
