"""Where a new user's data rests: the first pin rule that matches, else the policy's default. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from config.kinds import quoted
from config.policy import Policy
from config.residency import REFUSED, Pin


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What is known about someone who gets an account. Nothing here is taken on trust.

    ``phone`` is a verified number, with or without ``+``. ``token`` is a registration token that has been accepted.
    ``choice`` is the node that the user chose. ``node`` is the node that an admin named; it needs no rule. ``named_by``
    says who named it when that was no admin: ``service``, ``provider``.
    ``may_ask`` is whether the user can be asked to choose; where nobody can, rules of choice match nobody.
    """

    phone: str | None = None
    token: str | None = None
    choice: str | None = None
    node: str | None = None
    named_by: str = "admin"
    may_ask: bool = True


@dataclass(frozen=True, slots=True)
class Pinned:
    """The user's data rests on this node. ``rule`` cites what said so.

    ``how``: by what it was decided: ``phone``, ``token``, ``phone and token``, ``choice``, ``default``, or who named
    the node. ``conditions``: those of the pin rule, as `conditions_of` writes them.
    """

    node: str
    rule: str
    how: str = field(default="admin", compare=False)
    conditions: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """There is no account for them; ``message`` is for the user."""

    message: str
    rule: str


@dataclass(frozen=True, slots=True)
class MustChoose:
    """The user must choose one of these nodes; ask, then place again with the choice."""

    nodes: tuple[str, ...]
    rule: str


Placement = Pinned | Refused | MustChoose


def place(policy: Policy, attributes: Attributes) -> Placement:
    """The placement of a new user. The first pin rule all of whose conditions hold counts."""
    if attributes.node is not None:
        if attributes.node in policy.nodes:
            return Pinned(attributes.node, "named by an admin", attributes.named_by)
        return Refused(f'there is no node "{attributes.node}"', "named by an admin")
    for pin in policy.pins:
        if _matches(pin, attributes):
            return _by_rule(pin, attributes, f"{policy.file}:{pin.line}")
    default = policy.default
    if default.node is not None:
        return Pinned(default.node, f"{policy.file}:{default.line}", "default")
    return Refused(
        default.refuse or REFUSED.refuse or "", f"{policy.file}:{default.line}" if default.line else "default"
    )


def _matches(pin: Pin, attributes: Attributes) -> bool:
    if pin.phone_prefix is not None and not _begins(attributes.phone, pin.phone_prefix):
        return False
    if pin.token is not None and not (
        attributes.token is not None and _token_pattern(pin.token).fullmatch(attributes.token)
    ):
        return False
    if pin.choice:
        return attributes.may_ask or attributes.choice is not None
    return pin.phone_prefix is not None or pin.token is not None


def _by_rule(pin: Pin, attributes: Attributes, rule: str) -> Placement:
    if not pin.choice:
        return Pinned(pin.node or "", rule, _evidence(pin), conditions_of(pin))
    if attributes.choice in pin.nodes:
        return Pinned(attributes.choice or "", rule, "choice", conditions_of(pin))
    return MustChoose(pin.nodes, rule)


def conditions_of(pin: Pin) -> str:
    """What a pin rule asks, in a form in which two rules that ask the same are equal: `phone_prefix = "+98"`."""
    asked = [("phone_prefix", pin.phone_prefix), ("token", pin.token)]
    written = [f"{key} = {quoted(value)}" for key, value in asked if value is not None]
    return ", ".join([*written, *(["choice = true"] if pin.choice else [])])


def _evidence(pin: Pin) -> str:
    return " and ".join(name for name, asked in (("phone", pin.phone_prefix), ("token", pin.token)) if asked)


def _begins(phone: str | None, prefix: str) -> bool:
    return phone is not None and f"+{phone.removeprefix('+')}".startswith(prefix)


@lru_cache(maxsize=1024)
def _token_pattern(glob: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in glob.split("*")), re.DOTALL)
