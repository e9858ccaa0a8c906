"""What a plan says of users, rooms and servers; that it changes nothing; and what its digest stands for."""

from __future__ import annotations

import pytest

from config.load import policy_from_text
from config.placement import Attributes
from config.problems import Faults
from homeserver.accounts import registration, registration_tokens
from homeserver.accounts.registration import NewAccount
from homeserver.protocol.errors import Conflict
from homeserver.residency.changes import comparing, planning
from homeserver.residency.changes.surveying import NAMED, Named
from homeserver.storage.engine import Transaction
from tests.deployment import FLOWING, POLICY, Deploy, Deployment
from tests.e2ee.play import Cast
from tests.residency.planned import Rerouting, following, founded, moving, planned
from tests.support import Databases, aio

LYON = """
[nodes.lyon]
jurisdiction = "FR"
database = "sqlite:lyon/node.db"
media = "file:lyon/media"
"""
PARIS = '[nodes.paris]\njurisdiction = "FR"\ndatabase = "sqlite:paris/node.db"\nmedia = "file:paris/media"\n'
TO_LYON = (PARIS, LYON), ('node = "paris"', 'node = "lyon"')


async def with_token(deployment: Deployment, localpart: str, token: str) -> str:
    """Make an account by a registration token, which the pin rules look at."""
    await registration_tokens.create(deployment.server, token)
    wanted = NewAccount(localpart=localpart, password=None, attributes=Attributes(token=token, may_ask=False))
    return (await registration.register(deployment.server, wanted)).user_id


@aio
async def test_nothing_changes_but_comments(deploy: Deploy) -> None:
    server = (await deploy()).server
    await founded(server, POLICY)
    made = await planned(server, "# hello\n" + POLICY)
    assert not made.changed
    assert planning.shown(made)["digest"] is None


@aio
async def test_rooms_that_break_a_rule_are_named_with_what_is_missing(cast: Cast) -> None:
    play = await cast(policy=FLOWING)
    await founded(play.server, FLOWING)
    parisa, pierre = await play.user("parisa"), await play.user("pierre", "paris")
    both = await play.room_of(parisa, pierre)
    await play.room_of(parisa, await play.user("reza"))
    out = 'from = "IR"\nto = ["FR"]\nclasses = '
    text = following(FLOWING, (f'{out}["*"]', f'{out}["events"]'))
    made = await planned(play.server, text)
    shown = planning.shown(made)
    assert [room["room_id"] for room in shown["rooms"]["rooms"]] == [both]
    assert shown["rooms"]["rooms"][0]["nodes"] == ["paris", "tehran"]
    assert shown["rooms"]["rooms"][0]["missing"] == [{"class": "keys", "from": "IR", "to": "FR"}]
    assert shown["pairs"] == {"opened": [], "closed": [["FR", "IR"]]}
    (lost,) = shown["flows"]["lost"]
    assert (lost["from"], lost["to"]) == ("IR", "FR")
    assert "events" not in lost["classes"]
    assert {"keys", "media"} <= set(lost["classes"])
    assert made.obstacles == []
    assert (await planned(play.server, text)).digest == made.digest, "it is the same plan as long as nothing happens"
    await play.room_of(parisa, pierre)
    assert (await planned(play.server, text)).digest != made.digest, "one more room would break the rule"
    assert play.server.policy.now.serial == 1


@aio
async def test_rooms_heal_and_jurisdictions_open(cast: Cast) -> None:
    play = await cast(policy=FLOWING)
    both = await play.room_of(await play.user("parisa"), await play.user("pierre", "paris"))
    await founded(play.server, POLICY)
    shown = planning.shown(await planned(play.server, following(FLOWING)))
    assert (shown["rooms"]["broken"], shown["rooms"]["healed"]) == (0, 1)
    assert shown["pairs"]["opened"] == [["FR", "IR"]]
    assert both not in str(shown)


