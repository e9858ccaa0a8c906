"""A client from before there were versions of the specification: `r0` paths, and the token in the address."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.deployment import PASSWORD, Deployment
from tests.rooms.play import ciphertext
from tests.support import ON_SQLITE, aio

pytestmark = ON_SQLITE

R0 = "/_matrix/client/r0"


class OldClient:
    """Somebody who is logged in with such a client."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.token = ""
        self.user_id = ""

    async def asks(self, method: str, path: str, body: object = None, **query: str) -> dict[str, Any]:
        """Make a request that has to succeed."""
        answer = await self.deployment.asked(method, R0 + path, body, access_token=self.token, **query)
        assert answer.status == 200, (method, path, answer)
        return answer.json

    async def registers(self, username: str) -> None:
        auth = {"type": "m.login.dummy"}
        body = {"username": username, "password": PASSWORD, "auth": auth}
        answer = await self.deployment.asked("POST", R0 + "/register", body)
        self.token, self.user_id = answer.json["access_token"], answer.json["user_id"]


@aio
async def test_a_day_of_an_old_client(deployment: Deployment) -> None:
    versions = (await deployment.asked("GET", "/_matrix/client/versions")).json["versions"]
    assert "r0.6.1" in versions
    alice, bob = OldClient(deployment), OldClient(deployment)
    for client, name in ((alice, "alice"), (bob, "bob")):
        await client.registers(name)
        user = quote(client.user_id)
        filter_id = (await client.asks("POST", f"/user/{user}/filter", {"room": {"timeline": {"limit": 8}}}))[
            "filter_id"
        ]
        assert (await client.asks("GET", "/sync", filter=filter_id))["next_batch"]
        await client.asks("PUT", f"/profile/{user}/displayname", {"displayname": name.title()})
        await client.asks("GET", "/pushrules/")
    made = {"visibility": "private", "invite": [bob.user_id], "preset": "private_chat"}
    room = "/rooms/" + quote((await alice.asks("POST", "/createRoom", made))["room_id"])
    await bob.asks("POST", room + "/join", {})
    for kind, content in (("m.room.name", {"name": "Roses"}), ("m.room.topic", {"topic": "Red ones"})):
        await alice.asks("PUT", f"{room}/state/{kind}", content)
        assert await bob.asks("GET", f"{room}/state/{kind}") == content
    begin = (await bob.asks("GET", "/events"))["end"]
    sent = (await alice.asks("PUT", room + "/send/m.room.encrypted/1", ciphertext("hello")))["event_id"]
    told = await bob.asks("GET", "/events", **{"from": begin})
    assert [event["event_id"] for event in told["chunk"]] == [sent]
    await bob.asks("POST", f"{room}/receipt/m.read/{quote(sent)}", {})
    await bob.asks("PUT", f"{room}/typing/{quote(bob.user_id)}", {"typing": True, "timeout": 1000})
    snapshot = (await bob.asks("GET", "/initialSync", limit="1"))["rooms"]
    assert [event["event_id"] for each in snapshot for event in each["messages"]["chunk"]] == [sent]
    page = await bob.asks("GET", room + "/messages", dir="b", limit="1")
    assert [event["event_id"] for event in page["chunk"]] == [sent]
    assert set((await bob.asks("GET", room + "/joined_members"))["joined"]) == {alice.user_id, bob.user_id}
    await bob.asks("POST", room + "/leave", {})
    await bob.asks("POST", "/logout", {})
    gone = await deployment.asked("GET", R0 + "/sync", access_token=bob.token)
    assert (gone.status, gone.errcode) == (401, "M_UNKNOWN_TOKEN")
