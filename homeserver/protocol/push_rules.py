"""A user's push rules: the predefined ones, what the user added to them, and how clients may change both.

Only what the user did is kept (`Ruleset`): the predefined rules come from here each time, so that a change of the
specification reaches everybody, and all who changed nothing share one ruleset.

spec: client-server-api/#push-rules
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

import orjson

from homeserver.protocol.errors import BadJson, InvalidParam, MissingParam, NotFound, TooLarge, Unknown
from homeserver.protocol.identifiers import is_room_id, is_user_id

Action = str | Mapping[str, Any]
Condition = Mapping[str, Any]

POSTCONTENT: Final = "postcontent"
"""A kind of which clients have no rules of their own. Not specified yet (MSC4306)."""

KINDS: Final = ("override", "content", POSTCONTENT, "room", "sender", "underride")
"""The kinds of rules in the order in which they are checked."""

THREAD_SUBSCRIPTION: Final = "io.element.msc4306.thread_subscription"
"""The kind of a condition: the event is in a thread that its reader follows, or does not."""
UNSUBSCRIBED_THREAD: Final = ".io.element.msc4306.rule.unsubscribed_thread"
SUBSCRIBED_THREAD: Final = ".io.element.msc4306.rule.subscribed_thread"

MAX_BYTES: Final = 256 * 1024
"""The most that a user's ruleset may take when stored."""

MAX_PATTERN: Final = 256
"""The most characters of a pattern: it is compared with texts of any length that others send."""

MASTER: Final = ".m.rule.master"

_IGNORED: Final = frozenset({"dont_notify", "coalesce"})


class _Own(str):
    """Stands in a predefined condition for the Matrix id of whose rules they are; known by its type."""


OWN_ID: Final = _Own("[the user's Matrix ID]")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. ``conditions`` belong to override and underride rules, ``pattern`` to content rules."""

    rule_id: str
    actions: tuple[Action, ...]
    conditions: tuple[Condition, ...] | None = None
    pattern: str | None = None
    enabled: bool = True

    @property
    def default(self) -> bool:
        """Whether the rule is predefined. spec: client-server-api/#predefined-rules"""
        return self.rule_id.startswith(".")

    def as_json(self, user_id: str) -> dict[str, Any]:
        """The rule as it is shown to its user."""
        shown: dict[str, Any] = {
            "rule_id": self.rule_id,
            "default": self.default,
            "enabled": self.enabled,
            "actions": list(self.actions),
        }
        if self.conditions is not None:
            shown["conditions"] = [_with_own_id(condition, user_id) for condition in self.conditions]
        if self.pattern is not None:
            shown["pattern"] = self.pattern
        return shown


def _with_own_id(condition: Condition, user_id: str) -> dict[str, Any]:
    return {key: user_id if type(value) is _Own else value for key, value in condition.items()}


def _matches(key: str, pattern: str) -> Condition:
    return {"kind": "event_match", "key": key, "pattern": pattern}


_SOUND: Final[Action] = {"set_tweak": "sound", "value": "default"}
_RING: Final[Action] = {"set_tweak": "sound", "value": "ring"}
_HIGHLIGHT: Final[Action] = {"set_tweak": "highlight"}
_TWO_MEMBERS: Final[Condition] = {"kind": "room_member_count", "is": "2"}

_MASTER_RULE: Final = Rule(MASTER, (), (), enabled=False)

# spec: client-server-api/#default-override-rules
_OVERRIDE: Final = (
    Rule(".m.rule.suppress_notices", (), (_matches("content.msgtype", "m.notice"),)),
    Rule(
        ".m.rule.invite_for_me",
        ("notify", _SOUND),
        (_matches("type", "m.room.member"), _matches("content.membership", "invite"), _matches("state_key", OWN_ID)),
    ),
    Rule(".m.rule.member_event", (), (_matches("type", "m.room.member"),)),
    Rule(
        ".m.rule.is_user_mention",
        ("notify", _SOUND, _HIGHLIGHT),
        ({"kind": "event_property_contains", "key": r"content.m\.mentions.user_ids", "value": OWN_ID},),
    ),
    Rule(
        ".m.rule.is_room_mention",
        ("notify", _HIGHLIGHT),
        (
            {"kind": "event_property_is", "key": r"content.m\.mentions.room", "value": True},
            {"kind": "sender_notification_permission", "key": "room"},
        ),
    ),
    Rule(
        ".m.rule.tombstone", ("notify", _HIGHLIGHT), (_matches("type", "m.room.tombstone"), _matches("state_key", ""))
    ),
    Rule(".m.rule.reaction", (), (_matches("type", "m.reaction"),)),
    Rule(".m.rule.room.server_acl", (), (_matches("type", "m.room.server_acl"), _matches("state_key", ""))),
    Rule(
        ".m.rule.suppress_edits",
        (),
        ({"kind": "event_property_is", "key": r"content.m\.relates_to.rel_type", "value": "m.replace"},),
    ),
)

