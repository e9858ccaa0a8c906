"""What ``[changes]`` of ``residency.toml`` may say: how the policy itself is changed, and who must agree to that."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from config.kinds import Flag, Integer
from config.problems import Fault
from config.public_keys import ED25519, NAME
from config.tables import Setting, TablesOf


@dataclass(frozen=True, slots=True, kw_only=True)
class Approver:
    """Somebody who may approve a plan, and the public half of the key with which they do."""

    name: Annotated[
        str,
        Setting(NAME, "Under which name they approve.", "parisa"),
    ]
    key: Annotated[
        str,
        Setting(ED25519, "Their public key.", "Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw"),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """How this policy is changed. What the policy in force says here holds for the change that replaces it."""

    plan: Annotated[
        bool,
        Setting(
            Flag(),
            "Whether a change holds only once its plan has been applied. If not, a file that is changed by hand holds"
            " from SIGHUP or a restart on, if nobody's data would have to move for it.",
        ),
    ] = False
    approvals: Annotated[int, Setting(Integer(0, 100), "How many of the approvers must have approved a plan.")] = 0
    approvers: Annotated[tuple[Approver, ...], Setting(TablesOf(Approver), "Who may approve.")] = ()


def faults(changes: Changes) -> Iterator[Fault]:
    """Mistakes that show between several keys."""
    if changes.approvals and not changes.plan:
        yield Fault(("changes", "approvals"), "only plans are approved: this needs plan = true")
    if changes.approvals > len(changes.approvers):
        there = len(changes.approvers)
        yield Fault(("changes", "approvals"), f"there are only {there} approvers, so that nothing could ever change")
    names: dict[str, int] = {}
    keys: dict[str, int] = {}
    for index, approver in enumerate(changes.approvers):
        path = ("changes", "approvers", index)
        if approver.name and approver.name in names:
            yield Fault((*path, "name"), f"is that of changes.approvers[{names[approver.name]}] too")
        if approver.key and approver.key in keys:
            yield Fault((*path, "key"), f"is that of changes.approvers[{keys[approver.key]}] too: each has their own")
        names.setdefault(approver.name, index)
        keys.setdefault(approver.key, index)