@aio
async def test_users_of_a_node_that_goes_move_within_their_jurisdiction(deploy: Deploy) -> None:
    deployment = await deploy()
    await founded(deployment.server, POLICY)
    await deployment.user("parisa")
    pierre, marie = await deployment.user("pierre", "paris"), await deployment.user("marie", "paris")
    text = following(POLICY, *TO_LYON)
    made = await planned(moving(deployment.server, Rerouting()), text)
    (move,) = planning.shown(made)["moves"]
    assert (move["from"], move["to"], move["why"]) == ("paris", "lyon", "node gone")
    assert move["users"] == [marie.user_id, pierre.user_id]
    assert made.changes["nodes"]["new"] == ["lyon"]
    assert made.changes["nodes"]["gone"] == ["paris"]
    without = await planned(deployment.server, text)
    assert any(pierre.user_id in obstacle and "lyon" in obstacle for obstacle in without.obstacles)
    await deployment.user("luc", "paris")
    assert (await planned(deployment.server, text)).digest != without.digest


@aio
async def test_nobody_is_brought_to_another_jurisdiction_because_a_node_goes(deploy: Deploy) -> None:
    deployment = await deploy()
    await founded(deployment.server, POLICY)
    pierre = await deployment.user("pierre", "paris")
    server = moving(deployment.server, Rerouting())
    made = await planned(server, following(POLICY, (PARIS, ""), ('node = "paris"', 'node = "tehran"')))
    assert planning.shown(made)["moves"][0]["to"] is None
    assert any("no place" in obstacle and pierre.user_id in obstacle for obstacle in made.obstacles)
    elsewhere = await planned(server, following(POLICY, (PARIS, PARIS.replace('"FR"', '"IR"'))))
    assert any("no place" in obstacle and pierre.user_id in obstacle for obstacle in elsewhere.obstacles)
    assert planning.shown(elsewhere)["moves"][0]["why"] == "node in another jurisdiction"


@aio
async def test_a_pin_rule_that_names_another_node_takes_those_along_whom_it_brought(cast: Cast) -> None:
    """And nobody else: not who was put there by an admin, nor who rests elsewhere by now."""
    play = await cast(policy=FLOWING)
    server = moving(play.server, Rerouting())
    await founded(server, FLOWING)
    await play.user("admin", "paris")
    brought = await with_token(play.deployment, "pierre", "fr-1")
    text = following(FLOWING, ('node = "paris"', 'node = "tehran"'))
    (move,) = planning.shown(await planned(server, text))["moves"]
    assert (move["from"], move["to"], move["users"]) == ("paris", "tehran", [brought])
    assert move["why"] == 'pin rule token = "fr-*"'
    untouched = following(FLOWING, more='[retention.IR]\nsessions = "3d"\n')
    assert planning.shown(await planned(server, untouched))["moves"] == []
    assert made_rules(FLOWING, untouched) == {}
    await server.nodes["paris"].write(_forget_rule)
    assert planning.shown(await planned(server, text))["moves"] == []


def made_rules(before: str, after: str) -> dict[str, tuple[str, str]]:
    """The pin rules of one text that name another node in another."""
    return comparing.renamed_rules(policy_from_text(before), policy_from_text(after))


@aio
async def test_who_was_brought_by_a_rule_goes_where_it_says_when_their_node_goes(deploy: Deploy) -> None:
    """Even to another jurisdiction; others of the same node stay in theirs."""
    deployment = await deploy()
    server = moving(deployment.server, Rerouting())
    await founded(server, POLICY)
    await deployment.user("luc", "paris")
    brought = await with_token(deployment, "pierre", "fr-1")
    text = following(POLICY, (PARIS, LYON), ('node = "paris"', 'node = "tehran"'))
    moves = {move["to"]: move["users"] for move in planning.shown(await planned(server, text))["moves"]}
    assert moves == {"tehran": [brought], "lyon": ["@luc:example.org"]}


async def _forget_rule(tx: Transaction) -> None:
    await tx.run("UPDATE pins SET how = 'admin', rule = ''")


@aio
async def test_rooms_of_who_moves_across_a_border_are_looked_at_there(cast: Cast) -> None:
    """The room was within one jurisdiction, and nothing flows out of it."""
    play = await cast(policy=POLICY)
    server = moving(play.server, Rerouting())
    await founded(server, POLICY)
    await with_token(play.deployment, "pierre", "fr-1")
    pierre = await play.user("luc", "paris")
    await server.nodes["paris"].write(_by_token, pierre.user_id)
    room_id = await play.room_of(pierre, await play.user("marie", "paris"))
    made = await planned(server, following(POLICY, ('node = "paris"', 'node = "tehran"')))
    assert [room.room_id for room in made.survey.broken] == [room_id]


