"""What both nodes sign of a move, and what somebody can check who has the deployment's public key and nothing else."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from homeserver.protocol import canonical, move_receipts
from homeserver.protocol.errors import InvalidSignature
from homeserver.protocol.signing import SigningKey, VerifyKey
from tests.moves.play import Stage, Staging
from tests.support import aio


async def moved(play: Stage) -> dict[str, Any]:
    """What an operator is shown of two moves of a user."""
    alice = await play.device("alice")
    await play.create(alice.user)
    await play.move(alice)
    await play.move(alice, "tehran")
    return await play.command("residency-receipts", user="alice")


@aio
async def test_receipts_can_be_checked_and_form_a_chain(stage: Staging) -> None:
    answer = await moved(await stage())
    key = VerifyKey.from_base64(answer["key_id"], answer["key"])
    first, second = (receipt.encode() for receipt in answer["receipts"])
    said = move_receipts.verify(first, "example.org", key)
    assert (said["from"], said["to"]) == (
        {"node": "tehran", "jurisdiction": "IR"},
        {"node": "paris", "jurisdiction": "FR"},
    )
    assert said["user_id"] == "@alice:example.org"
    assert said["begun_ts"] <= said["switched_ts"] <= said["ended_ts"]
    assert said["copied"]["accounts"]["rows"] == 1
    assert said["copied"]["one_time_keys"]["rows"] == 3
    assert said["erased"]["rooms"] == 1
    assert said["previous"] is None
    assert move_receipts.verify(second, "example.org", key)["previous"] == move_receipts.digest(first)
    # What came along untouched is the same on both ways.
    copied = [orjson.loads(receipt)["copied"]["one_time_keys"] for receipt in (first, second)]
    assert copied[0] == copied[1]


@aio
async def test_whatever_is_changed_shows(stage: Staging) -> None:
    play = await stage()
    answer = await moved(play)
    key = VerifyKey.from_base64(answer["key_id"], answer["key"])
    receipt = answer["receipts"][0].encode()
    said = orjson.loads(receipt)
    changes: list[dict[str, Any]] = [{**said, name: None} for name in said]
    changes += [{name: value for name, value in said.items() if name != left} for left in said]
    changes.append({**said, "to": {"node": "berlin", "jurisdiction": "DE"}})
    changes.append({**said, "keys": [said["keys"][0], said["keys"][0]]})
    changes.append({**said, "signatures": {**said["signatures"], "paris": said["signatures"]["tehran"]}})
    for changed in changes:
        if changed != said:
            with pytest.raises(InvalidSignature):
                move_receipts.verify(canonical.encode(changed), "example.org", key)
    with pytest.raises(InvalidSignature):
        move_receipts.verify(receipt + b" ", "example.org", key)
    with pytest.raises(InvalidSignature):
        move_receipts.verify(receipt, "example.net", key)
    with pytest.raises(InvalidSignature):
        move_receipts.verify(receipt, "example.org", SigningKey("residency", b"x" * 32).verify_key)
    with pytest.raises(InvalidSignature):
        move_receipts.verify(b"{}", "example.org", key)


def test_keys_of_others_do_not_count() -> None:
    """A deployment's key certifies the keys of nodes: another's certificate is worth nothing, however well signed."""
    ours, theirs = SigningKey("residency", b"a" * 32), SigningKey("residency", b"b" * 32)
    keys = {name: SigningKey(move_receipts.key_name_of(name), name.encode().ljust(32)) for name in ("one", "two")}
    receipt = move_receipts.Receipt(
        server_name="example.org",
        move_id="m",
        user_id="@a:example.org",
        source="one",
        source_jurisdiction="IR",
        target="two",
        target_jurisdiction="FR",
        begun_ts=1,
        switched_ts=2,
        ended_ts=3,
        copied={},
        files=0,
        erased_files=0,
        erased_rooms=0,
        previous=None,
    )
    assert move_receipts.verify(move_receipts.signed(receipt, keys, ours), "example.org", ours.verify_key)
    with pytest.raises(InvalidSignature):
        move_receipts.verify(move_receipts.signed(receipt, keys, theirs), "example.org", ours.verify_key)
