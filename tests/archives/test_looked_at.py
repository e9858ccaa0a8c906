"""An audit looks into archives too: what was planted before they were made is found in them, and where."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from homeserver.archives import backing_up
from homeserver.archives.sealing import make_key, public_key
from homeserver.control import commands
from homeserver.protocol.errors import Conflict
from homeserver.residency.proofs.audit import Fault
from homeserver.storage.directory import Kind
from tests.archives.play import House
from tests.media.transfers import uploaded
from tests.support import aio


async def found(house: House, *files: Path, **more: Any) -> set[tuple[str, str, str | None]]:
    """What an audit finds in archives: table or file, fault, owner."""
    arguments = {"backups": [str(file) for file in files], **more}
    answer = await commands.perform(house.play.server, "residency-audit", arguments)
    assert [each["file"] for each in answer["backups"]] == [str(file) for file in files]
    assert answer["violations"] == sum(each["violation"] for each in answer["findings"])
    return {(each["where"], each["fault"], each["user_id"]) for each in answer["findings"] if each["file"]}


@aio
async def test_what_is_planted_is_found_in_the_archive(house: House) -> None:
    play = house.play
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    await play.send(alice, await play.room_of(alice, bob), "hello")
    await uploaded(alice, b"ciphertext")
    await play.settle()
    await house.back_up()
    assert await found(house, house.archive) == set()

    with contextlib.closing(sqlite3.connect(house.folder / "tehran" / "node.db")) as past_all_guards:
        past_all_guards.execute(
            "INSERT INTO threepids (medium, address, user_nid, validated_ts, added_ts)"
            " SELECT 'email', 'bob@example.org', user_nid, 1, 1 FROM users WHERE user_id = ?",
            (bob.user_id,),
        )
        past_all_guards.commit()
    later, sealed = house.folder / "later.tar", house.folder / "sealed.tar"
    house.archive = later
    await house.back_up()
    planted = ("threepids", Fault.PINNED_ELSEWHERE, bob.user_id)
    assert await found(house, house.folder / "tehran.tar", later) == {planted}

    private, public = make_key()
    server = play.server
    answer = await backing_up.begin(server, server.nodes["tehran"], sealed, public_key(public))
    while not answer["done"]:
        answer = await backing_up.progress(server)
    with pytest.raises(Conflict, match="sealed"):
        await found(house, sealed)
    assert await found(house, sealed, key=private) == {planted}

    await server.nodes.directory.reroute(Kind.USER, "alice", "paris")
    moved = await found(house, house.folder / "tehran.tar")
    assert ("accounts", Fault.PINNED_ELSEWHERE, alice.user_id) in moved, "an archive from before a move still has them"
    await server.nodes.directory.reroute(Kind.USER, "alice", "tehran")

    later.write_bytes(later.read_bytes()[: later.stat().st_size // 2])
    with pytest.raises(Conflict, match="cannot be used"):
        await found(house, later)
    assert not list(server.settings.data_dir.glob("looked-at-*"))
