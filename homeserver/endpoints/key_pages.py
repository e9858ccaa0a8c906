"""The page on which users see which devices others encrypt for, and when their keys have changed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from homeserver.e2ee import own_keys
from homeserver.endpoints import browsing
from homeserver.protocol.key_log import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from homeserver.context import Server
    from homeserver.e2ee.own_keys import OwnDevice
    from homeserver.web.messages import Request, Response

KEYS: Final = "/_domicile/keys"

WHY: Final[Mapping[Reason, str]] = {
    Reason.DEVICE_KEYS: "A device published keys.",
    Reason.DEVICE_REMOVED: "Devices were removed.",
    Reason.CROSS_SIGNING: "Keys to sign devices with were published.",
    Reason.IDENTITY_RESET: "Your identity was reset.",
    Reason.DEACTIVATED: "The account was closed.",
    Reason.ARRIVED: "Your account came to this place.",
    Reason.LEFT: "Your account left this place.",
    Reason.FOUND: "These keys were there before there was a log.",
}
"""What a leaf of the log says to whom it is about."""

UNLOGGED: Final = "The key log does not know this device: somebody has put it there. Nobody else is shown it."
CONTESTED: Final = (
    "Your identity was reset while devices that you had signed are still there. Nobody else is shown a device of yours"
    " until one of those has verified the new identity, or they are logged out."
)
WITHHELD: Final = "You have not signed this device: nobody else is shown it any more. Verify it, or log it out."
UNSIGNED: Final = "You have not signed this device yet. Verify it with another of yours, or log it out."
SIGNED: Final = "You have signed this device."


@browsing.page("GET", KEYS)
async def keys_page(server: Server, request: Request) -> Response:
    """Show who is signed in which of their devices have keys, and all changes of them."""
    browser = await browsing.browser_of(server, request)
    if browser.visitor is None:
        return browsing.to_login(server, KEYS)
    visitor, spoken = browser.visitor, browser.language
    found = await own_keys.of_user(server, visitor.node, visitor.user_id)
    return browsing.show(
        server,
        browser,
        "keys.html",
        user_id=visitor.user_id,
        devices=[
            {
                "id": each.device_id,
                "name": each.name,
                "said": spoken.text(_state(each)),
                "wrong": not each.logged or each.withheld,
            }
            for each in found.devices
        ],
        changes=[
            {
                "day": spoken.day(each.ts),
                "time": datetime.fromtimestamp(each.ts / 1000, UTC).strftime("%H:%M UTC"),
                "why": spoken.text(WHY[each.reason]),
                "node": each.node,
            }
            for each in reversed(found.changes)
        ],
        down=found.down,
    )


def _state(device: OwnDevice) -> str:
    if not device.logged:
        return UNLOGGED
    if device.contested:
        return CONTESTED
    if device.withheld:
        return WITHHELD
    return "" if device.signed is None else SIGNED if device.signed else UNSIGNED
