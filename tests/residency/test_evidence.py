"""Evidence: what a stranger can check of it with a public key and a script, and that nothing can be changed unseen."""

from __future__ import annotations

import runpy
from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from homeserver.control import commands
from homeserver.protocol import canonical, evidence, merkle, policy_chain
from homeserver.protocol.errors import Conflict, InvalidParam, NodeUnavailable, NotFound
from homeserver.protocol.signing import SigningKey, sign_json
from homeserver.residency.changes import approving, chain
from homeserver.residency.proofs import evidence as gathered
from homeserver.storage import users
from homeserver.storage.engine import Transaction
from homeserver.transparency import sequencing
from tests.deployment import FLOWING, Deploy
from tests.moves.play import Stage, Staging, stage
from tests.residency.evidence import SCRIPT, resigned, run, verified
from tests.residency.planned import applied, following, founded, planned
from tests.support import ON_SQLITE, Databases, aio

__all__ = ["stage"]

ANN = SigningKey("approver", b"a" * 32)
SECRET = "postgresql://domicile:hush@127.0.0.1/paris"
MARKED = f"""
{FLOWING}
[changes]
plan = true
approvals = 1
approvers = [{{ name = "ann", key = "{ANN.verify_key.base64}" }}]
"""

Json = dict[str, Any]


async def told(play: Stage) -> Mapping[str, bytes]:
    """A deployment with two versions of its policy, the second approved, and somebody who has moved twice; evidence of
    all of it, of a node, and for that user."""
    server = play.server
    await founded(server, MARKED)
    alice = await play.device("alice")
    await play.user("bob", "paris")
    await play.user("carol")
    made = await planned(server, following(MARKED, ('name = "France"', 'name = "La France"')))
    yes = policy_chain.approve(server.name, made.digest, "ann", ANN)
    await approving.approve(server, made.digest, yes)
    await applied(server, made.digest, made.after.text)
    await play.move(alice)
    await play.move(alice, "tehran")
    await play.move(alice)
    for node in server.nodes:
        while await sequencing.hash_waiting(server, node):
            pass
    return {
        "all": (await play.command("residency-evidence", texts=True))["bundle"].encode(),
        "node": (await play.command("residency-evidence", node="tehran"))["bundle"].encode(),
        "user": (await play.command("residency-evidence", user="alice"))["bundle"].encode(),
    }


def key_of(play: Stage) -> str:
    """The key that a stranger has to know."""
    return play.server.identity.residency_key.verify_key.base64


@aio
async def test_what_is_told_is_believed(stage: Staging, tmp_path: Path) -> None:
    play = await stage()
    bundles = await told(play)
    status, words = run(tmp_path, bundles["all"], key_of(play), "--server-key", _server_key(play))
    assert status == 0, words
    assert "tehran (IR), " in words
    assert "1 residents, pinned by: 1 admin" in words
    assert "paris (FR), " in words
    assert "2 residents, pinned by: 2 admin" in words
    assert "Genuine: example.org, version 2 of its policy" in words
    status, words = run(tmp_path, bundles["all"][:-9], key_of(play))
    assert (status, words) == (1, "REFUSED: the bundle is cut off, or is no JSON\n")
    status, words = verified(tmp_path, bundles["user"], key_of(play))
    assert (status, "@alice:example.org rests on paris, after 3 moves" in words) == (0, True), words
    assert "their public keys are in its key log at " in words
    assert "paris: the versions of the policy are in its key log" in words
    assert "tehran (" not in words
    assert verified(tmp_path, bundles["node"], key_of(play))[0] == 0


def _server_key(play: Stage) -> str:
    return play.server.identity.key.verify_key.base64