# spec: client-server-api/#default-underride-rules
_UNDERRIDE: Final = (
    Rule(".m.rule.call", ("notify", _RING), (_matches("type", "m.call.invite"),)),
    Rule(".m.rule.encrypted_room_one_to_one", ("notify", _SOUND), (_TWO_MEMBERS, _matches("type", "m.room.encrypted"))),
    Rule(".m.rule.room_one_to_one", ("notify", _SOUND), (_TWO_MEMBERS, _matches("type", "m.room.message"))),
    Rule(".m.rule.message", ("notify",), (_matches("type", "m.room.message"),)),
    Rule(".m.rule.encrypted", ("notify",), (_matches("type", "m.room.encrypted"),)),
)

# Disabled until somebody follows a thread (`Ruleset.with_threads`): who has clients that cannot do that would not be
# notified of threads any more.
_POSTCONTENT: Final = (
    Rule(UNSUBSCRIBED_THREAD, (), ({"kind": THREAD_SUBSCRIPTION, "subscribed": False},), enabled=False),
    Rule(SUBSCRIBED_THREAD, ("notify", _SOUND), ({"kind": THREAD_SUBSCRIPTION, "subscribed": True},), enabled=False),
)

PREDEFINED: Final[Mapping[str, tuple[Rule, ...]]] = MappingProxyType(
    {
        "override": (_MASTER_RULE, *_OVERRIDE),
        "content": (),
        POSTCONTENT: _POSTCONTENT,
        "room": (),
        "sender": (),
        "underride": _UNDERRIDE,
    }
)
"""The predefined rules of each kind, the most important first."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a user changed about a predefined rule; None where it is as it was."""

    enabled: bool | None = None
    actions: tuple[Action, ...] | None = None

    def apply(self, rule: Rule) -> Rule:
        """The rule as the user has it."""
        return replace(
            rule,
            enabled=rule.enabled if self.enabled is None else self.enabled,
            actions=rule.actions if self.actions is None else self.actions,
        )


