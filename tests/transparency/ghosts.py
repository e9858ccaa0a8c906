"""Devices that somebody who runs the server gives to a user, in order to read along."""

from __future__ import annotations

import orjson

from homeserver.control import commands
from homeserver.protocol.signing import SigningKey, sign_json
from homeserver.storage.engine import Transaction
from homeserver.storage.nodes import Node
from tests.deployment import Deployment, User
from tests.e2ee.play import OLM, Device, random_key

GHOST = "GHOST"
NEW_PASSWORD = "known to the operator"


def forged(user_id: str) -> list[tuple[str, tuple[str | bytes, ...]]]:
    """What gives a user a device with keys of its own and a one-time key: statements, and their parameters."""
    key = SigningKey.generate(GHOST)
    keys = {
        "user_id": user_id,
        "device_id": GHOST,
        "algorithms": [OLM, "m.megolm.v1.aes-sha2"],
        "keys": {f"curve25519:{GHOST}": random_key(), f"ed25519:{GHOST}": key.verify_key.base64},
    }
    one_time = sign_json({"key": random_key()}, user_id, key)
    mine = "(SELECT user_nid FROM users WHERE user_id = ?)"
    return [
        (f"INSERT INTO devices (user_nid, device_id, created_ts) VALUES ({mine}, ?, 0)", (user_id, GHOST)),
        (
            f"INSERT INTO device_keys (user_nid, device_id, keys) VALUES ({mine}, ?, ?)",
            (user_id, GHOST, orjson.dumps(sign_json(keys, user_id, key))),
        ),
        (
            "INSERT INTO one_time_keys (user_nid, device_nid, algorithm, key_id, key)"
            f" VALUES ({mine}, (SELECT device_nid FROM devices WHERE device_id = ?), 'signed_curve25519', 'AAAA', ?)",
            (user_id, GHOST, orjson.dumps(one_time)),
        ),
    ]


async def by_sql(node: Node, user_id: str) -> None:
    """Put a device into the database of the user's node, by hand."""

    async def put(tx: Transaction) -> None:
        for sql, parameters in forged(user_id):
            await tx.run(sql, *parameters)

    await node.write(put)


async def by_admin(deployment: Deployment, user_id: str) -> Device:
    """Log in with a password that an operator has set, which logs all other devices out, and publish keys."""
    await commands.perform(deployment.server, "user-reset-password", {"user": user_id, "password": NEW_PASSWORD})
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": user_id},
        "password": NEW_PASSWORD,
    }
    answer = await deployment.asked("POST", "/_matrix/client/v3/login", body)
    assert answer.status == 200, answer
    ghost = Device(User(deployment, user_id, answer.json["device_id"], answer.json["access_token"]))
    await ghost.publish(one_time_keys=ghost.one_time_keys("A"))
    return ghost
