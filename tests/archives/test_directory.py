"""The directory comes back from an archive of it, and learns from the nodes what came since."""

from __future__ import annotations

import asyncio
import shutil
from typing import Any

import pytest

from homeserver.accounts import deactivation
from homeserver.archives import backing_up, restoring_directory
from homeserver.archives.reading import Archive
from homeserver.control import commands
from homeserver.doctor import routes
from homeserver.protocol.errors import Conflict
from homeserver.storage import closed_accounts
from tests.archives.play import House
from tests.media.transfers import uploaded
from tests.support import aio


async def examined(house: House) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await commands.perform(house.play.server, "doctor", {}))["findings"]
    return found


@aio
async def test_what_came_after_the_archive_is_learned_from_the_nodes(house: House) -> None:
    play = house.play
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    server, file = play.server, house.folder / "directory.tar"
    answer = await backing_up.begin(server, None, file, None)
    while not answer["done"]:
        answer = await backing_up.progress(server)
    assert b"alice" not in file.read_bytes()
    dave = await play.user("dave", "paris")
    await deactivation.deactivate(server, bob.user_id)
    await play.create(alice, room_alias_name="tea", visibility="public")
    await uploaded(alice, b"ciphertext")
    await play.settle()
    await house.end()

    place = house.folder / "directory" / "node.db"
    await asyncio.to_thread(shutil.rmtree, place.parent)
    damaged = house.folder / "damaged.tar"
    damaged.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(Conflict, match="nothing was restored"):
        await restoring_directory.restore(Archive(damaged), "example.org", place)
    with pytest.raises(Conflict, match="no archive of the directory of elsewhere"):
        await restoring_directory.restore(Archive(file), "elsewhere.example", place)
    assert not place.exists()
    await restoring_directory.restore(Archive(file), "example.org", place)
    with pytest.raises(Conflict, match="is there already"):
        await restoring_directory.restore(Archive(file), "example.org", place)
    assert place.stat().st_mode & 0o077 == 0

    await house.begin()
    server = house.play.server
    assert "users to which no route leads" in {each["what"] for each in await examined(house)}
    assert (await house.play.deployment.login(dave)).errcode == "M_FORBIDDEN"
    assert await routes.rebuild(server) == {"user": 1, "room": 1, "alias": 1, "media": 1}
    assert await examined(house) == []
    assert (await house.play.deployment.login(dave)).status == 200
    assert await closed_accounts.among(server.nodes.directory, ["alice", "bob"]) == {"bob": False}
    assert await routes.rebuild(server) == {}
