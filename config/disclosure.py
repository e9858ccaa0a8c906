"""What ``[disclosure.X]`` of ``residency.toml`` may say: what can be opened in a jurisdiction, and who it takes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from config.forms import DAY
from config.kinds import Choice, Duration, Integer, ListOf, Span
from config.problems import Fault
from config.public_keys import ED25519, X25519, KeysByName
from config.tables import Setting

DISCLOSABLE = ("ip_addresses", "user_agents", "last_seen", "phone_number", "email_address", "registration_time")
"""The fields that can be under a disclosure ceiling. Content of events is not among them, and never will be."""

SEALED = ("ip_addresses", "user_agents", "last_seen")
"""Those of them that are kept sealed, and where there are custodians only."""

MOST_CUSTODIANS = 16
SHORTEST_EPOCH_MS = 60 * 60 * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Disclosure:
    """The ceiling of what can be disclosed to an authority of a jurisdiction. Content is not a possible value."""

    fields: Annotated[
        tuple[str, ...],
        Setting(ListOf(Choice(DISCLOSABLE)), "What an order can open.", ("ip_addresses", "phone_number")),
    ] = ()
    approvals: Annotated[
        int, Setting(Integer(1, 100), "How many people must approve, each with a key of their own.")
    ] = 2
    approvers: Annotated[
        Mapping[str, str],
        Setting(
            KeysByName(ED25519),
            "Who may approve an order, and the public keys with which they do; `domicile key new` makes such a key."
            " Without any, nothing can be disclosed.",
            {"parisa": "Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw"},
        ),
    ] = field(default_factory=dict)
    custodians: Annotated[
        Mapping[str, str],
        Setting(
            KeysByName(X25519),
            "Who holds shares of the secrets that open sealed sessions, and their public keys (`domicile key new --kind"
            " x25519` makes one). Without custodians nothing is kept about sessions: no address, no user agent, no last"
            " day.",
            {"leila": "9+sGivN6AzRrLHWVgW7CX7dYCcLyFKyCSa8H2mDM3jQ"},
        ),
    ] = field(default_factory=dict)
    threshold: Annotated[
        int, Setting(Integer(2, MOST_CUSTODIANS), "How many custodians' shares open what was sealed in an epoch.")
    ] = 2
    epoch: Annotated[
        Duration,
        Setting(Span(), "How long one key is used to seal sessions; each has a secret and shares of its own."),
    ] = 7 * DAY


def faults(disclosure: Mapping[str, Disclosure], keeping: Mapping[str, Duration]) -> Iterator[Fault]:
    """Mistakes that show between several keys. ``keeping``: how long a jurisdiction keeps sealed sessions."""
    for code, ceiling in disclosure.items():
        path = ("disclosure", code)
        if ceiling.approvers and len(ceiling.approvers) < ceiling.approvals:
            approvers = len(ceiling.approvers)
            yield Fault(
                (*path, "approvals"), f"there are only {approvers} approvers, so that nothing could be approved"
            )
        there = len(ceiling.custodians)
        if there and there < ceiling.threshold:
            one = f"{there} custodian{'s hold' if there > 1 else ' holds'} shares"
            yield Fault((*path, "threshold"), f"{one}, so that {ceiling.threshold} could never be brought together")
        if there > MOST_CUSTODIANS:
            yield Fault((*path, "custodians"), f"wanted at most {MOST_CUSTODIANS} custodians, found {there}")
        if 0 < ceiling.epoch.ms < SHORTEST_EPOCH_MS:
            yield Fault((*path, "epoch"), "wanted an hour or more: each epoch has shares that custodians must open")
        if there and ceiling.epoch.ms > keeping[code].ms:
            yield Fault(
                (*path, "epoch"), f"is longer than what was sealed in it may be kept (retention.{code}.sessions)"
            )
