"""The rules for m.room.member, rule by rule and version by version. spec: rooms/v12/#authorisation-rules"""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.protocol.membership_rules import AUTHORISED_VIA, authorising_server, verify_signed
from homeserver.protocol.signing import SigningKey, sign_json
from homeserver.protocol.versions import VERSIONS
from tests.protocol.rooms import ALICE, BOB, CAROL, DAVE, EVE, Branch, Room

ALL = list(VERSIONS)
MEMBERSHIPS = ("join", "invite", "leave", "ban", "knock")
KNOCK = [version for version, rules in VERSIONS.items() if rules.knock]
RESTRICTED = [version for version, rules in VERSIONS.items() if rules.restricted_join]
KNOCK_RESTRICTED = [version for version, rules in VERSIONS.items() if rules.knock_restricted]
NOBODY: list[str] = []


def with_bob(version: str, join_rule: str, membership: str | None) -> tuple[Room, Branch]:
    """A room of Alice where Bob has this membership (None: no event), under this join rule.

    A knock is there unasked, for in old versions it could not come to be.
    """
    room = Room(version)
    branch = room.opened("public", users={CAROL: 50})
    if membership in ("join", "leave"):
        branch = room.member(branch, BOB, "join")
    if membership in ("invite", "ban"):
        branch = room.member(branch, ALICE, membership, BOB)
    elif membership == "leave":
        branch = room.member(branch, BOB, "leave")
    elif membership == "knock":
        knock = room.draft(branch, BOB, "m.room.member", {"membership": "knock"}, BOB)
        room.events[knock.event_id] = knock
        branch = {**branch, ("m.room.member", BOB): knock.event_id}
    return room, room.sends(branch, ALICE, "m.room.join_rules", {"join_rule": join_rule})


# -- join


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(
    ("join_rule", "before", "versions"),
    [
        *[("public", before, ALL) for before in (None, "invite", "join", "leave")],
        ("public", "ban", NOBODY),
        *[("invite", before, ALL) for before in ("invite", "join")],
        *[("invite", before, NOBODY) for before in (None, "leave", "ban")],
        *[("knock", before, KNOCK) for before in ("invite", "join")],
        *[("knock", before, NOBODY) for before in (None, "leave", "ban", "knock")],
        *[("restricted", before, RESTRICTED) for before in ("invite", "join")],
        *[("restricted", before, NOBODY) for before in (None, "leave", "ban")],
        *[("knock_restricted", before, KNOCK_RESTRICTED) for before in ("invite", "join")],
        *[("knock_restricted", before, NOBODY) for before in (None, "leave", "ban", "knock")],
        *[("private", before, NOBODY) for before in (None, "invite", "join")],
    ],
)
def test_joining(version: str, join_rule: str, before: str | None, versions: list[str]) -> None:
    room, branch = with_bob(version, join_rule, before)
    assert room.allows_member(branch, BOB, "join") == (version in versions)


@pytest.mark.parametrize("version", ALL)
def test_nobody_joins_for_another(version: str) -> None:
    room, branch = with_bob(version, "public", "invite")
    assert not room.allows_member(branch, ALICE, "join", BOB)


@pytest.mark.parametrize("version", ALL)
def test_without_join_rules_an_invite_is_needed(version: str) -> None:
    room = Room(version)
    branch = room.member(room.start(), ALICE, "join")
    assert not room.allows_member(branch, BOB, "join")
    invited = room.member(branch, ALICE, "invite", BOB)
    assert room.allows_member(invited, BOB, "join")


@pytest.mark.parametrize("version", ALL)
def test_the_first_join_is_the_creator_s(version: str) -> None:
    room = Room(version)
    branch = room.start()
    assert room.allows_member(branch, ALICE, "join", prev_events=["$create"])
    assert not room.allows_member(branch, BOB, "join", prev_events=["$create"])
    assert not room.allows_member(branch, ALICE, "join", prev_events=["$create", "$other"])
    assert not room.allows_member(branch, ALICE, "join", prev_events=["$other"])
    assert not room.allows_member(branch, ALICE, "join", prev_events=[])


@pytest.mark.parametrize("version", ALL)
def test_the_creator_who_joins_first_is_the_one_of_the_version(version: str) -> None:
    room = Room(version, create_content={"creator": BOB, "additional_creators": [CAROL]})
    branch = room.start()
    by_content = VERSIONS[version].create_has_creator
    assert room.allows_member(branch, BOB, "join", prev_events=["$create"]) == by_content
    assert room.allows_member(branch, ALICE, "join", prev_events=["$create"]) == (not by_content)
    assert not room.allows_member(branch, CAROL, "join", prev_events=["$create"])