async def _by_token(tx: Transaction, user_id: str) -> None:
    await tx.run(
        "UPDATE pins SET how = 'token', rule = 'token = \"fr-*\"'"
        " WHERE user_nid = (SELECT user_nid FROM users WHERE user_id = ?)",
        user_id,
    )


@aio
async def test_bytes_of_files_are_counted_and_change_no_digest(deploy: Deploy) -> None:
    deployment = await deploy()
    await founded(deployment.server, POLICY)
    pierre = await deployment.user("pierre", "paris")
    text = following(POLICY, *TO_LYON)
    before = await planned(deployment.server, text)
    assert before.survey.bytes_to_copy == 0
    assert (await pierre.asks("POST", "/_matrix/media/v3/upload", b"x" * 1234)).status == 200
    after = await planned(deployment.server, text)
    assert after.survey.bytes_to_copy == 1234
    assert after.digest == before.digest


@aio
async def test_a_node_that_is_down_makes_a_plan_incomplete_where_it_matters(engines: Databases, deploy: Deploy) -> None:
    await engines.make_breakable("paris")
    deployment = await deploy(policy=FLOWING)
    await founded(deployment.server, FLOWING)
    await engines.take_away("paris")
    await deployment.node("paris").engine.probe()
    made = await planned(deployment.server, following(POLICY))
    assert made.down == ["paris"]
    assert planning.shown(made)["digest"] is None
    assert any("paris is down" in obstacle for obstacle in made.obstacles)
    harmless = await planned(deployment.server, following(FLOWING, more='[retention.IR]\nsessions = "3d"\n'))
    assert (harmless.down, harmless.obstacles) == ([], [])
    assert harmless.changes["others"] == ["retention"]
    await engines.bring_back("paris")


@aio
async def test_the_serial_must_be_the_next_and_the_text_a_policy(deploy: Deploy) -> None:
    server = (await deploy()).server
    await founded(server, POLICY)
    for serial in (1, 3):
        made = await planned(server, FLOWING.replace("serial = 1", f"serial = {serial}"))
        assert any("has serial = 2" in obstacle for obstacle in made.obstacles)
    with pytest.raises(Faults, match=r"draft\.toml:1"):
        await planned(server, "format = 9")


@aio
async def test_peers_and_known_servers(deploy: Deploy) -> None:
    server = (await deploy()).server
    open_to_all = POLICY + '[[flows]]\nfrom = "FR"\nto = ["unknown"]\nclasses = ["events", "keys"]\n'
    await founded(server, open_to_all)
    await server.nodes["paris"].write(_meet, "there.example")
    peer = '[[peers]]\nserver = "there.example"\njurisdiction = "IR"\n'
    shown = planning.shown(await planned(server, following(open_to_all, more=peer)))
    assert shown["peers"]["added"] == [{"server": "there.example", "jurisdiction": "IR"}]
    assert (shown["servers"]["lost"], shown["servers"]["lost_names"]) == (1, ["there.example (FR)"])
    assert shown["servers"]["gained_names"] == []


async def _meet(tx: Transaction, server: str) -> None:
    await tx.run("INSERT INTO peers (server, sent_pos) VALUES (?, 0)", server)


@aio
async def test_consent_that_is_not_asked_any_more_is_said(deploy: Deploy) -> None:
    server = (await deploy()).server
    asking = FLOWING.replace("consent = false\n", "", 1)
    await founded(server, asking)
    made = await planned(server, following(FLOWING))
    assert made.changes["flows"]["consent_not_asked"] == [{"from": "IR", "to": "FR"}]
    assert made.changes["flows"]["gained"] == made.changes["flows"]["lost"] == []
    assert made.changed


@aio
async def test_without_a_version_nothing_is_planned(deploy: Deploy) -> None:
    with pytest.raises(Conflict):
        await planned((await deploy()).server, POLICY)


def test_of_many_the_digest_covers_about_how_many() -> None:
    few, more, many, most = Named(), Named(), Named(), Named()
    for number in range(2000):
        for named, size in ((few, 3), (more, 4), (many, NAMED + 100), (most, 2000)):
            if number < size:
                named.add(f"@u{number}")
    assert few.covered() != more.covered()
    assert many.covered() != most.covered()
    before = many.covered()
    many.add("@one-more")
    assert many.covered() == before
    assert (most.count, len(most.names)) == (2000, NAMED)