@ON_SQLITE
@aio
async def test_nobody_is_named_but_who_asks(stage: Staging) -> None:
    play = await stage(policy=FLOWING)
    bundles = await told(play)
    for name in ("alice", "bob", "carol"):
        assert name.encode() not in bundles["all"]
        assert name.encode() not in bundles["node"]
    assert b"bob" not in bundles["user"]
    assert b"sqlite" not in bundles["node"], "texts of policies stay out"
    assert b"sqlite" in bundles["all"], "unless they are asked for"
    assert (await play.command("residency-evidence", user="alice"))["nodes"] == ["paris"]
    assert orjson.loads(bundles["all"])["parts"][-3]["content"]["moves"] == {"came_from": {"tehran": 1}}
    with pytest.raises(NotFound):
        await gathered.make(play.server, user_id="@nobody:example.org")
    for wrong in ({"node": "berlin"}, {"node": "paris", "user": "alice"}):
        with pytest.raises(InvalidParam):
            await commands.perform(play.server, "residency-evidence", wrong)


@ON_SQLITE
@aio
async def test_the_same_deployment_gives_the_same_bytes(deploy: Deploy) -> None:
    deployment = await deploy()
    server = deployment.server
    await founded(server, FLOWING.replace("sqlite:paris/node.db", SECRET))
    for name in ("alice", "bob", "carol"):
        await deployment.user(name)
    first, second = [(await gathered.make(server, texts=True)).bundle for _ in range(2)]
    assert first == second
    assert b"hush" not in first, "nor is a text told in which a password stands"
    leaves = []
    for name in ("alice", "bob", "carol"):
        mine = orjson.loads((await gathered.make(server, user_id=f"@{name}:example.org")).bundle)["parts"]
        leaves.append(merkle.leaf_hash(canonical.encode(mine[2]["content"]["leaf"])))
    said = orjson.loads(first)["parts"][1]["content"]["residents"]
    assert said["root"] == evidence.root(sorted(leaves)).hex(), "in an order that tells nothing of anybody"
    await deployment.clock.advance(1)
    assert (await gathered.make(server)).bundle != first


@ON_SQLITE
@aio
async def test_what_may_not_rest_there_is_told(deploy: Deploy, tmp_path: Path) -> None:
    deployment = await deploy()
    server = deployment.server
    await founded(server, FLOWING)
    alice = await deployment.user("alice")

    async def plant(tx: Transaction) -> None:
        await users.settle(tx, alice.user_id)

    await deployment.node("paris").write(plant)
    (deployment.node("paris").media / "x").mkdir(parents=True)
    (deployment.node("paris").media / "x" / "picture.jpg").write_bytes(b"of a visitor")
    made = await gathered.make(server)
    assert made.violations == 2
    for name in (b"alice", b"picture"):
        assert name not in made.bundle
    status, words = verified(tmp_path, made.bundle, server.identity.residency_key.verify_key.base64)
    assert status == 1
    assert "paris holds what it may not: residents, 1 rows or files: its owner is pinned to another node" in words
    assert words.endswith("Genuine, and it says that something rests where it may not.")


@ON_SQLITE
@aio
async def test_a_node_that_is_down_is_said(deploy: Deploy, engines: Databases, tmp_path: Path) -> None:
    deployment = await deploy()
    server = deployment.server
    await founded(server, FLOWING)
    bob = await deployment.user("bob", "paris")
    await engines.take_away("paris")
    await deployment.node("paris").engine.probe()
    made = await gathered.make(server)
    assert (made.nodes, made.nodes_down) == (("tehran",), ("paris",))
    status, words = verified(tmp_path, made.bundle, server.identity.residency_key.verify_key.base64)
    assert (status, "paris was down: nothing is said of it" in words) == (0, True)
    with pytest.raises(NodeUnavailable):
        await gathered.make(server, node="paris")
    with pytest.raises(NodeUnavailable):
        await gathered.make(server, user_id=bob.user_id)


