"""A user is asked before rooms of theirs cross a border: each door that brings somebody into a room asks here.

A consent leads from the jurisdiction where the user's data rests to another one, and covers the data classes that the
page told of: when more comes to flow there, the user is asked again. Nobody is asked about what the policy forbids;
that is the gate's to say, before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.protocol.errors import ConsentNotGiven, Forbidden
from homeserver.residency import consent_links, exposure, gate
from homeserver.residency.consent_links import Asked
from homeserver.storage import application_services, users
from homeserver.storage import consents as stored
from homeserver.storage.consents import Consent

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from config.residency import DataClass
    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node


class Told(NamedTuple):
    """What somebody is told who is asked: the classes that flow to each jurisdiction, by this version of the policy."""

    classes: Mapping[str, Sequence[DataClass]]
    policy_serial: int


def told(server: Server, asked: Asked) -> Told:
    """What there is to be told now. Raises FlowDenied where the policy lets no room cross any more."""
    for target in asked.targets:
        gate.check_room(server, (asked.source, target))
    classes = {target: exposure.classes(server, asked.source, target) for target in asked.targets}
    return Told(classes, server.policy.now.serial)


async def check(server: Server, node: Node, user_id: str, jurisdictions: Collection[str]) -> None:
    """Refuse to let rooms of a resident of ``node`` reach jurisdictions to which they have not agreed.

    Raises ConsentNotGiven, with the address of the page that asks.
    """
    lacking = await _lacking(server, node, user_id, jurisdictions)
    if lacking is not None:
        labels = [server.policy.now.label(target) for target in lacking.targets]
        raise ConsentNotGiven(
            f"This would bring a room of yours to {' and '.join(labels)}, where copies of it would rest. Read what that"
            " means, and agree to it, on the page that this answer names; then try again.",
            consent_uri=consent_links.link(server, lacking),
            source=lacking.source,
            targets=lacking.targets,
        )


async def check_absent(server: Server, user_id: str, jurisdictions: Collection[str]) -> None:
    """Refuse to do, in the name of one of ours who is not there to be asked, what `check` would ask them about.

    Raises Forbidden, NodeUnavailable.
    """
    node = await server.nodes.of_user(user_id)
    if node is None or await _lacking(server, node, user_id, jurisdictions) is not None:
        raise Forbidden("Whoever invites has not agreed that the room reaches that place")


async def _lacking(server: Server, node: Node, user_id: str, jurisdictions: Collection[str]) -> Asked | None:
    """What a user has still to be asked.

    No user of an application service's own is asked: the operator has said where the service runs.
    """
    policy, here = server.policy.now, node.jurisdiction
    asked = sorted(target for target in set(jurisdictions) if policy.asks_consent(here, target))
    if not asked:
        return None
    found = await node.read(_given, user_id)
    if found is None:
        raise Forbidden("That is no user of this server")
    user_nid, of_service, given = found
    if of_service and server.services.excluding_from_user(user_id) is not None:
        return None
    holding = {each.target: each for each in given if each.source == here and each.withdrawn_ts is None}
    lacking = tuple(target for target in asked if not _covers(server, holding.get(target)))
    return Asked(user_id, user_nid, node, here, lacking) if lacking else None


async def _given(tx: Transaction, user_id: str) -> tuple[int, bool, list[Consent]] | None:
    """The row id of a user, whether a service has made them, and to what they have agreed."""
    user_nid = await users.resident(tx, user_id)
    if user_nid is None:
        return None
    return user_nid, await application_services.has_made(tx, user_nid), await stored.of_user(tx, user_nid)


def _covers(server: Server, consent: Consent | None) -> bool:
    """Whether a consent tells of everything that would flow now."""
    return consent is not None and set(exposure.classes(server, consent.source, consent.target)) <= set(consent.classes)


def holds(server: Server, consent: Consent) -> bool:
    """Whether the user is not asked again, because of this consent."""
    return consent.withdrawn_ts is None and _covers(server, consent)


async def of_user(node: Node, user_nid: int) -> list[Consent]:
    """All that a resident has agreed to, also what holds no more; the newest first."""
    return await node.read(stored.of_user, user_nid)


async def give(server: Server, asked: Asked, told: Told, shown: bytes, language: str) -> None:
    """Note the yes of somebody who was told this: ``shown`` is the digest of the page's text, in that language."""
    now = server.clock.now_ms()
    agreed = [
        Consent(asked.source, target, tuple(classes), shown, language, told.policy_serial, now)
        for target, classes in told.classes.items()
    ]
    await asked.node.write(_put, asked.user_nid, agreed)


async def _put(tx: Transaction, user_nid: int, agreed: Sequence[Consent]) -> None:
    stored.put(tx, user_nid, agreed)


async def withdraw(server: Server, node: Node, user_nid: int, targets: Collection[str]) -> None:
    """Take back what a resident has agreed to: they are asked again. What has left stays where it is."""
    await node.write(_withdraw, user_nid, node.jurisdiction, targets, server.clock.now_ms())


async def _withdraw(tx: Transaction, user_nid: int, source: str, targets: Collection[str], now_ms: int) -> None:
    stored.withdraw(tx, user_nid, source, targets, now_ms)