# -- restricted joins


def restricted(version: str, join_rule: str = "restricted", **levels: Any) -> tuple[Room, Branch]:
    """Alice and Carol (50) are in a restricted room, Dave was."""
    room = Room(version)
    branch = room.opened("public", users={CAROL: 50}, **levels)
    branch = room.member(room.member(branch, CAROL, "join"), DAVE, "join")
    branch = room.member(branch, DAVE, "leave")
    return room, room.sends(branch, ALICE, "m.room.join_rules", {"join_rule": join_rule})


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(
    ("join_rule", "versions"), [("restricted", RESTRICTED), ("knock_restricted", KNOCK_RESTRICTED)]
)
@pytest.mark.parametrize(
    ("via", "invite", "admits"),
    [
        (CAROL, 0, True),
        (CAROL, 50, True),
        (CAROL, 51, False),
        (ALICE, 100, True),
        (DAVE, 0, False),  # left
        (EVE, 0, False),  # was never there
        (BOB, 0, False),  # himself
    ],
)
def test_a_member_who_may_invite_admits(
    version: str, join_rule: str, versions: list[str], via: str, invite: int, admits: bool
) -> None:
    room, branch = restricted(version, join_rule, invite=invite)
    allowed = room.allows_member(branch, BOB, "join", content={AUTHORISED_VIA: via})
    assert allowed == (admits and version in versions)


@pytest.mark.parametrize("version", RESTRICTED)
@pytest.mark.parametrize("via", [None, 5, "", "carol", ["@carol:c.example"]])
@pytest.mark.parametrize("membership", ["join", "leave"])
def test_who_admits_must_be_a_user_whose_server_can_sign(version: str, via: object, membership: str) -> None:
    room, branch = with_bob(version, "public", "join")
    assert room.allows_member(branch, BOB, membership)
    assert not room.allows_member(branch, BOB, membership, content={AUTHORISED_VIA: via})


def test_the_server_that_must_sign_a_restricted_join() -> None:
    for version, rules in VERSIONS.items():
        room, branch = with_bob(version, "public", None)
        join = room.draft(branch, BOB, "m.room.member", {"membership": "join", AUTHORISED_VIA: CAROL}, BOB)
        assert authorising_server(rules, join) == ("c.example" if version in RESTRICTED else None)
        plain = room.draft(branch, BOB, "m.room.member", {"membership": "join"}, BOB)
        assert authorising_server(rules, plain) is None
        topic = room.draft(branch, BOB, "m.room.topic", {AUTHORISED_VIA: CAROL})
        assert authorising_server(rules, topic) is None


# -- invite


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(
    ("before", "allowed"),
    [(None, True), ("leave", True), ("invite", True), ("knock", True), ("join", False), ("ban", False)],
)
def test_who_can_be_invited(version: str, before: str | None, allowed: bool) -> None:
    room, branch = with_bob(version, "invite", before)
    assert room.allows_member(branch, ALICE, "invite", BOB) == allowed


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(("level", "needed", "allowed"), [(0, 0, True), (49, 50, False), (50, 50, True)])
def test_inviting_needs_the_invite_level(version: str, level: int, needed: int, allowed: bool) -> None:
    room = Room(version)
    branch = room.member(room.opened(users={CAROL: level}, invite=needed), CAROL, "join")
    assert room.allows_member(branch, CAROL, "invite", BOB) == allowed


@pytest.mark.parametrize("version", ALL)
def test_only_members_invite(version: str) -> None:
    room, branch = with_bob(version, "public", "invite")
    assert not room.allows_member(branch, BOB, "invite", DAVE)