@dataclass(frozen=True, slots=True)
class Ruleset:
    """What one user has: their own rules of each kind (the most important first), and changes of predefined ones."""

    own: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    changes: Mapping[str, Change] = field(default_factory=dict)

    def of_kind(self, kind: str) -> tuple[Rule, ...]:
        """All rules of a kind in the order in which they are tried."""
        predefined = tuple(self._as_changed(rule) for rule in PREDEFINED[kind])
        own = self.own.get(kind, ())
        if kind == "override":  # the master rule stands above the user's own
            return (predefined[0], *own, *predefined[1:])
        return (*own, *predefined)

    def _as_changed(self, rule: Rule) -> Rule:
        change = self.changes.get(rule.rule_id)
        return rule if change is None else change.apply(rule)

    def find(self, kind: str, rule_id: str) -> Rule:
        """One rule. Raises NotFound; InvalidParam for a kind that there is not."""
        check_kind(kind)
        for rule in self.of_kind(kind):
            if rule.rule_id == rule_id:
                return rule
        raise NotFound("There is no such push rule")

    def as_json(self, user_id: str) -> dict[str, Any]:
        """The ruleset as its user is shown it. spec: client-server-api/#get_matrixclientv3pushrulesglobal"""
        return {kind: [rule.as_json(user_id) for rule in self.of_kind(kind)] for kind in KINDS}

    def with_rule(self, kind: str, rule: Rule, before: str | None = None, after: str | None = None) -> Ruleset:
        """Add a rule, or replace the one of that id, which then keeps whether it is enabled.

        ``before``: it becomes the next more important to that rule; ``after``: the next less important one; ``before``
        wins. Neither: an old rule keeps its place and a new one becomes the most important of its kind.
        Raises Unknown if the other rule is not among the user's own.

        spec: client-server-api/#put_matrixclientv3pushrulesglobalkindruleid
        """
        rules = list(self.own.get(kind, ()))
        place = next((place for place, old in enumerate(rules) if old.rule_id == rule.rule_id), None)
        if place is not None:
            rule = replace(rule, enabled=rules.pop(place).enabled)
        if before is not None:
            place = _place(rules, before)
        elif after is not None:
            place = _place(rules, after) + 1
        rules.insert(place or 0, rule)
        return self._with(kind, rules)

    def without_rule(self, kind: str, rule_id: str) -> Ruleset:
        """Remove one of the user's own rules. Raises NotFound, and InvalidParam for predefined rules."""
        if self.find(kind, rule_id).default:
            raise InvalidParam("Predefined push rules cannot be deleted; disable the rule instead")
        return self._with(kind, [rule for rule in self.own[kind] if rule.rule_id != rule_id])

    def with_enabled(self, kind: str, rule_id: str, enabled: bool) -> Ruleset:
        """Enable or disable a rule. Raises NotFound."""
        rule = self.find(kind, rule_id)
        if rule.default:
            return self._with_change(rule_id, replace(self.changes.get(rule_id, Change()), enabled=enabled))
        return self._with_replaced(kind, replace(rule, enabled=enabled))

    def with_actions(self, kind: str, rule_id: str, actions: tuple[Action, ...]) -> Ruleset:
        """Change what a rule does. Raises NotFound."""
        rule = self.find(kind, rule_id)
        if rule.default:
            return self._with_change(rule_id, replace(self.changes.get(rule_id, Change()), actions=actions))
        return self._with_replaced(kind, replace(rule, actions=actions))

    def with_threads(self) -> Ruleset:
        """Have the rules about followed threads hold, unless the user has said whether they shall."""
        found = self
        for rule_id in (UNSUBSCRIBED_THREAD, SUBSCRIBED_THREAD):
            change = found.changes.get(rule_id, Change())
            if change.enabled is None:
                found = found._with_change(rule_id, replace(change, enabled=True))
        return found

    def _with(self, kind: str, rules: Sequence[Rule]) -> Ruleset:
        return replace(self, own={**self.own, kind: tuple(rules)})

    def _with_replaced(self, kind: str, rule: Rule) -> Ruleset:
        return self._with(kind, [rule if old.rule_id == rule.rule_id else old for old in self.own[kind]])

    def _with_change(self, rule_id: str, change: Change) -> Ruleset:
        return replace(self, changes={**self.changes, rule_id: change})


def _place(rules: Sequence[Rule], rule_id: str) -> int:
    for place, rule in enumerate(rules):
        if rule.rule_id == rule_id:
            return place
    raise Unknown(f"before/after rule not found: {rule_id}")


# -- what a client sends


def check_kind(kind: str) -> None:
    """Raise InvalidParam unless ``kind`` is one of KINDS."""
    if kind not in KINDS:
        raise InvalidParam("A push rule is of the kind override, content, room, sender or underride, or postcontent")


def read_rule(kind: str, rule_id: str, body: Mapping[str, Any]) -> Rule:
    """The rule that a client wants to have. Raises InvalidParam, MissingParam, BadJson.

    spec: client-server-api/#put_matrixclientv3pushrulesglobalkindruleid
    """
    check_kind(kind)
    if kind == POSTCONTENT:
        raise InvalidParam("Of the kind postcontent there are predefined rules only")
    if rule_id.startswith(".") or "/" in rule_id or "\\" in rule_id or "\0" in rule_id or not rule_id:
        raise InvalidParam("The ID of a push rule may not start with a dot, nor hold slashes")
    if (kind == "room" and not is_room_id(rule_id)) or (kind == "sender" and not is_user_id(rule_id)):
        raise InvalidParam(f"The ID of a {kind} rule is the ID of the {'user' if kind == 'sender' else kind}")
    actions = read_actions(body)
    if kind in ("override", "underride"):
        return Rule(rule_id, actions, conditions=_read_conditions(body.get("conditions", [])))
    if kind == "content":
        return Rule(rule_id, actions, pattern=_read_pattern(body))
    return Rule(rule_id, actions)


