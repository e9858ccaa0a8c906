"""Who calls when an application service does: the user, and the device, that it names in its request.

A service acts as those whom a service has made, and as nobody else in its namespace: not as people.

What is known of them is remembered, and forgotten whenever a session or device of the user changes, so that a busy
bridge costs no trip for each request.

spec: application-service-api/#identity-assertion
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.context import Caller
from homeserver.protocol.errors import Forbidden, UnknownDevice, UserLocked
from homeserver.protocol.identifiers import localpart_of
from homeserver.residency import gate
from homeserver.runtime.lru import Lru
from homeserver.storage import accounts, dehydrated_devices, devices
from homeserver.storage import application_services as stored
from homeserver.storage.nodes import Mirror

if TYPE_CHECKING:
    from config.application_services import ApplicationService
    from homeserver.context import Server
    from homeserver.storage.accounts import Account
    from homeserver.storage.devices import Device
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

REMEMBERED = 20_000
"""Users of a node."""

DEVICES_OF_A_USER = 50


class _Known(NamedTuple):
    caller: Caller
    locked: bool


class Masks(Mirror):
    """The callers that services have been (``node.memory(Masks)``): by user id, then by service and device id.

    ``generation`` counts what was forgotten, so that nothing read before that is remembered after it.
    """

    def __init__(self) -> None:
        self.held: Lru[str, dict[tuple[str, str | None], _Known]] = Lru(REMEMBERED)
        self.generation = 0

    def forget(self, user_id: str) -> None:
        """Something about the user's account or devices has changed."""
        self.generation += 1
        self.held.pop(user_id)

    def clear(self) -> None:
        """See `Mirror.clear`."""
        self.generation += 1
        self.held.clear()


async def caller(
    server: Server, service: ApplicationService, user_id: str | None = None, device_id: str | None = None
) -> Caller:
    """The user (the service's own when None) and the device, if one is named, that a service acts as.

    Raises Forbidden for a user who is not the service's or whom none has made, FlowDenied when what rests with the user
    may not go to where the service runs, UnknownDevice, UserLocked, NodeUnavailable.
    """
    user_id = service.sender if user_id is None else user_id
    if not service.has_user(user_id):
        raise Forbidden("This application service may not act as that user: they are not in its namespace")
    node = await server.nodes.of_user(user_id)
    if node is None:
        raise Forbidden("The application service has not registered this user")
    gate.check_room(server, {node.jurisdiction, service.jurisdiction})
    held = node.memory(Masks).held.get(user_id)
    known = None if held is None else held.get((service.id, device_id))
    if known is None:
        known = await _load(node, service, user_id, device_id)
    if known.locked:
        raise UserLocked
    return known.caller


async def _load(node: Node, service: ApplicationService, user_id: str, device_id: str | None) -> _Known:
    memory = node.memory(Masks)
    generation = memory.generation
    account, made, device = await node.read(_find, user_id, device_id)
    if account is None or account.deactivated_ts is not None:
        raise Forbidden("The application service has not registered this user")
    if not made:
        raise Forbidden(
            "Application services act as users whom they have made, and not as people",
            **{"org.domicile.reason": "not_made_by_service"},
        )
    if device_id is not None and device is None:
        raise UnknownDevice("The user has no such device")
    known = _Known(
        Caller(
            user_id=user_id,
            localpart=localpart_of(user_id),
            node=node,
            user_nid=account.user_nid,
            device_id="" if device is None else device.device_id,
            device_nid=0 if device is None else device.device_nid,
            admin=account.admin,
            guest=account.guest,
            suspended=account.suspended,
            service=service,
        ),
        account.locked,
    )
    if generation == memory.generation:
        of_user = memory.held.get(user_id)
        if of_user is None or len(of_user) >= DEVICES_OF_A_USER:
            of_user = memory.held[user_id] = {}
        of_user[service.id, device_id] = known
    return known


async def _find(tx: Transaction, user_id: str, device_id: str | None) -> tuple[Account | None, bool, Device | None]:
    """The account, whether a service has made it, and the device."""
    account = await accounts.find(tx, user_id)
    if account is None or not await stored.has_made(tx, account.user_nid):
        return account, False, None
    if device_id is None:
        return account, True, None
    device = await devices.find(tx, account.user_nid, device_id)
    if device is not None and await dehydrated_devices.is_one(tx, account.user_nid, device.device_nid):
        return account, True, None
    return account, True, device
