"""An administrator who is moved to another node: what they are and what they did goes along."""

from __future__ import annotations

from homeserver.accounts import roles
from homeserver.protocol.roles import Role
from tests.administration.office import API
from tests.moves.conftest import stage
from tests.moves.play import Staging
from tests.support import ON_SQLITE, aio

__all__ = ["stage"]


@ON_SQLITE
@aio
async def test_roles_and_log_go_along_and_nothing_of_them_is_left(stage: Staging) -> None:
    play = await stage()
    alice = (await play.device("alice")).user
    await roles.give(play.server, alice.user_id, Role.AUDITOR)
    assert (await alice.asks("POST", API + "/users", {})).status == 403
    await play.move(alice)
    answer = await alice.asks("GET", API + "/log")
    assert answer.status == 200
    assert (answer.json["intact"], answer.json["faults"]) == (True, [])
    entries = [(each["node"], each["command"], each["outcome"]) for each in answer.json["entries"] if each["node"]]
    moved = [("paris", "residency-move", "begun"), ("paris", "residency-move", "done")]
    assert entries == [("paris", "user-add", "refused"), *moved]
    assert not {"roles", "admin_log", "admin_log_heads"} & (await play.rows_of("tehran", alice)).keys()
    assert (await alice.asks("POST", API + "/users", {})).status == 403
    assert len((await alice.asks("GET", API + "/log")).json["entries"]) == 4
    taken = (await alice.asks("GET", API + "/residency/export")).json["tables"]
    assert (len(taken["roles"]), len(taken["admin_log"])) == (1, 4)