def read_actions(body: Mapping[str, Any]) -> tuple[Action, ...]:
    """``actions`` of a body, without the historical ones. Raises MissingParam, BadJson, InvalidParam.

    spec: client-server-api/#actions
    """
    if "actions" not in body:
        raise MissingParam("Missing parameter: actions")
    actions = body["actions"]
    if not isinstance(actions, list):
        raise BadJson("actions must be a list")
    for action in actions:
        if isinstance(action, dict):
            if not isinstance(action.get("set_tweak"), str):
                raise InvalidParam("An action that is an object names the tweak to set")
        elif not isinstance(action, str):
            raise BadJson("An action is a string or an object")
        elif action != "notify" and action not in _IGNORED:
            raise InvalidParam(f"There is no push action {action!r}")
    return tuple(action for action in actions if isinstance(action, dict) or action not in _IGNORED)


def _read_pattern(body: Mapping[str, Any]) -> str:
    if "pattern" not in body:
        raise MissingParam("Missing parameter: pattern")
    pattern = body["pattern"]
    if not isinstance(pattern, str):
        raise BadJson("pattern must be a string")
    return _bounded(pattern)


def _bounded(pattern: str) -> str:
    if len(pattern) > MAX_PATTERN:
        raise InvalidParam(f"A pattern has at most {MAX_PATTERN} characters")
    return pattern


# Which properties a condition of a known kind must have; unknown kinds are kept, and never match.
_PROPERTIES: Final[Mapping[str, tuple[str, ...]]] = {
    "event_match": ("key", "pattern"),
    "event_property_is": ("key",),
    "event_property_contains": ("key",),
    "room_member_count": ("is",),
    "sender_notification_permission": ("key",),
}


def _read_conditions(conditions: object) -> tuple[Condition, ...]:
    if not isinstance(conditions, list):
        raise BadJson("conditions must be a list")
    for condition in conditions:
        if not isinstance(condition, dict) or not isinstance(condition.get("kind"), str):
            raise BadJson("A condition is an object with a kind")
        for name in _PROPERTIES.get(condition["kind"], ()):
            if not isinstance(condition.get(name), str):
                raise InvalidParam(f"A condition of the kind {condition['kind']} needs the string {name}")
        if condition["kind"] == "event_match":
            _bounded(condition["pattern"])
        if condition["kind"] in ("event_property_is", "event_property_contains") and not is_simple(
            condition.get("value", ...)
        ):
            raise InvalidParam("value must be a string, an integer, a boolean or null")
        if condition["kind"] == THREAD_SUBSCRIPTION and not isinstance(condition.get("subscribed"), bool):
            raise InvalidParam("subscribed must be a boolean")
    return tuple(conditions)


def is_simple(value: object) -> bool:
    """Whether a value is non-compound canonical JSON."""
    return value is None or isinstance(value, str | bool) or (isinstance(value, int) and abs(value) < 2**53)


# -- what is stored


def encode(ruleset: Ruleset) -> bytes:
    """The bytes under which a ruleset is stored. Raises TooLarge beyond MAX_BYTES."""
    own = {kind: [_stored(rule) for rule in rules] for kind, rules in ruleset.own.items() if rules}
    changes = {rule_id: {"enabled": c.enabled, "actions": c.actions} for rule_id, c in ruleset.changes.items()}
    stored = orjson.dumps({"own": own, "changes": changes}, option=orjson.OPT_SORT_KEYS)
    if len(stored) > MAX_BYTES:
        raise TooLarge("These are more push rules than an account may have")
    return stored


def _stored(rule: Rule) -> dict[str, Any]:
    fields = {"id": rule.rule_id, "actions": rule.actions, "conditions": rule.conditions, "pattern": rule.pattern}
    return {**fields, "enabled": rule.enabled}


def decode(stored: bytes | None) -> Ruleset:
    """The ruleset from what `encode` made of it; the predefined one from None."""
    if stored is None:
        return NOTHING_CHANGED
    found = orjson.loads(stored)
    own = {kind: tuple(_restored(rule) for rule in rules) for kind, rules in found["own"].items()}
    changes = {rule_id: Change(c["enabled"], _tuple(c["actions"])) for rule_id, c in found["changes"].items()}
    return Ruleset(own, changes)


def _restored(rule: Mapping[str, Any]) -> Rule:
    return Rule(rule["id"], tuple(rule["actions"]), _tuple(rule["conditions"]), rule["pattern"], rule["enabled"])


def _tuple(items: Sequence[Any] | None) -> tuple[Any, ...] | None:
    return None if items is None else tuple(items)


NOTHING_CHANGED: Final = Ruleset()
"""The ruleset of everybody who has changed nothing."""
