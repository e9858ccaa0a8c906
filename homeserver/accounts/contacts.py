"""Phone numbers and addresses of an account.

spec: client-server-api/#adding-account-administrative-contact-information
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.storage import accounts as stored

if TYPE_CHECKING:
    from homeserver.context import Caller


async def of_caller(caller: Caller) -> list[dict[str, Any]]:
    """The caller's, as they are shown. spec: client-server-api/#get_matrixclientv3account3pid"""
    return [
        {
            "medium": threepid.medium,
            "address": threepid.address,
            "validated_at": threepid.validated_ts,
            "added_at": threepid.added_ts,
        }
        for threepid in await caller.node.read(stored.threepids, caller.user_nid)
    ]
