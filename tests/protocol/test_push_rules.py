"""The predefined push rules, how a ruleset changes, and what the rules say about events."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from homeserver.protocol import globs, push_rules
from homeserver.protocol.errors import BadJson, InvalidParam, MissingParam, NotFound, Refusal, TooLarge, Unknown
from homeserver.protocol.push_evaluation import PREDEFINED_EVALUATOR, SILENT, Evaluator, Outcome, Subject, split_path
from homeserver.protocol.push_rules import NOTHING_CHANGED, Ruleset, decode, encode, read_actions, read_rule

ALICE = "@alice:example.org"
BOB = "@bob:example.org"
SOUND = {"set_tweak": "sound", "value": "default"}
HIGHLIGHT = {"set_tweak": "highlight"}


class Levels:
    def __init__(self, level: int = 0, needed: int = 50) -> None:
        self.level = level
        self.needed = needed

    def of(self, user_id: str) -> int:
        return self.level if user_id == BOB else 100

    def to_notify(self, name: str) -> int:
        return self.needed if name == "room" else 0


def event(
    kind: str = "m.room.message",
    content: Mapping[str, Any] | None = None,
    *,
    state_key: str | None = None,
    members: int = 5,
    sender: str = BOB,
    level: int = 0,
) -> Subject:
    return Subject("!room:example.org", "$event", kind, sender, state_key, content or {}, members, Levels(level))


def judge(subject: Subject, rules: Ruleset = NOTHING_CHANGED, name: str | None = None) -> Outcome:
    return Evaluator(rules).outcome(subject, ALICE, name)


def with_rule(kind: str, rule_id: str, rules: Ruleset = NOTHING_CHANGED, **body: Any) -> Ruleset:
    return rules.with_rule(kind, read_rule(kind, rule_id, {"actions": ["notify", HIGHLIGHT], **body}))


def conditioned(*conditions: Mapping[str, Any]) -> Ruleset:
    """A ruleset whose one rule of its own highlights what meets the conditions."""
    return with_rule("override", "mine", conditions=list(conditions))


# -- predefined rules


@pytest.mark.parametrize(
    ("subject", "actions"),
    [
        (event(content={"body": "hello"}), ("notify",)),
        (event(content={"body": "hello"}, members=2), ("notify", SOUND)),
        (event("m.room.encrypted"), ("notify",)),
        (event("m.room.encrypted", members=2), ("notify", SOUND)),
        (event("m.call.invite"), ("notify", {"set_tweak": "sound", "value": "ring"})),
        (event("m.room.member", {"membership": "invite"}, state_key=ALICE), ("notify", SOUND)),
        (event(content={"m.mentions": {"user_ids": [BOB, ALICE]}}), ("notify", SOUND, HIGHLIGHT)),
        (event("m.room.encrypted", {"m.mentions": {"user_ids": [ALICE]}}), ("notify", SOUND, HIGHLIGHT)),
        (event(content={"m.mentions": {"room": True}}, level=50), ("notify", HIGHLIGHT)),
        (event("m.room.tombstone", state_key=""), ("notify", HIGHLIGHT)),
    ],
)
def test_what_notifies(subject: Subject, actions: tuple[Any, ...]) -> None:
    assert judge(subject) == Outcome(True, HIGHLIGHT in actions, actions)


@pytest.mark.parametrize(
    "subject",
    [
        event(content={"msgtype": "m.notice"}),
        event("m.room.member", {"membership": "join"}, state_key=BOB),
        event("m.room.member", {"membership": "invite"}, state_key=BOB),
        event("m.reaction"),
        event("m.room.server_acl", state_key=""),
        event(content={"m.relates_to": {"rel_type": "m.replace"}}),
        event("m.room.topic", {"topic": "x"}, state_key=""),
        event("m.room.tombstone"),
        event(content={"body": "hello", "m.mentions": {"user_ids": [ALICE]}}, sender=ALICE),
    ],
)
def test_what_is_silent(subject: Subject) -> None:
    assert judge(subject) == SILENT


@pytest.mark.parametrize("mentions", [{"user_ids": [BOB]}, {"user_ids": ALICE}, {"room": 1}, {"room": True}, [], None])
def test_who_is_not_mentioned_is_only_notified(mentions: Any) -> None:
    """``room: true`` is from a sender who may not notify the room."""
    assert judge(event(content={"m.mentions": mentions})) == Outcome(True, False, ("notify",))


def test_the_ruleset_is_shown_with_the_users_own_id_and_every_kind() -> None:
    shown = NOTHING_CHANGED.as_json(ALICE)
    assert list(shown) == ["override", "content", "postcontent", "room", "sender", "underride"]
    rules = {rule["rule_id"]: rule for rules in shown.values() for rule in rules}
    assert rules[".m.rule.master"]["enabled"] is False
    assert rules[".m.rule.invite_for_me"]["conditions"][2]["pattern"] == ALICE
    assert rules[".m.rule.is_user_mention"]["conditions"][0]["value"] == ALICE
    assert rules[".m.rule.is_room_mention"]["conditions"][0]["key"] == "content.m\\.mentions.room"
    assert all(rule["default"] for rule in rules.values())
    assert [rule["rule_id"] for rule in shown["override"]] == [
        ".m.rule.master",
        ".m.rule.suppress_notices",
        ".m.rule.invite_for_me",
        ".m.rule.member_event",
        ".m.rule.is_user_mention",
        ".m.rule.is_room_mention",
        ".m.rule.tombstone",
        ".m.rule.reaction",
        ".m.rule.room.server_acl",
        ".m.rule.suppress_edits",
    ]
    assert [rule["rule_id"] for rule in shown["underride"]] == [
        ".m.rule.call",
        ".m.rule.encrypted_room_one_to_one",
        ".m.rule.room_one_to_one",
        ".m.rule.message",
        ".m.rule.encrypted",
    ]


# -- conditions


@pytest.mark.parametrize(
    ("pattern", "topic", "matches"),
    [
        ("lunc?*", "Lunch plans", True),
        ("lunc?*", "LUNCH", True),
        ("lunc?*", " lunch", False),
        ("lunc?*", "lunc", False),
        ("lunc?*", None, False),
        ("*", "", True),
        ("*", 5, False),
        ("a*b*c", "a b b c", True),
        ("a*b*c", "a b b", False),
        ("a*bc", "abcbc", True),
        ("a.c", "abc", False),
        ("?", "", False),
        ("*\n*", "a\nb", True),
    ],
)
def test_event_match_compares_the_whole_value(pattern: str, topic: Any, matches: bool) -> None:
    rules = conditioned({"kind": "event_match", "key": "content.topic", "pattern": pattern})
    assert judge(event("m.room.topic", {"topic": topic}, state_key=""), rules).highlight is matches


@pytest.mark.parametrize(
    ("pattern", "body", "matches"),
    [
        ("ex*ple", "An example event.", True),
        ("ex*ple", "exple", True),
        ("ex*ple", "An exciting triple-whammy", True),
        ("ex*ple", "An inexample", False),
        ("ex*ple", "examples", False),
        ("cake", "Cake!", True),
        ("cake", "pancake cake", True),
        ("cake", "pancake", False),
        ("cake", "cake_", False),
        ("cake", "カcakeカ", True),
        ("c?ke*lie", "the coke is a lie", True),
        ("a*", "xa", False),
        ("*a", "xa", True),
    ],
)
def test_bodies_are_matched_by_words(pattern: str, body: str, matches: bool) -> None:
    by_condition = conditioned({"kind": "event_match", "key": "content.body", "pattern": pattern})
    by_content_rule = with_rule("content", "word", pattern=pattern)
    assert judge(event(content={"body": body}), by_condition).highlight is matches
    assert judge(event(content={"body": body}), by_content_rule).highlight is matches


@pytest.mark.parametrize(
    ("value", "found", "matches"),
    [
        (True, True, True),
        (True, "true", False),
        (True, 1, False),
        (1, True, False),
        (None, None, True),
        (7, 7, True),
        (7, 7.0, False),
        ("a", "A", False),
    ],
)
def test_event_property_is_casts_nothing(value: Any, found: Any, matches: bool) -> None:
    rules = conditioned({"kind": "event_property_is", "key": r"content.m\.federate", "value": value})
    assert judge(event("m.room.create", {"m.federate": found}, state_key=""), rules).highlight is matches


def test_an_absent_property_is_not_null() -> None:
    rules = conditioned({"kind": "event_property_is", "key": "content.x", "value": None})
    assert judge(event("org.example.x", {}), rules) == SILENT


@pytest.mark.parametrize(
    ("found", "matches"),
    [
        (["#a:x", "#b:x"], True),
        (["b:x"], False),
        ("#b:x", False),
        ([["#b:x"], {"#b:x": 1}], False),
        ({"#b:x": 1}, False),
    ],
)
def test_event_property_contains(found: Any, matches: bool) -> None:
    rules = conditioned({"kind": "event_property_contains", "key": "content.alt_aliases", "value": "#b:x"})
    assert judge(event("m.room.canonical_alias", {"alt_aliases": found}, state_key=""), rules).highlight is matches


@pytest.mark.parametrize(
    ("condition", "members", "matches"),
    [("2", 2, True), ("==2", 3, False), ("<2", 2, False), ("<=2", 2, True), (">2", 3, True), (">=3", 2, False)],
)
def test_room_member_count(condition: str, members: int, matches: bool) -> None:
    rules = conditioned({"kind": "room_member_count", "is": condition})
    assert judge(event("org.example.x", members=members), rules).highlight is matches


@pytest.mark.parametrize("condition", [{"kind": "room_member_count", "is": "=<2"}, {"kind": "org.example.unknown"}])
def test_what_is_not_understood_never_matches(condition: Mapping[str, Any]) -> None:
    assert judge(event("org.example.x", members=2), conditioned(condition)) == SILENT


def test_contains_display_name() -> None:
    rules = conditioned({"kind": "contains_display_name"})
    assert judge(event(content={"body": "hi alice liddell!"}), rules, "Alice Liddell").highlight
    assert not judge(event(content={"body": "malice liddell"}), rules, "Alice Liddell").highlight
    assert not judge(event(content={"body": "alice"}), rules, None).highlight
    assert not judge(event(content={"body": ["alice"]}), rules, "alice").highlight


def test_paths() -> None:
    assert split_path(r"content.m\.relates_to.rel_type") == ["content", "m.relates_to", "rel_type"]
    assert split_path(r"content.m\\foo") == ["content", "m\\foo"]
    assert split_path(r"content.\x") == ["content", r"\x"]
    rules = conditioned({"kind": "event_match", "key": "content.a.b", "pattern": "x"})
    assert judge(event("t", {"a": {"b": "x"}}), rules).highlight
    assert not judge(event("t", {"a": "b"}), rules).highlight
    assert not judge(event("t", {"a.b": "x"}), rules).highlight


def test_room_and_sender_rules() -> None:
    assert judge(event("t"), with_rule("room", "!room:example.org")).highlight
    assert not judge(event("t"), with_rule("room", "!other:example.org")).highlight
    assert judge(event("t"), with_rule("sender", BOB)).highlight
    assert not judge(event("t"), with_rule("sender", ALICE)).highlight


def test_a_pattern_cannot_keep_the_server_busy() -> None:
    matches = globs.whole("*a" * 120 + "*b")
    started = time.perf_counter()
    assert not matches("a" * 60_000)
    assert time.perf_counter() - started < 1


# -- order


def test_user_rules_come_before_predefined_ones_of_their_kind_but_after_the_master() -> None:
    rules = conditioned({"kind": "event_match", "key": "content.msgtype", "pattern": "m.notice"})
    notice = event(content={"msgtype": "m.notice"})
    assert judge(notice, rules).highlight
    assert judge(notice, rules.with_enabled("override", push_rules.MASTER, True)) == SILENT


def test_kinds_are_tried_in_their_order() -> None:
    rules = with_rule("underride", "u", actions=[])
    assert judge(event(content={"body": "x"}), rules) == SILENT
    assert judge(event(content={"body": "x"}), with_rule("room", "!room:example.org", rules)).highlight
    quiet = with_rule("content", "c", with_rule("room", "!room:example.org"), pattern="x", actions=[])
    assert judge(event(content={"body": "x"}), quiet) == SILENT


def test_placing_rules() -> None:
    def ids(rules: Ruleset) -> list[str]:
        return [rule.rule_id for rule in rules.own["content"]]

    def put(rules: Ruleset, name: str, before: str | None = None, after: str | None = None) -> Ruleset:
        return rules.with_rule("content", read_rule("content", name, {"actions": [], "pattern": name}), before, after)

    rules = put(put(put(NOTHING_CHANGED, "a"), "b"), "c")
    assert ids(rules) == ["c", "b", "a"]
    assert ids(put(rules, "d", before="b")) == ["c", "d", "b", "a"]
    assert ids(put(rules, "d", after="b")) == ["c", "b", "d", "a"]
    assert ids(put(rules, "d", before="a", after="c")) == ["c", "b", "d", "a"]
    assert ids(put(rules, "a", before="c")) == ["a", "c", "b"]
    assert ids(put(rules, "c", after="a")) == ["b", "a", "c"]
    assert ids(put(rules, "b")) == ["c", "b", "a"]
    with pytest.raises(Unknown):
        put(rules, "d", before="zzz")
    with pytest.raises(Unknown):
        put(rules, "d", after=".m.rule.master")


# -- changes


def test_a_new_rule_is_enabled_and_an_updated_one_stays_as_it_was() -> None:
    rules = with_rule("content", "cake", pattern="cake")
    assert rules.find("content", "cake").enabled
    off = rules.with_enabled("content", "cake", False)
    assert not judge(event(content={"body": "cake"}), off).highlight
    again = with_rule("content", "cake", off, pattern="pie")
    assert again.find("content", "cake").pattern == "pie"
    assert not again.find("content", "cake").enabled


def test_predefined_rules_can_be_changed_but_not_deleted() -> None:
    rules = NOTHING_CHANGED.with_actions("underride", ".m.rule.message", ("notify", SOUND))
    assert judge(event(content={"body": "x"}), rules).actions == ("notify", SOUND)
    rules = rules.with_enabled("underride", ".m.rule.message", False)
    assert judge(event(content={"body": "x"}), rules) == SILENT
    assert rules.find("underride", ".m.rule.message").actions == ("notify", SOUND)
    with pytest.raises(InvalidParam):
        rules.without_rule("underride", ".m.rule.message")


def test_own_rules_can_be_changed_and_deleted() -> None:
    rules = with_rule("content", "cake", pattern="cake").with_actions("content", "cake", ())
    assert judge(event(content={"body": "cake"}), rules) == SILENT
    rules = rules.without_rule("content", "cake")
    assert judge(event(content={"body": "cake"}), rules).notify
    for attempt in (
        lambda: rules.without_rule("content", "cake"),
        lambda: rules.with_enabled("content", "cake", True),
        lambda: rules.with_actions("content", "cake", ()),
        lambda: rules.find("override", "cake"),
    ):
        with pytest.raises(NotFound):
            attempt()


def test_historical_actions_are_ignored() -> None:
    assert read_actions({"actions": ["dont_notify"]}) == ()
    assert read_actions({"actions": ["notify", "coalesce", HIGHLIGHT]}) == ("notify", HIGHLIGHT)
    assert judge(event(), NOTHING_CHANGED.with_actions("underride", ".m.rule.message", (HIGHLIGHT,))) == SILENT


def test_highlight_may_be_false() -> None:
    actions = ("notify", {"set_tweak": "highlight", "value": False})
    rules = NOTHING_CHANGED.with_actions("underride", ".m.rule.message", actions)
    assert judge(event(), rules) == Outcome(True, False, actions)


@pytest.mark.parametrize(
    ("kind", "rule_id", "body", "error"),
    [
        ("override", ".mine", {"actions": []}, InvalidParam),
        ("override", "a/b", {"actions": []}, InvalidParam),
        ("override", "a\\b", {"actions": []}, InvalidParam),
        ("overrule", "a", {"actions": []}, InvalidParam),
        ("room", "kitchen", {"actions": []}, InvalidParam),
        ("sender", "bob", {"actions": []}, InvalidParam),
        ("override", "a", {}, MissingParam),
        ("content", "a", {"actions": []}, MissingParam),
        ("content", "a", {"actions": [], "pattern": 5}, BadJson),
        ("content", "a", {"actions": [], "pattern": "x" * 257}, InvalidParam),
        ("override", "a", {"actions": "notify"}, BadJson),
        ("override", "a", {"actions": [None]}, BadJson),
        ("override", "a", {"actions": ["shout"]}, InvalidParam),
        ("override", "a", {"actions": [{"value": 1}]}, InvalidParam),
        ("override", "a", {"actions": [], "conditions": {}}, BadJson),
        ("override", "a", {"actions": [], "conditions": ["x"]}, BadJson),
        ("override", "a", {"actions": [], "conditions": [{"kind": "event_match", "key": "x"}]}, InvalidParam),
        (
            "override",
            "a",
            {"actions": [], "conditions": [{"kind": "event_match", "key": 1, "pattern": ""}]},
            InvalidParam,
        ),
        ("override", "a", {"actions": [], "conditions": [{"kind": "event_property_is", "key": "x"}]}, InvalidParam),
        (
            "override",
            "a",
            {"actions": [], "conditions": [{"kind": "event_property_is", "key": "x", "value": {}}]},
            InvalidParam,
        ),
        ("override", "a", {"actions": [], "conditions": [{"kind": "room_member_count", "is": 2}]}, InvalidParam),
    ],
)
def test_what_is_refused(kind: str, rule_id: str, body: Mapping[str, Any], error: type[Refusal]) -> None:
    with pytest.raises(error):
        read_rule(kind, rule_id, body)


def test_odd_conditions_of_unknown_kinds_are_kept_and_harmless() -> None:
    rules = conditioned({"kind": "org.example.x", "key": "type", "pattern": 5, "value": []})
    assert judge(event("t"), rules) == SILENT
    assert decode(encode(rules)).as_json(ALICE)["override"][1]["conditions"][0]["pattern"] == 5


# -- storing


def test_a_ruleset_survives_storing() -> None:
    rules = conditioned({"kind": "room_member_count", "is": ">2"})
    rules = with_rule("content", "cake", rules, pattern="cake").with_enabled("content", "cake", False)
    rules = rules.with_enabled("override", push_rules.MASTER, True)
    rules = rules.with_actions("underride", ".m.rule.call", ("notify",))
    assert decode(encode(rules)).as_json(ALICE) == rules.as_json(ALICE)
    assert decode(None) is NOTHING_CHANGED


def test_a_ruleset_is_bounded() -> None:
    rules = NOTHING_CHANGED
    for number in range(1200):
        rules = rules.with_rule("content", read_rule("content", f"r{number}", {"actions": [], "pattern": "x" * 250}))
    with pytest.raises(TooLarge):
        encode(rules)


def test_an_ordinary_message_is_settled_for_everybody_at_once() -> None:
    evaluator = PREDEFINED_EVALUATOR
    assert evaluator.narrow(event("m.room.encrypted")).settled == Outcome(True, False, ("notify",))
    assert evaluator.narrow(event("org.example.x")).settled == SILENT
    mentioning = evaluator.narrow(event("m.room.encrypted", {"m.mentions": {"user_ids": [ALICE]}}))
    assert mentioning.settled is None
    assert mentioning.outcome(ALICE).highlight
    assert not mentioning.outcome("@carol:example.org").highlight


# -- threads that are followed (MSC4306)

IN_THREAD = {"m.relates_to": {"rel_type": "m.thread", "event_id": "$root"}}
SUBSCRIBED = {"kind": "io.element.msc4306.thread_subscription", "subscribed": True}


@pytest.mark.parametrize(
    ("content", "followed", "expected"),
    [
        (IN_THREAD, {"$root"}, Outcome(True, False, ("notify", SOUND))),
        (IN_THREAD, {"$other"}, SILENT),
        ({**IN_THREAD, "m.mentions": {"user_ids": [ALICE]}}, (), Outcome(True, True, ("notify", SOUND, HIGHLIGHT))),
        ({}, {"$root"}, Outcome(True, False, ("notify",))),
        ({"m.relates_to": {"rel_type": "m.reference", "event_id": "$root"}}, (), Outcome(True, False, ("notify",))),
        ({"m.relates_to": {"rel_type": "m.thread", "event_id": 5}}, (), Outcome(True, False, ("notify",))),
        ({"m.relates_to": "$root"}, (), Outcome(True, False, ("notify",))),
    ],
)
def test_threads_of_those_who_follow_some(content: Any, followed: Any, expected: Outcome) -> None:
    evaluator = Evaluator(NOTHING_CHANGED.with_threads())
    assert evaluator.asks_threads
    assert evaluator.narrow(event(content=content)).outcome(ALICE, None, followed) == expected


def test_threads_of_those_who_follow_none_are_as_they_were() -> None:
    assert not Evaluator(NOTHING_CHANGED).asks_threads
    assert judge(event(content=IN_THREAD)) == Outcome(True, False, ("notify",))
    assert [rule["enabled"] for rule in NOTHING_CHANGED.as_json(ALICE)["postcontent"]] == [False, False]


def test_what_the_user_said_of_the_rules_of_threads_holds() -> None:
    unsubscribed = ".io.element.msc4306.rule.unsubscribed_thread"
    rules = NOTHING_CHANGED.with_enabled("postcontent", unsubscribed, False)
    rules = rules.with_actions("postcontent", ".io.element.msc4306.rule.subscribed_thread", ("notify",)).with_threads()
    assert [rule.enabled for rule in rules.of_kind("postcontent")] == [False, True]
    assert decode(encode(rules)) == rules == rules.with_threads()
    evaluator = Evaluator(rules)
    assert evaluator.narrow(event(content=IN_THREAD)).outcome(ALICE).notify
    assert evaluator.narrow(event(content=IN_THREAD)).outcome(ALICE, None, {"$root"}).actions == ("notify",)


def test_rules_of_ones_own_about_threads() -> None:
    assert judge(event(content=IN_THREAD), conditioned(SUBSCRIBED)) == Outcome(True, False, ("notify",))
    found = Evaluator(conditioned(SUBSCRIBED)).narrow(event(content=IN_THREAD)).outcome(ALICE, None, {"$root"})
    assert found.highlight
    with pytest.raises(InvalidParam):
        conditioned({**SUBSCRIBED, "subscribed": 1})
    with pytest.raises(InvalidParam):
        with_rule("postcontent", "mine")