@ON_SQLITE
@aio
async def test_a_broken_chain_is_no_evidence(deploy: Deploy) -> None:
    server = (await deploy()).server
    await founded(server, FLOWING)
    other = SigningKey("residency", b"o" * 32)
    before = await chain.newest(server.nodes.directory.engine, server.identity)
    assert before is not None
    version = policy_chain.read(before.record)
    forged = policy_chain.signed(version, other)
    await server.nodes.directory.engine.write(_forge, forged)
    with pytest.raises(Conflict, match="Version 1 of the policy cannot be believed: its record is not signed"):
        await gathered.make(server)


async def _forge(tx: Transaction, record: bytes) -> None:
    await tx.run("UPDATE policy_versions SET record = ?", record)


# what somebody has changed on the way ------------------------------------------------------------


def changed(bundle: bytes, change: Callable[[Json], object]) -> bytes:
    """A bundle in which somebody has changed something."""
    said = orjson.loads(bundle)
    change(said)
    return canonical.encode(said)


def _touch(at: int, said: Json) -> None:
    content = said["parts"][at]["content"]
    said["parts"][at]["content"] = [*content, 1] if isinstance(content, list) else {**content, "more": 1}


def _drop(at: int, said: Json) -> None:
    del said["parts"][at]


def _repeat(at: int, said: Json) -> None:
    said["parts"].append(said["parts"][at])