# -- leave, kick, unban


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(
    ("before", "allowed"),
    [("join", True), ("invite", True), ("knock", True), (None, False), ("leave", False), ("ban", False)],
)
def test_leaving(version: str, before: str | None, allowed: bool) -> None:
    room, branch = with_bob(version, "invite", before)
    assert room.allows_member(branch, BOB, "leave") == (allowed and (before != "knock" or version in KNOCK))


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(
    ("sender_level", "target_level", "kick", "allowed"),
    [
        (50, 0, 50, True),
        (49, 0, 50, False),
        (50, 50, 50, False),
        (60, 50, 50, True),
        (60, 61, 50, False),
        (1, 0, 0, True),
    ],
)
def test_kicking(version: str, sender_level: int, target_level: int, kick: int, allowed: bool) -> None:
    room = Room(version)
    branch = room.opened(users={CAROL: sender_level, BOB: target_level}, kick=kick)
    branch = room.member(room.member(branch, CAROL, "join"), BOB, "join")
    assert room.allows_member(branch, CAROL, "leave", BOB) == allowed


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(
    ("level", "kick", "ban", "allowed"),
    [(50, 50, 50, True), (50, 50, 51, False), (50, 51, 50, False), (50, 0, 0, True)],
)
def test_unbanning_needs_both_levels(version: str, level: int, kick: int, ban: int, allowed: bool) -> None:
    room = Room(version)
    branch = room.member(room.opened(users={CAROL: level}, kick=kick, ban=ban), CAROL, "join")
    branch = room.member(branch, ALICE, "ban", BOB)
    assert room.allows_member(branch, CAROL, "leave", BOB) == allowed


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("membership", ["leave", "ban"])
def test_only_members_remove(version: str, membership: str) -> None:
    room = Room(version)
    branch = room.member(room.opened(users={CAROL: 100}), BOB, "join")
    assert not room.allows_member(branch, CAROL, membership, BOB)


# -- ban


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(
    ("sender_level", "target_level", "ban", "allowed"),
    [(50, 0, 50, True), (49, 0, 50, False), (50, 50, 50, False), (60, 61, 50, False), (1, 0, 1, True)],
)
@pytest.mark.parametrize("before", [None, "join", "invite", "ban"])
def test_banning(
    version: str, before: str | None, sender_level: int, target_level: int, ban: int, allowed: bool
) -> None:
    room = Room(version)
    branch = room.opened(users={CAROL: sender_level, BOB: target_level}, ban=ban)
    branch = room.member(branch, CAROL, "join")
    if before == "join":
        branch = room.member(branch, BOB, "join")
    elif before is not None:
        branch = room.member(branch, ALICE, before, BOB)
    assert room.allows_member(branch, CAROL, "ban", BOB) == allowed


def test_creators_cannot_remove_each_other() -> None:
    room = Room("12", create_content={"additional_creators": [CAROL]})
    branch = room.member(room.opened(), CAROL, "join")
    for membership in ("leave", "ban"):
        assert not room.allows_member(branch, CAROL, membership, ALICE)
        assert not room.allows_member(branch, ALICE, membership, CAROL)


# -- knock


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(
    ("join_rule", "versions"),
    [
        ("knock", KNOCK),
        ("knock_restricted", KNOCK_RESTRICTED),
        ("public", NOBODY),
        ("invite", NOBODY),
        ("restricted", NOBODY),
    ],
)
@pytest.mark.parametrize(
    ("before", "free"),
    [(None, True), ("leave", True), ("knock", True), ("join", False), ("invite", False), ("ban", False)],
)
def test_knocking(version: str, join_rule: str, versions: list[str], before: str | None, free: bool) -> None:
    room, branch = with_bob(version, join_rule, before)
    assert room.allows_member(branch, BOB, "knock") == (free and version in versions)


@pytest.mark.parametrize("version", KNOCK)
def test_nobody_knocks_for_another(version: str) -> None:
    room, branch = with_bob(version, "knock", None)
    assert room.allows_member(branch, DAVE, "knock")
    assert not room.allows_member(branch, DAVE, "knock", BOB)


# -- form


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("membership", [None, 5, "", "JOIN", "banned", ["join"], {}])
def test_other_memberships_are_unknown(version: str, membership: object) -> None:
    room, branch = with_bob(version, "public", None)
    assert not room.allows(branch, BOB, "m.room.member", {"membership": membership}, BOB)
    assert not room.allows(branch, BOB, "m.room.member", {}, BOB)


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("state_key", [None, "", "bob", "@bob"])
def test_a_membership_is_somebody_s(version: str, state_key: str | None) -> None:
    room, branch = with_bob(version, "public", None)
    assert not room.allows(branch, ALICE, "m.room.member", {"membership": "invite"}, state_key)


# -- third-party invites

KEY, OTHER_KEY = SigningKey.generate("0"), SigningKey.generate("1")


def invited_by_mail(version: str, **content: Any) -> tuple[Room, Branch]:
    room = Room(version)
    branch = room.opened("invite", users={CAROL: 50})
    invite = {"display_name": "b…", "public_key": KEY.verify_key.base64, **content}
    return room, room.sends(branch, ALICE, "m.room.third_party_invite", invite, "token")


