"""The log of changes of keys: what goes into it and when, that it proves the keys that are shown, and that it notices
what is done behind its back."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import orjson
import pytest

from homeserver.accounts import deactivation
from homeserver.context import Server
from homeserver.control import commands
from homeserver.e2ee import for_servers
from homeserver.protocol.checkpoints import Head
from homeserver.protocol.errors import InvalidParam
from homeserver.protocol.key_log import Reason
from homeserver.protocol.merkle import Frontier, assembled, check_consistency, consistency_parts
from homeserver.storage import key_audiences, key_log, log_heads
from homeserver.storage.engine import Transaction
from homeserver.storage.nodes import Node
from homeserver.transparency import changes, heads, sequencing, statements
from homeserver.transparency.heads import KeyLog
from tests.deployment import FLOWING, POLICY, Deploy, Deployment
from tests.e2ee.play import Device, Identity
from tests.e2ee.test_cross_signing import confirm
from tests.support import ON_SQLITE, aio
from tests.transparency.stranger import FIELD, LOGS, Stranger, Unproved

ORIGIN = "example.org/_domicile/v1/key-log/tehran"
UPLOAD = "/keys/device_signing/upload"
ABROAD = POLICY + '[[flows]]\nfrom = "IR"\nto = ["unknown"]\nclasses = ["keys"]\n'


async def caught_up(deployment: Deployment, *names: str) -> None:
    """Bring into the trees of the logs what waits."""
    for node in deployment.server.nodes:
        if not names or node.name in names:
            await sequencing.find_all(deployment.server, node)
            while await sequencing.hash_waiting(deployment.server, node):
                pass


async def device(deployment: Deployment, localpart: str, node: str = "tehran") -> Device:
    """Somebody with a device that has published its keys."""
    made = Device(await deployment.user(localpart, node))
    await made.publish()
    return made


async def refused(stranger: Stranger, answer: dict[str, Any], user_id: str) -> str:
    """Why a stranger does not believe an answer."""
    with pytest.raises(Unproved) as fault:
        await stranger.check(answer, user_id)
    return str(fault.value)


@aio
async def test_what_changes_keys_is_in_the_log(deployment: Deployment) -> None:
    alice, bob = await device(deployment, "alice"), await device(deployment, "bob")
    second = await alice.another()
    await second.publish()
    mine = Identity(alice.user_id)
    await alice.gets("POST", UPLOAD, mine.upload())
    await confirm(alice, Identity(alice.user_id).upload())
    await second.gets("POST", "/logout", {})
    await deactivation.deactivate(deployment.server, alice.user_id)
    await caught_up(deployment)
    leaves = await Stranger(deployment).leaves()
    tags = [leaf.tag for leaf in leaves]
    assert [leaf.reason for leaf in leaves if leaf.tag == tags[0]] == [
        Reason.DEVICE_KEYS,
        Reason.DEVICE_KEYS,
        Reason.CROSS_SIGNING,
        Reason.IDENTITY_RESET,
        Reason.DEVICE_REMOVED,
        Reason.DEACTIVATED,
    ]
    assert tags[1] != tags[0]
    assert [leaf.previous for leaf in leaves] == [None, None, 0, 2, 3, 4, 5]
    assert len({leaf.digest for leaf in leaves}) == len(leaves)
    assert {leaf.time for leaf in leaves} == {deployment.clock.now_ms() // 1000}
    for name in (alice.user_id, bob.user_id, "alice", "bob"):
        assert name.encode() not in b"".join(await Stranger(deployment).entries(len(leaves)))


@ON_SQLITE
@aio
async def test_no_leaf_is_earlier_than_the_one_before_it_though_the_clock_was_set_back(deployment: Deployment) -> None:
    clock, server, tehran = deployment.clock, deployment.server, deployment.node("tehran")
    await device(deployment, "alice")
    began = clock.now_ms() // 1000
    clock._start_ms -= 2 * 86_400_000
    await device(deployment, "bob")
    said = ("register", 1, "a" * 64, clock.now_ms())
    assert await tehran.write(lambda tx: statements.append(server, tx, *said))
    clock._start_ms += 3 * 86_400_000
    await device(deployment, "dora")
    await caught_up(deployment)
    entries = [orjson.loads(each) for each in await Stranger(deployment).entries(4)]
    assert [each["time"] for each in entries] == [began, began, began, began + 86_400]
    assert len(await Stranger(deployment).leaves()) == 3


@aio
async def test_what_does_not_change_keys_is_not(deployment: Deployment) -> None:
    alice = await device(deployment, "alice")
    mine = Identity(alice.user_id)
    await alice.gets("POST", UPLOAD, mine.upload())
    await caught_up(deployment)
    before = await Stranger(deployment).checkpoint()
    await alice.publish(one_time_keys=alice.one_time_keys("AAAA"))  # the same once more
    await alice.gets("POST", UPLOAD, mine.upload())
    signed = mine.by(mine.self_signing, alice.device_keys())
    answer = await alice.gets("POST", "/keys/signatures/upload", {alice.user_id: {alice.device_id: signed}})
    assert answer == {"failures": {}}
    await alice.gets("PUT", f"/devices/{alice.device_id}", {"display_name": "another"})
    refusal = await alice.asks("POST", UPLOAD, Identity(alice.user_id).upload())
    assert refusal.status == 401
    keyless = await alice.another()
    await keyless.gets("POST", "/logout", {})
    bob = await deployment.user("bob")
    server, node = deployment.server, deployment.node("tehran")
    for user_id in (alice.user_id, bob.user_id, "@nobody:example.org"):
        assert not await node.write(changes.append, server, node, user_id, Reason.DEVICE_KEYS)
    for user_id in (bob.user_id, "@nobody:example.org"):
        assert not await node.write(changes.append_left, server, node, user_id)
    await caught_up(deployment)
    assert await Stranger(deployment).checkpoint() == before


@ON_SQLITE
@aio
async def test_who_has_left_is_said_to_have_once(deployment: Deployment) -> None:
    """A move that was cut off is done again from where it was: the log is told the same twice."""
    alice = await device(deployment, "alice")
    server, node = deployment.server, deployment.node("tehran")
    assert await node.write(changes.append_left, server, node, alice.user_id)
    assert not await node.write(changes.append_left, server, node, alice.user_id)
    assert await node.write(changes.append, server, node, alice.user_id, Reason.ARRIVED)
    assert not await node.write(changes.append, server, node, alice.user_id, Reason.ARRIVED)
    await caught_up(deployment)
    leaves = await Stranger(deployment).leaves()
    assert [leaf.reason for leaf in leaves] == [Reason.DEVICE_KEYS, Reason.LEFT, Reason.ARRIVED]
    assert leaves[0].digest == leaves[2].digest
    bob = await device(deployment, "bob")
    await bob.gets("POST", "/logout", {})
    for said in (True, False):  # also of who had no keys any more
        assert await node.write(changes.append_left, server, node, bob.user_id) is said
    for said in (True, False):
        assert await node.write(changes.append, server, node, bob.user_id, Reason.ARRIVED) is said


@aio
async def test_keys_are_shown_with_their_proof(deployment: Deployment) -> None:
    alice, bob = await device(deployment, "alice"), await device(deployment, "bob")
    await alice.gets("POST", UPLOAD, Identity(alice.user_id).upload())
    stranger = Stranger(deployment)
    assert FIELD not in await bob.query(alice)  # the log has shown nothing yet
    await caught_up(deployment)
    for reader in (alice, bob):  # who is shown the user-signing key, and who is not
        leaf, head = await stranger.check(await reader.query(alice, bob), alice.user_id)
        assert (leaf.reason, head.size) == (Reason.CROSS_SIGNING, 3)
    carol = await device(deployment, "carol")
    answer = await bob.query(carol, alice)
    assert await refused(stranger, answer, carol.user_id) == "it is not in the tree"
    assert (await stranger.check(answer, alice.user_id))[1] == head
    await caught_up(deployment)
    assert (await stranger.check(await bob.query(carol), carol.user_id))[1].size == 4


@aio
async def test_a_changed_key_is_shown_with_the_new_proof(deployment: Deployment) -> None:
    alice, bob = await device(deployment, "alice"), await device(deployment, "bob")
    await caught_up(deployment)
    stranger = Stranger(deployment)
    first, _ = await stranger.check(await bob.query(alice), alice.user_id)
    second = await alice.another()
    await second.publish()
    await caught_up(deployment)
    leaf, _ = await stranger.check(await bob.query(alice), alice.user_id)
    assert leaf.previous == 0
    assert leaf.digest != first.digest


@ON_SQLITE
@aio
async def test_keys_from_another_node_are_shown_with_their_proof(deploy: Deploy) -> None:
    """Where that node is asked anyway, and where keys may come from there."""
    for policy in (FLOWING, POLICY):
        deployment = await deploy(policy=policy)
        name = "flowing" if policy == FLOWING else "closed"
        alice, bob = await device(deployment, f"alice-{name}"), await device(deployment, f"bob-{name}", "paris")
        await caught_up(deployment)
        answer = await bob.query(alice, bob)
        await Stranger(deployment, "paris").check(answer, bob.user_id)
        if policy == FLOWING:
            await Stranger(deployment).check(answer, alice.user_id)
        else:
            assert await refused(Stranger(deployment), answer, alice.user_id) == "nothing is told"


@ON_SQLITE
@aio
async def test_one_is_not_proved_by_what_is_said_of_another(deployment: Deployment) -> None:
    alice, bob = await device(deployment, "alice"), await device(deployment, "bob")
    await caught_up(deployment)
    stranger, answer = Stranger(deployment), await bob.query(alice, bob)
    users = answer[FIELD][(await stranger.about())["origin"]]["users"]
    exchanged = {**answer, "device_keys": {alice.user_id: answer["device_keys"][bob.user_id]}}
    assert await refused(stranger, exchanged, alice.user_id) == "the devices are not those of the log"
    users[alice.user_id]["opening"], users[alice.user_id]["leaf"] = users[bob.user_id]["opening"], "x"
    with pytest.raises(ValueError, match="leads to another root"):
        await stranger.check(answer, alice.user_id)


@ON_SQLITE
@aio
async def test_other_servers_are_shown_proofs(deploy: Deploy) -> None:
    deployment = await deploy(policy=ABROAD)
    alice, bob = await device(deployment, "alice"), await device(deployment, "bob", "paris")
    await caught_up(deployment)
    stranger = Stranger(deployment)
    found = await for_servers.query(deployment.server, "peer.example", {alice.user_id: []})
    plain = await alice.query(alice)
    assert found[FIELD].keys() == plain[FIELD].keys()
    await stranger.check({**plain, FIELD: _through_json(found[FIELD])}, alice.user_id)
    listed = await for_servers.device_list(deployment.server, "peer.example", alice.user_id)
    await stranger.check({**plain, FIELD: _through_json(listed[FIELD])}, alice.user_id)
    assert bob.user_id not in str(_through_json(found[FIELD]))


def _through_json(value: Any) -> Any:
    return orjson.loads(orjson.dumps(value))


# in one transaction -------------------------------------------------------------------------


@aio
async def test_keys_and_their_leaf_come_together_or_not_at_all(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await device(deployment, "alice")
    second = await alice.another()

    def cut(*_: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(key_audiences, "note_change", cut)  # behind the leaf, in the same transaction
        answer = await second.asks("POST", "/keys/upload", {"device_keys": second.device_keys()})
        assert answer.status == 500
    deployment.observed.faults.clear()
    await caught_up(deployment)
    assert len(await Stranger(deployment).leaves()) == 1
    await second.publish()
    await caught_up(deployment)
    leaves = await Stranger(deployment).leaves()
    assert [leaf.previous for leaf in leaves] == [None, 0]


@aio
async def test_a_killed_server_goes_on_where_it_was(deploy: Deploy) -> None:
    """Leaves that are not in the tree; a tree that was signed and not shown: the next start does the rest."""
    deployment = await deploy()
    alice = await device(deployment, "alice")
    await caught_up(deployment)
    await (await alice.another()).publish()
    again = await deploy()
    await caught_up(again)
    assert len(await Stranger(again).leaves()) == 2
    await (await alice.another()).publish()
    node = deployment.node("tehran")
    signed = await node.write(sequencing._hash_some, deployment.server, node, ORIGIN)
    assert signed is not None
    assert (await Stranger(deployment).checkpoint()).head.size == 1  # what nobody was shown yet
    third = await deploy()
    assert await Stranger(third).got("checkpoint") == signed
    await caught_up(third)
    assert await Stranger(third).got("checkpoint") == signed
    assert len(await Stranger(third).leaves()) == 3


@aio
async def test_who_had_keys_before_there_was_a_log(deployment: Deployment) -> None:
    made = [await device(deployment, f"user{number}") for number in range(sequencing.FOUND_AT_ONCE + 3)]
    await deployment.user("keyless")
    node = deployment.node("tehran")
    await node.write(_forget)
    node.memory(KeyLog).clear()
    await caught_up(deployment)
    leaves = await Stranger(deployment).leaves()
    assert [leaf.reason for leaf in leaves] == [Reason.FOUND] * len(made)
    await caught_up(deployment)
    assert len(await Stranger(deployment).leaves()) == len(made)
    await Stranger(deployment).check(await made[1].query(made[-1]), made[-1].user_id)


async def _forget(tx: Transaction) -> None:
    for table in ("key_log", "key_log_leaves", "key_log_tiles"):
        await tx.run(f"DELETE FROM {table}")


# the tree as it is served -------------------------------------------------------------------


async def _fill(tx: Transaction, count: int) -> None:
    for _ in range(count):
        place = await key_log.take(tx)
        key_log.put(tx, place, bytes(32), b"leaf %d" % place)


@aio
async def test_tiles_of_a_larger_log(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequencing, "BATCH", 100)
    node, stranger = deployment.node("tehran"), Stranger(deployment)
    seen = []
    for count in (3, 250, 3, 1, 513):
        await node.write(_fill, count)
        await caught_up(deployment, "tehran")
        head = (await stranger.checkpoint()).head
        entries = await stranger.entries(head.size)
        assert entries == [b"leaf %d" % place for place in range(head.size)]
        await stranger._compare(entries, head)
        seen.append(head)
    assert [head.size for head in seen] == [3, 253, 256, 257, 770]
    for older in seen:
        parts = consistency_parts(older.size, 770)
        roots = await heads.subtrees(node, {part for group in parts for part in group})
        check_consistency(older.size, older.root, 770, seen[-1].root, assembled(parts, roots))
    assert await stranger.got("tile/0/000.p/3") == (await stranger.got("tile/0/000"))[: 3 * 32]
    for path in ("tile/0/003.p/3", "tile/0/003", "tile/1/000.p/4", "tile/2/000.p/1", "tile/entries/003.p/3"):
        assert (await stranger.raw(path))[0] == 404
    for path in ("tile/0/3", "tile/0/x000/001", "tile/0/000.p/256", "tile/0/000/1", "tile/x/000"):
        assert (await stranger.raw(path))[0] == 404
    _, _, kept = await stranger.raw("tile/0/000")
    assert "immutable" in kept["Cache-Control"]
    _, _, fresh = await stranger.raw("checkpoint")
    assert "immutable" not in fresh["Cache-Control"]


@ON_SQLITE
@aio
async def test_which_logs_there_are(deployment: Deployment) -> None:
    answer = await deployment.asked("GET", LOGS)
    assert [(each["node"], each["jurisdiction"]) for each in answer.json["logs"]] == [("tehran", "IR"), ("paris", "FR")]
    first = answer.json["logs"][0]
    assert first["origin"] == "example.org/_domicile/v1/key-log/tehran"
    assert first["url"] == "https://matrix.example.org/_domicile/v1/key-log/tehran"
    assert first["key"].startswith("example.org/_domicile/v1/key-log/tehran+")
    assert (await Stranger(deployment).raw("checkpoint"))[0] == 404  # nothing is signed yet
    assert (await Stranger(deployment, "nowhere").raw("checkpoint"))[0] == 404
    await caught_up(deployment)
    assert (await Stranger(deployment).checkpoint()).head == (0, Frontier().root())


# what is done behind its back ---------------------------------------------------------------


async def _lose(tx: Transaction, server: Server, node: Node, size: int) -> None:
    """Have a log as a backup would that was made when it had so many leaves."""
    rows = await key_log.leaves(tx, 0, size)
    await _forget(tx)
    for leaf in rows:
        key_log.put(tx, await key_log.take(tx), leaf[:32], leaf)
    note = await sequencing._hash_some(tx, server, node, ORIGIN)
    assert note is not None
    key_log.note_found(tx, key_log.ALL_FOUND)


@aio
async def test_a_log_that_was_set_back_says_nothing(deploy: Deploy) -> None:
    deployment = await deploy()
    alice = await device(deployment, "alice")
    await (await alice.another()).publish()
    await caught_up(deployment)
    node = deployment.node("tehran")
    await node.write(_lose, deployment.server, node, 1)
    again = await deploy()
    await caught_up(again)
    status, body, _ = await Stranger(again).raw("checkpoint")
    assert status == 503
    assert b'"log_set_back"' in body
    assert (await Stranger(again).raw("tile/0/000.p/1"))[0] == 503
    assert again.node("tehran").memory(KeyLog).fault == "the log has 1 leaves, and 2 were shown"
    third = await alice.another()
    await third.publish()  # people go on; but nothing is signed that could not be consistent
    answer = await again.asked(
        "POST", "/_matrix/client/v3/keys/query", {"device_keys": {alice.user_id: []}}, token=alice.user.token
    )
    assert answer.status == 200
    assert FIELD not in answer.json
    held = await again.node("tehran").read(key_log.progress)
    await caught_up(again)
    assert (await again.node("tehran").read(key_log.progress)).checkpoint == held.checkpoint
    assert (await Stranger(again, "paris").raw("checkpoint"))[0] == 200


@aio
async def test_a_log_that_cannot_go_on_is_followed_by_another(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = await deploy()
    alice = await device(deployment, "alice")
    await (await alice.another()).publish()
    await caught_up(deployment)
    await alice.query(alice)  # from now on what was told is remembered
    shown = (await Stranger(deployment).checkpoint()).head
    node = deployment.node("tehran")
    await node.write(_lose, deployment.server, node, 1)
    again = await deploy()
    await caught_up(again)
    node, reason = again.node("tehran"), "restored from a backup"
    assert [each["fault"] for each in (await commands.perform(again.server, "log-status", {}))["logs"]] == [
        "the log has 1 leaves, and 2 were shown",
        None,
    ]
    with pytest.raises(InvalidParam, match="Say why"):
        await commands.perform(again.server, "log-begin-anew", {"node": "tehran", "reason": " "})
    with monkeypatch.context() as patch:  # killed between the two databases
        patch.setattr(key_log, "clear", _cut)
        with pytest.raises(InterruptedError):
            await commands.perform(again.server, "log-begin-anew", {"node": "tehran", "reason": reason})
    third = await deploy()
    await caught_up(third)
    stranger = Stranger(third, label="tehran.2")
    (leaf,) = await stranger.leaves()
    assert (leaf.reason, leaf.previous) == (Reason.FOUND, None)
    assert (await stranger.checkpoint()).origin == f"{ORIGIN}.2"
    answer = await third.asked(
        "POST", "/_matrix/client/v3/keys/query", {"device_keys": {alice.user_id: []}}, token=alice.user.token
    )
    await stranger.check(answer.json, alice.user_id)
    assert (await Stranger(third).raw("checkpoint"))[0] == 404
    (ended,) = (await third.asked("GET", LOGS)).json["ended"]
    assert (ended["origin"], ended["size"], ended["reason"]) == (ORIGIN, shown.size, reason)
    assert b64decode(ended["root"]) == shown.root


@ON_SQLITE
@aio
async def test_a_log_is_begun_anew_while_it_is_used(deploy: Deploy) -> None:
    deployment = await deploy()
    alice = await device(deployment, "alice")
    bob = await device(deployment, "bob")
    await caught_up(deployment)
    await alice.query(alice, bob)
    answer = await commands.perform(deployment.server, "log-begin-anew", {"node": "tehran", "reason": "because"})
    assert answer == {"origin": f"{ORIGIN}.2"}
    assert FIELD not in await alice.query(alice)
    await caught_up(deployment)
    stranger = Stranger(deployment, label="tehran.2")
    await (await alice.another()).publish()
    await caught_up(deployment)
    assert [leaf.reason for leaf in await stranger.leaves()] == [Reason.FOUND, Reason.FOUND, Reason.DEVICE_KEYS]
    for user in (alice, bob):
        await stranger.check(await alice.query(alice, bob), user.user_id)
    size = (await stranger.checkpoint()).head.size
    await deployment.server.nodes.directory.engine.write(_forget_heads)  # as an old archive of the directory does
    again = await deploy()
    await caught_up(again)
    assert (await Stranger(again, label="tehran.2").checkpoint()).head.size == size
    with pytest.raises(InvalidParam, match="no node nowhere"):
        await commands.perform(deployment.server, "log-begin-anew", {"node": "nowhere", "reason": "because"})


async def _forget_heads(tx: Transaction) -> None:
    await tx.run("DELETE FROM log_heads")
    await tx.run("DELETE FROM ended_logs")


async def _cut(*_: object) -> None:
    raise InterruptedError


@ON_SQLITE
@aio
async def test_another_history_of_the_same_length_is_noticed(deploy: Deploy) -> None:
    deployment = await deploy()
    await device(deployment, "alice")
    await caught_up(deployment)
    directory = deployment.server.nodes.directory.engine
    noted = await directory.read(log_heads.of, "tehran")
    await directory.write(log_heads.note, "tehran", 1, noted.head._replace(root=bytes(32)))
    again = await deploy()
    await caught_up(again)
    assert (await Stranger(again).raw("checkpoint"))[0] == 503
    assert again.node("tehran").memory(KeyLog).fault == "the first 1 leaves are not those that were shown"


async def _spoil(tx: Transaction) -> None:
    await tx.run("UPDATE key_log_tiles SET hashes = ? WHERE level = 0", bytes(32))


@ON_SQLITE
@aio
async def test_tiles_that_were_changed_are_not_signed(deployment: Deployment) -> None:
    alice = await device(deployment, "alice")
    await caught_up(deployment)
    await deployment.node("tehran").write(_spoil)
    await (await alice.another()).publish()
    with pytest.raises(sequencing.Damaged, match="not those that were signed"):
        await caught_up(deployment)
    assert (await Stranger(deployment).checkpoint()).head.size == 1


@ON_SQLITE
@aio
async def test_a_head_never_shrinks_in_the_directory(deployment: Deployment) -> None:
    directory = deployment.server.nodes.directory.engine
    for size in (5, 3, 7):
        await directory.write(log_heads.note, "tehran", 1, Head(size, bytes([size]) * 32))
    assert await directory.read(log_heads.of, "tehran") == (1, Head(7, b"\x07" * 32))
    assert (await directory.write(log_heads.begin_anew, "tehran", 5, "why")).generation == 2
    await directory.write(log_heads.note, "tehran", 1, Head(9, bytes(32)))  # of the one that has ended
    assert await directory.read(log_heads.of, "tehran") == log_heads.Noted(2)


def test_tiles_grow_as_the_tree_does() -> None:
    tree, edge = Frontier(), dict[key_log.TileName, bytes]()
    for start in range(0, 600, 7):
        held = {name: edge[name] for name in sequencing.edge_of(start) if name in edge}
        tree, changed = sequencing.grown(tree, held, [b"%d" % number for number in range(start, start + 7)])
        edge.update(changed)
    assert {name: len(hashes) // 32 for name, hashes in edge.items()} == {
        (0, 0): 256,
        (0, 1): 256,
        (0, 2): 90,
        (1, 0): 2,
    }
