"""What never leaves, whatever flows. Values are put into the classes of which that holds, and when all rows have been
tried, they are looked for in all that has left and in all that rests elsewhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import quote

from config.residency import DataClass
from homeserver.storage import accounts
from homeserver.storage.accounts import Threepid
from tests.deployment import PASSWORD, User
from tests.rooms.play import CLIENT

AGENT, ADDRESS = "Petrel/7.1", "203.0.113.77"


@dataclass(frozen=True)
class Planted:
    """A value that was put somewhere. ``rests``: it is in the files of the node where its owner is at home."""

    what: str
    data_class: DataClass
    value: bytes
    rests: bool = True


async def plant(user: User) -> list[Planted]:
    """Put a value into each kind of thing of a user that never leaves."""
    planted = [Planted("access token", DataClass.ACCOUNT, user.token.encode(), rests=False)]
    planted.append(Planted("password", DataClass.ACCOUNT, PASSWORD.encode(), rests=False))
    for what, (data_class, put) in KINDS.items():
        value = f"petrel-{what.replace(' ', '-')}"
        await put(user, value)
        planted.append(Planted(what, data_class, value.encode()))
    await user.deployment.site.call(
        "GET",
        f"{CLIENT}/account/whoami",
        headers={"Authorization": f"Bearer {user.token}", "User-Agent": AGENT},
        address=ADDRESS,
    )
    planted += [Planted(each, DataClass.SESSIONS, each.encode(), rests=False) for each in (AGENT, ADDRESS)]
    return planted


async def asks(user: User, method: str, path: str, body: object, **query: str) -> dict[str, object]:
    answer = await user.asks(method, CLIENT + path, body, **query)
    assert answer.status == 200, answer
    return answer.json


async def account_data(user: User, value: str) -> None:
    await asks(user, "PUT", f"/user/{quote(user.user_id)}/account_data/org.example.note", {"note": value})


async def secret(user: User, value: str) -> None:
    path = f"/user/{quote(user.user_id)}/account_data/m.cross_signing.master"
    await asks(user, "PUT", path, {"encrypted": {"key": {"ciphertext": value, "iv": "", "mac": ""}}})


async def push_rule(user: User, value: str) -> None:
    await asks(user, "PUT", f"/pushrules/global/content/{value}", {"pattern": value, "actions": ["notify"]})


async def filtering(user: User, value: str) -> None:
    await asks(user, "POST", f"/user/{quote(user.user_id)}/filter", {"event_fields": [value]})


async def address(user: User, value: str) -> None:
    caller = await user.caller()
    await caller.node.write(accounts.add_threepid, caller.user_nid, Threepid("email", f"{value}@example.com", 0, 0))


async def backup(user: User, value: str) -> None:
    about = {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {"public_key": f"{value}-key"}}
    version = str((await asks(user, "POST", "/room_keys/version", about))["version"])
    key = {
        "first_message_index": 0,
        "forwarded_count": 0,
        "is_verified": False,
        "session_data": {"ciphertext": value, "ephemeral": "e", "mac": "m"},
    }
    await asks(user, "PUT", "/room_keys/keys/!room:here.test/session", key, version=version)


KINDS: dict[str, tuple[DataClass, Callable[[User, str], Awaitable[None]]]] = {
    "account data": (DataClass.ACCOUNT, account_data),
    "push rule": (DataClass.ACCOUNT, push_rule),
    "filter": (DataClass.ACCOUNT, filtering),
    "e-mail address": (DataClass.ACCOUNT, address),
    "secret": (DataClass.KEY_BACKUP, secret),
    "key backup": (DataClass.KEY_BACKUP, backup),
}