@ON_SQLITE
@aio
async def test_whatever_is_changed_is_named(stage: Staging, tmp_path: Path) -> None:
    play = await stage()
    bundles = await told(play)
    bundle, key = bundles["user"], key_of(play)
    names = [part["name"] for part in orjson.loads(bundle)["parts"]]
    assert names == ["policy/1", "policy/2", "node/paris", "user", "withdrawals", "counters"]
    refused: list[tuple[bytes, str]] = []
    for at, name in enumerate(names):
        touched = changed(bundle, partial(_touch, at))
        gone = changed(bundle, partial(_drop, at))
        twice = changed(bundle, partial(_repeat, at))
        refused.append((touched, f"the part {name} was changed"))
        refused.append((gone, f"the part {name} is missing"))
        refused.append((twice, f"the part {name} was put in"))
    refused += [
        (changed(bundle, lambda said: said["parts"].reverse()), "the part counters stands where policy/1 belongs"),
        (changed(bundle, lambda said: said["head"].update(made_ts=1)), "the head is not signed by example.org"),
        (changed(bundle, lambda said: said["head"].pop("signatures")), "the bundle lacks something"),
        (
            changed(bundle, lambda said: said["parts"].append({"name": "\x1b[2K\nGenuine", "content": {}})),
            "the part \\x1b[2K\\nGenuine was put in",
        ),
        (bundle[: len(bundle) // 2], "the bundle is cut off, or is no JSON"),
        (b"", "the bundle is cut off, or is no JSON"),
        (b"[1]", "the bundle lacks something"),
    ]
    for tampered, sentence in refused:
        status, words = verified(tmp_path, tampered, key)
        assert (status, words.startswith(f"REFUSED: {sentence}")) == (1, True), (sentence, words)
    other = SigningKey("residency", b"o" * 32).verify_key.base64
    assert f"names another residency key than {other}" in verified(tmp_path, bundle, other)[1]
    assert f"does not name the signing key {other}" in verified(tmp_path, bundle, key, "--server-key", other)[1]


# what a deployment says that does not agree with itself, however well signed ---------------------


@ON_SQLITE
@aio
async def test_what_does_not_agree_with_itself_is_refused(stage: Staging, tmp_path: Path) -> None:
    play = await stage()
    bundles = await told(play)
    identity = play.server.identity
    stranger = SigningKey("residency", b"o" * 32)

    def record(parts: Json, serial: int, **new: object) -> None:
        said = {**parts[f"policy/{serial}"]["record"], **new}
        parts[f"policy/{serial}"]["record"] = sign_json(said, identity.server_name, identity.residency_key)

    def swap(parts: Json, one: str, other: str) -> None:
        parts[one], parts[other] = parts[other], parts[one]

    def node(parts: Json, signer: SigningKey, /, **new: object) -> None:
        said = {name: value for name, value in parts["node/paris"].items() if name != "signatures"}
        parts["node/paris"] = sign_json({**said, **new}, "paris", signer)

    mine = identity.node_key("paris")
    told_by_tehran = orjson.loads(bundles["node"])["parts"][2]["content"]
    # each: what of which bundle is changed, and what is said of it
    cases: list[tuple[str, Callable[[Json], object], str]] = [
        ("all", lambda p: p.pop("policy/1"), "version 2 of the policy does not follow on the one before it"),
        ("all", lambda p: p.pop("policy/2"), "the version of the policy that is in force is missing"),
        ("all", lambda p: swap(p, "policy/1", "policy/2"), "version 2 of the policy does not follow"),
        ("all", lambda p: record(p, 1, time=5), "version 2 of the policy does not follow"),
        ("all", lambda p: record(p, 2, how="first"), "version 2 of the policy is not where its chain has it"),
        ("all", lambda p: record(p, 2, approvals=[]), "version 2 of the policy has fewer approvals"),
        ("all", lambda p: record(p, 2, plan="x"), "the approval of ann in version 2 of the policy is not valid"),
        ("all", lambda p: record(p, 2, how="read"), "version 2 of the policy came without a plan"),
        ("all", lambda p: p["policy/1"]["record"].update(time=5), "version 1 of the policy is not signed by"),
        (
            "all",
            lambda p: p["policy/2"].update(text="format = 1"),
            "the text of version 2 of the policy is not the one",
        ),
        ("all", lambda p: p["policy/2"]["extract"].update(flows=[]), "the extract of version 2 of the policy says"),
        ("all", lambda p: p.pop("node/tehran"), "of tehran nothing is said"),
        ("node", lambda p: p.pop("node/tehran"), "of tehran nothing is said"),
        ("all", lambda p: p.update({"node/paris": told_by_tehran}), "the part node/paris is not signed by paris"),
        ("all", lambda p: node(p, stranger), "the part node/paris is not signed by paris"),
        ("all", lambda p: node(p, mine, jurisdiction="DE"), "paris says it is in DE, and the policy, in FR"),
        ("all", lambda p: node(p, mine, node="tehran"), "the part node/paris is not what paris said"),
        (
            "all",
            lambda p: node(p, mine, key=sign_json({**p["node/paris"]["key"], "type": "x"}, "example.org", stranger)),
            "the certificate of a node's key in the part node/paris is not signed by example.org",
        ),
        ("user", lambda p: p.pop("user"), "the bundle lacks something"),
        (
            "all",
            lambda p: node(p, mine, policies=p["node/paris"]["policies"][1:]),
            "the key log of paris does not have version 1",
        ),
        (
            "all",
            lambda p: node(p, mine, policies=_renumbered(p)),
            "by the key log of paris, another version 5",
        ),
        (
            "all",
            lambda p: node(p, mine, policies=_replaced(p)),
            "by the key log of paris, another version 7",
        ),
        ("all", lambda p: node(p, mine, policies=_moved(p)), "the key log of paris does not have the leaf"),
        (
            "user",
            lambda p: p["user"]["receipts_logged"].__setitem__(2, None),
            "receipt 3 is not in the key log of paris",
        ),
        (
            "user",
            lambda p: p["user"]["receipts_logged"].reverse(),
            "a leaf of the key log of paris says something else",
        ),
        (
            "user",
            lambda p: p["user"]["receipts_logged"][0].update(index=0),
            "the key log of paris does not have the leaf",
        ),
        ("user", lambda p: p["user"]["logged"].update(leaf="x"), "the key log of paris does not have the leaf"),
        ("user", lambda p: p["user"]["logged"].update(index=0), "the key log of paris does not have the leaf"),
        ("user", lambda p: p["user"]["logged"].update(inclusion=[]), "the key log of paris does not have the leaf"),
        ("user", lambda p: p["user"]["leaf"].update(user_id="@eve:example.org"), "@alice:example.org is not among"),
        ("user", lambda p: p["user"]["path"].clear(), "@alice:example.org is not among the residents of paris"),
        ("user", lambda p: p["user"]["receipts"].pop(0), "receipt 1 does not follow on the one before it"),
        ("user", lambda p: p["user"]["receipts"].pop(), "the receipts are not those to which paris has committed"),
        ("user", lambda p: p["user"]["receipts"].reverse(), "receipt 1 does not follow on the one before it"),
        ("user", lambda p: p["user"]["receipts"][1].update(files=9), "receipt 2 is not signed by"),
        ("user", lambda p: p["user"]["receipts"][1]["keys"].pop(), "receipt 2 does not bring the keys"),
    ]
    for which, change, sentence in cases:
        status, words = verified(tmp_path, resigned(play, bundles[which], change), key_of(play))
        assert (status, f"REFUSED: {sentence}" in words) == (1, True), (sentence, words)
    for bundle in bundles.values():
        assert resigned(play, bundle, lambda _: None) == bundle, "what is not changed is the same"


def in_log(parts: Json) -> Any:
    """The proofs of a user's receipts."""
    return parts["user"]["receipts_logged"]


def _behind(parts: Json) -> Any:
    return parts["node/paris"]["policies"][1:]


def _renumbered(parts: Json) -> list[Json]:
    first, second = parts["node/paris"]["policies"]
    return [first, {**second, "leaf": second["leaf"].replace('"number":2', '"number":5')}]


def _replaced(parts: Json) -> list[Json]:
    """With one more, which was never in force by the chain."""
    *_, last = stated = parts["node/paris"]["policies"]
    said = {**orjson.loads(last["leaf"]), "digest": "0" * 64, "number": 7}
    return [*stated, {**last, "leaf": orjson.dumps(said).decode()}]


def _moved(parts: Json) -> list[Json]:
    first, second = parts["node/paris"]["policies"]
    return [first, {**second, "index": first["index"]}]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13])