def acceptance(key: SigningKey = KEY, **signed: Any) -> dict[str, Any]:
    fields = {"mxid": BOB, "token": "token", **signed}
    signed_fields = sign_json({name: value for name, value in fields.items() if value is not None}, "id.example", key)
    return {"third_party_invite": {"display_name": "b…", "signed": signed_fields}}


@pytest.mark.parametrize("version", ALL)
def test_a_signed_third_party_invite_is_enough(version: str) -> None:
    room, branch = invited_by_mail(version)
    assert room.allows_member(branch, ALICE, "invite", BOB, content=acceptance())


@pytest.mark.parametrize("version", ["3", "11", "12"])
@pytest.mark.parametrize(
    "content",
    [
        acceptance(OTHER_KEY),
        acceptance(mxid=DAVE),
        acceptance(mxid=None),
        acceptance(token=None),
        acceptance(token="other"),
        acceptance(token=["token"]),
        {"third_party_invite": {}},
        {"third_party_invite": None},
        {"third_party_invite": {"signed": "x"}},
        {"third_party_invite": {"signed": {"mxid": BOB, "token": "token"}}},
        {"third_party_invite": {"signed": {"mxid": BOB, "token": "token", "signatures": "x"}}},
        {"third_party_invite": {"signed": {"mxid": BOB, "token": "token", "signatures": {"a": {"ed25519:0": "x"}}}}},
        {"third_party_invite": {"signed": {"mxid": BOB, "token": "token", "signatures": {"a": {"ed25519:0": 5}}}}},
        {"third_party_invite": {"signed": {**acceptance()["third_party_invite"]["signed"], "more": 1}}},
    ],
)
def test_a_third_party_invite_must_be_signed_for_the_user(version: str, content: dict[str, Any]) -> None:
    room, branch = invited_by_mail(version)
    assert not room.allows_member(branch, ALICE, "invite", BOB, content=content)


def test_the_public_keys_of_a_third_party_invite_may_be_several() -> None:
    room, branch = invited_by_mail("11", public_keys=[{}, 5, {"public_key": OTHER_KEY.verify_key.base64 + "="}])
    assert room.allows_member(branch, ALICE, "invite", BOB, content=acceptance(OTHER_KEY))
    assert room.allows_member(branch, ALICE, "invite", BOB, content=acceptance())
    assert not room.allows_member(branch, ALICE, "invite", BOB, content=acceptance(SigningKey.generate("2")))


@pytest.mark.parametrize("broken", ["public_key", "public_keys"])
def test_broken_public_keys_verify_nothing(broken: str) -> None:
    for value in ("short", "!", 5, None, ["x"], {"public_key": KEY.verify_key.base64}):
        room, branch = invited_by_mail("11", **{"public_key": "x", broken: value})
        assert not room.allows_member(branch, ALICE, "invite", BOB, content=acceptance())


def test_a_third_party_invite_is_its_sender_s() -> None:
    room, branch = invited_by_mail("11")
    branch = room.sends(branch, ALICE, "m.room.join_rules", {"join_rule": "public"})
    branch = room.member(branch, CAROL, "join")
    assert not room.allows_member(branch, CAROL, "invite", BOB, content=acceptance())


def test_the_banned_are_not_invited_by_third_parties_either() -> None:
    room, branch = invited_by_mail("11")
    branch = room.member(branch, ALICE, "ban", BOB)
    assert not room.allows_member(branch, ALICE, "invite", BOB, content=acceptance())


def test_who_invited_by_mail_need_not_be_there_any_more() -> None:
    room, branch = invited_by_mail("11")
    branch = room.member(branch, ALICE, "leave")
    assert room.allows_member(branch, ALICE, "invite", BOB, content=acceptance())


def test_signatures_are_checked_in_either_alphabet() -> None:
    signed = sign_json({"a": 1, "unsigned": {"age": 5}}, "id.example", KEY)
    signature = signed["signatures"]["id.example"]["ed25519:0"]
    url_safe = KEY.verify_key.base64.replace("+", "-").replace("/", "_")
    assert verify_signed(signed, signature, KEY.verify_key.base64)
    assert verify_signed({**signed, "unsigned": None}, signature + "==", url_safe)
    assert not verify_signed({**signed, "a": 2}, signature, url_safe)
