"""What push rules say about an event: compiled once for each distinct ruleset, applied to each event in two steps.

First `Evaluator.narrow` does what is the same for everybody who has these rules; then `Narrowed.outcome` decides for
one of them, which for most events is nothing more than a comparison. So the cost of a large room is the number of
distinct rulesets in it, and not of its members.

spec: client-server-api/#push-rules
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol

from homeserver.protocol import globs
from homeserver.protocol.push_rules import (
    KINDS,
    NOTHING_CHANGED,
    OWN_ID,
    THREAD_SUBSCRIPTION,
    Action,
    Condition,
    Rule,
    Ruleset,
    is_simple,
)
from homeserver.protocol.relations import THREAD


class NotificationLevels(Protocol):
    """Who may send which notification; `power_levels.Levels` is one."""

    def of(self, user_id: str) -> int:
        """The level of a user."""
        ...

    def to_notify(self, name: str) -> int:
        """The level needed for a notification such as ``room``."""
        ...


@dataclass(frozen=True, slots=True)
class Subject:
    """An event to be judged and what is to be known of its room. ``members`` counts the joined ones."""

    room_id: str
    event_id: str
    type: str
    sender: str
    state_key: str | None
    content: Mapping[str, Any]
    members: int
    levels: NotificationLevels


class Outcome(NamedTuple):
    """What the first matching rule says. ``actions`` are those for the push gateway."""

    notify: bool
    highlight: bool
    actions: tuple[Action, ...]


SILENT: Final = Outcome(False, False, ())
"""No rule matched, or one that says to do nothing."""


class Own(NamedTuple):
    """Whose rules they are, as far as conditions ask. ``followed``: the roots of threads that they follow."""

    user_id: str
    display_name: str | None
    followed: Container[str] = ()


Test = Callable[[Subject], bool]
OwnTest = Callable[[Subject, Own], bool]


class _Compiled(NamedTuple):
    """A rule: conditions on the event alone, and those in which its owner plays a part."""

    tests: tuple[Test, ...]
    own_tests: tuple[OwnTest, ...]
    outcome: Outcome


class Narrowed:
    """What of a ruleset remains to be decided about one event."""

    __slots__ = ("_rules", "_subject")

    def __init__(self, subject: Subject, rules: list[_Compiled]) -> None:
        self._subject = subject
        self._rules = rules

    @property
    def settled(self) -> Outcome | None:
        """The outcome for everybody with these rules but the sender, when it does not depend on who they are."""
        if not self._rules:
            return SILENT
        return None if self._rules[0].own_tests else self._rules[0].outcome

    def outcome(self, user_id: str, display_name: str | None = None, followed: Container[str] = ()) -> Outcome:
        """The outcome for one user; ``display_name`` is the one in that room, ``followed`` are the roots of the threads
        there that they follow. What they sent themselves is silent."""
        subject = self._subject
        if user_id == subject.sender:
            return SILENT
        own: Own | None = None
        for rule in self._rules:
            if not rule.own_tests:
                return rule.outcome
            own = own or Own(user_id, display_name, followed)
            if all(test(subject, own) for test in rule.own_tests):
                return rule.outcome
        return SILENT


class Evaluator:
    """A compiled ruleset. Immutable but for a bounded memory of which rules concern which event type."""

    __slots__ = ("_by_type", "_rules", "asks_threads")

    TYPES_REMEMBERED = 64

    def __init__(self, ruleset: Ruleset) -> None:
        self._rules = [
            (_literal_type(rule), _compile_rule(kind, rule))
            for kind in KINDS
            for rule in ruleset.of_kind(kind)
            if rule.enabled
        ]
        self._by_type: dict[str, list[_Compiled]] = {}
        self.asks_threads = any(
            condition["kind"] == THREAD_SUBSCRIPTION
            for kind in KINDS
            for rule in ruleset.of_kind(kind)
            if rule.enabled
            for condition in rule.conditions or ()
        )
        """Whether it matters to a rule which threads its owner follows."""

    def narrow(self, subject: Subject) -> Narrowed:
        """Everything that can be said about an event without asking whose rules these are."""
        remaining: list[_Compiled] = []
        for rule in self._candidates(subject.type):
            for test in rule.tests:
                if not test(subject):
                    break
            else:
                remaining.append(rule)
                if not rule.own_tests:
                    break
        return Narrowed(subject, remaining)

    def outcome(self, subject: Subject, user_id: str, display_name: str | None = None) -> Outcome:
        """The outcome of an event for one user."""
        return self.narrow(subject).outcome(user_id, display_name)

    def _candidates(self, event_type: str) -> list[_Compiled]:
        found = self._by_type.get(event_type)
        if found is None:
            wanted = event_type.lower()
            found = [rule for literal, rule in self._rules if literal is None or literal == wanted]
            if len(self._by_type) < self.TYPES_REMEMBERED:
                self._by_type[event_type] = found
        return found


# -- compiling


def _literal_type(rule: Rule) -> str | None:
    """The event type, in lower case, outside of which the rule cannot match."""
    return next(filter(None, map(_type_asked, rule.conditions or ())), None)


def _type_asked(condition: Condition) -> str | None:
    """The one event type, in lower case, that a condition asks for."""
    if condition["kind"] != "event_match" or condition["key"] != "type":
        return None
    pattern: str = condition["pattern"]
    return None if "*" in pattern or "?" in pattern else pattern.lower()


def _compile_rule(kind: str, rule: Rule) -> _Compiled:
    tests: list[Test] = []
    own_tests: list[OwnTest] = []
    if kind == "room":
        tests.append(lambda subject: subject.room_id == rule.rule_id)
    elif kind == "sender":
        tests.append(lambda subject: subject.sender == rule.rule_id)
    elif kind == "content":
        tests.append(_event_match({"key": "content.body", "pattern": rule.pattern or ""}))
    else:
        literal = _literal_type(rule)
        for condition in rule.conditions or ():
            if literal is not None and _type_asked(condition) == literal:
                continue  # said already by the choice of candidates
            _compile_condition(condition, tests, own_tests)
    return _Compiled(tuple(tests), tuple(own_tests), _outcome(rule.actions))


def _outcome(actions: tuple[Action, ...]) -> Outcome:
    if "notify" not in actions:
        return SILENT
    highlight = False
    for action in actions:
        if isinstance(action, Mapping) and action.get("set_tweak") == "highlight":
            highlight = action.get("value", True) is True
    return Outcome(True, highlight, actions)


def _compile_condition(condition: Condition, tests: list[Test], own_tests: list[OwnTest]) -> None:
    """Add the tests of a condition; the cheap one on the event first where its owner plays a part."""
    kind = condition["kind"]
    if kind == "contains_display_name":
        tests.append(_has_body)
        own_tests.append(_contains_display_name)
    elif kind == THREAD_SUBSCRIPTION:
        subscribed = condition.get("subscribed")
        tests.append(lambda subject: isinstance(subscribed, bool) and _thread(subject) is not None)
        own_tests.append(lambda subject, own: (_thread(subject) in own.followed) is subscribed)
    elif condition.get("pattern") is OWN_ID:
        reach = _reader(condition["key"])
        tests.append(lambda subject: isinstance(reach(subject), str))
        own_tests.append(lambda subject, own: _same(reach(subject), own.user_id))
    elif condition.get("value") is OWN_ID:
        reach = _reader(condition["key"])
        tests.append(lambda subject: isinstance(reach(subject), list))
        own_tests.append(lambda subject, own: own.user_id in reach(subject))
    else:
        make = _MAKERS.get(kind)
        tests.append(_never if make is None else make(condition))


def _thread(subject: Subject) -> str | None:
    """The root of the thread that an event is sent to."""
    relation = subject.content.get("m.relates_to")
    if not isinstance(relation, Mapping) or relation.get("rel_type") != THREAD:
        return None
    root = relation.get("event_id")
    return root if isinstance(root, str) else None


def _same(value: object, user_id: str) -> bool:
    return isinstance(value, str) and value.lower() == user_id.lower()


def _never(_: Subject) -> bool:
    return False


def _has_body(subject: Subject) -> bool:
    return isinstance(subject.content.get("body"), str)


def _contains_display_name(subject: Subject, own: Own) -> bool:
    return bool(own.display_name) and _display_name_test(own.display_name or "")(subject.content["body"])


@lru_cache(maxsize=4096)
def _display_name_test(display_name: str) -> globs.Matcher:
    bounded = rf"(?<![A-Za-z0-9_]){re.escape(display_name)}(?![A-Za-z0-9_])"
    search = re.compile(bounded, re.IGNORECASE).search
    return lambda body: search(body) is not None


def _event_match(condition: Condition) -> Test:
    key = condition["key"]
    matches = globs.words(condition["pattern"]) if key == "content.body" else globs.whole(condition["pattern"])
    reach = _reader(key)

    def test(subject: Subject) -> bool:
        value = reach(subject)
        return isinstance(value, str) and matches(value)

    return test


def _event_property_is(condition: Condition) -> Test:
    wanted = condition["value"]
    reach = _reader(condition["key"])
    return lambda subject: _identical(reach(subject), wanted)


def _event_property_contains(condition: Condition) -> Test:
    wanted = condition["value"]
    reach = _reader(condition["key"])

    def test(subject: Subject) -> bool:
        values = reach(subject)
        return isinstance(values, list) and any(_identical(value, wanted) for value in values)

    return test


def _identical(value: object, wanted: object) -> bool:
    """Equal without casts: 1 is not True."""
    return type(value) is type(wanted) and value == wanted and is_simple(value)


_COUNT: Final = re.compile(r"(==|<=|>=|<|>)?([0-9]{1,18})")
_COMPARE: Final[Mapping[str, Callable[[int, int], bool]]] = {
    "==": lambda members, count: members == count,
    "<": lambda members, count: members < count,
    ">": lambda members, count: members > count,
    "<=": lambda members, count: members <= count,
    ">=": lambda members, count: members >= count,
}


def _room_member_count(condition: Condition) -> Test:
    match = _COUNT.fullmatch(condition["is"])
    if match is None:
        return _never
    compare, count = _COMPARE[match[1] or "=="], int(match[2])
    return lambda subject: compare(subject.members, count)


def _sender_notification_permission(condition: Condition) -> Test:
    name = condition["key"]
    return lambda subject: subject.levels.of(subject.sender) >= subject.levels.to_notify(name)


_MAKERS: Final[Mapping[str, Callable[[Condition], Test]]] = {
    "event_match": _event_match,
    "event_property_is": _event_property_is,
    "event_property_contains": _event_property_contains,
    "room_member_count": _room_member_count,
    "sender_notification_permission": _sender_notification_permission,
}

_ABSENT: Final = object()
_ESCAPED: Final = re.compile(r"\\([.\\])|(\.)|([^.\\]+|\\)")
_FIELDS: Final = frozenset({"room_id", "event_id", "type", "sender"})


def split_path(key: str) -> list[str]:
    r"""The property names of a dot-separated path, in which ``\.`` is a dot and ``\\`` a backslash.

    spec: appendices/#dot-separated-property-paths
    """
    parts = [""]
    for escaped, dot, plain in _ESCAPED.findall(key):
        if dot:
            parts.append("")
        else:
            parts[-1] += escaped or plain
    return parts


def _reader(key: str) -> Callable[[Subject], Any]:
    """What reads the property of a path from an event; _ABSENT when it is not there."""
    first, *rest = split_path(key)
    if first == "content" and len(rest) == 1:
        name = rest[0]
        return lambda subject: subject.content.get(name, _ABSENT)
    if first == "content" and rest:
        return lambda subject: _descend(subject.content, rest)
    if rest:
        return lambda _: _ABSENT
    if first in _FIELDS:
        return lambda subject: getattr(subject, first)
    if first == "state_key":
        return lambda subject: _ABSENT if subject.state_key is None else subject.state_key
    return lambda _: _ABSENT


def _descend(value: Any, path: list[str]) -> Any:
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return _ABSENT
        value = value[name]
    return value


PREDEFINED_EVALUATOR: Final = Evaluator(NOTHING_CHANGED)
"""The evaluator of everybody who has changed nothing."""