def test_each_leaf_leads_to_the_root(count: int) -> None:
    hashes = [merkle.leaf_hash(bytes([number])) for number in range(count)]
    for index, each in enumerate(hashes):
        for side, other in evidence.path(hashes, index):
            each = evidence.root([other, each] if side == "left" else [each, other])
        assert each == evidence.root(hashes)
    assert evidence.root(hashes[::-1]) != evidence.root(hashes) or count == 1


def test_the_tree_is_that_of_certificate_transparency() -> None:
    """The root of the seven leaves of the example in RFC 6962, section 2.1.3: hash = H(H(H(ab) H(cd)) H(H(ef) g))."""
    a, b, c, d, e, f, g = (merkle.leaf_hash(bytes([each])) for each in b"abcdefg")
    pair = evidence.root
    assert pair([a, b, c, d, e, f, g]) == pair([pair([pair([a, b]), pair([c, d])]), pair([pair([e, f]), g])])
    assert evidence.root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("size", [1, 2, 5, 8, 11])
def test_the_script_believes_each_leaf_at_its_place_alone(size: int) -> None:
    check: Any = runpy.run_path(str(SCRIPT))["Check"].__new__(runpy.run_path(str(SCRIPT))["Check"])
    leaves = [f"leaf {number}" for number in range(size)]
    hashes = [merkle.leaf_hash(each.encode()) for each in leaves]
    root = b64encode(evidence.root(hashes)).decode()
    check.nodes = {"paris": {"key_log": f"example.org/paris\n{size}\n{root}\n\n"}}
    for index, leaf in enumerate(leaves):
        proof = [b64encode(each).decode() for _, each in evidence.path(hashes, index)]
        check.logged("paris", index, leaf, proof)
        for place, word in ((index + 1, leaf), (index - 1, leaf), (index, "another")):
            with pytest.raises(SystemExit):
                check.logged("paris", place, word, proof)
        with pytest.raises(SystemExit):
            check.logged("paris", index, leaf, [*proof, root])
