"""What clients are told for calls: a TURN server with a password that holds for a while, and media servers."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path

from tests.deployment import SETTINGS, Deploy, Deployment
from tests.support import aio

TURN = "/_matrix/client/v3/voip/turnServer"
TRANSPORTS = "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports"
WELL_KNOWN = "/.well-known/matrix/client"

URIS = ["turn:turn.example.org:3478?transport=udp", "turns:turn.example.org:5349"]


@aio
async def test_a_password_that_the_turn_server_can_check(deploy: Deploy, tmp_path: Path) -> None:
    secret = tmp_path / "turn.secret"
    secret.write_text("s3cret\n")
    table = f'[turn]\nuris = {URIS}\nsecret_file = "{secret}"\nlifetime = "10m"\n'
    deployment = await deploy(settings=SETTINGS + table)
    alice = await deployment.user("alice")
    answer = (await alice.asks("GET", TURN)).json
    assert (answer["uris"], answer["ttl"]) == (URIS, 600)
    ends, user_id = answer["username"].split(":", 1)
    assert (int(ends), user_id) == (deployment.clock.now_ms() // 1000 + 600, alice.user_id)
    expected = hmac.new(b"s3cret", answer["username"].encode(), hashlib.sha1).digest()
    assert base64.b64decode(answer["password"]) == expected
    assert (await deployment.asked("GET", TURN)).status == 401


@aio
async def test_no_turn_server_and_no_media_server(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    assert (await alice.asks("GET", TURN)).errcode == "M_NOT_FOUND"
    assert (await alice.asks("GET", TRANSPORTS)).json == {"rtc_transports": []}
    assert "org.matrix.msc4143.rtc_foci" not in (await deployment.asked("GET", WELL_KNOWN)).json


@aio
async def test_media_servers(deploy: Deploy) -> None:
    deployment = await deploy(settings=SETTINGS + '[rtc]\nlivekit = ["https://livekit.example.org/jwt/"]\n')
    alice = await deployment.user("alice")
    expected = [{"type": "livekit", "livekit_service_url": "https://livekit.example.org/jwt"}]
    assert (await alice.asks("GET", TRANSPORTS)).json == {"rtc_transports": expected}
    assert (await deployment.asked("GET", WELL_KNOWN)).json["org.matrix.msc4143.rtc_foci"] == expected
    assert (await deployment.asked("GET", TRANSPORTS)).status == 401
    features = (await deployment.asked("GET", "/_matrix/client/versions")).json["unstable_features"]
    assert features["org.matrix.msc4143"] is True
