"""Receipts of withdrawals: what the nodes of a jurisdiction sign when the deployment has left it.

Canonical JSON, signed by the keys of all its nodes, which the residency key certifies in it: that key alone is needed
to check one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from homeserver.protocol import canonical
from homeserver.protocol.move_receipts import certificate
from homeserver.protocol.signing import sign_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from homeserver.protocol.signing import SigningKey

KIND: Final = "org.domicile.withdrawal_receipt"
"""What the signatures are for."""


def signed(
    said: Mapping[str, Any], server_name: str, keys: Mapping[str, SigningKey], residency_key: SigningKey
) -> bytes:
    """A receipt as it is kept. ``keys``: of the nodes that are no more, by name."""
    receipt: dict[str, Any] = {
        "type": KIND,
        "server_name": server_name,
        **said,
        "keys": [certificate(server_name, name, key.verify_key, residency_key) for name, key in sorted(keys.items())],
    }
    for name, key in sorted(keys.items()):
        receipt = sign_json(receipt, name, key)
    return canonical.encode(receipt)
