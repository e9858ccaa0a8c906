"""The register: what everybody is shown of it, that it comes before what is disclosed, and that it notices what is done
behind its back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import orjson
import pytest

from homeserver.disclosure import lapsing, register
from homeserver.protocol import disclosure_register as chain
from homeserver.protocol.errors import DisclosureRefused, LogSetBack, NodeUnavailable, RegisterDamaged
from homeserver.protocol.signing import VerifyKey, decode_base64, sign_json, verify_json
from homeserver.storage import disclosures, key_log
from homeserver.storage.engine import Transaction
from homeserver.transparency import sequencing, serving
from tests.deployment import Deploy
from tests.disclosure.bureau import DAY, Bureau, policy
from tests.support import ON_SQLITE, aio
from tests.transparency.test_key_log import _lose


async def changed(bureau: Bureau, sql: str, *params: Any) -> None:
    """Change the database of Tehran by hand."""

    async def work(tx: Transaction) -> int:
        return await tx.run(sql, *params)

    assert await bureau.tehran.write(work)


def checked(said: dict[str, Any]) -> list[dict[str, Any]]:
    """The records of a register, as a stranger checks them; fails if they do not fit."""
    (found,) = said["registers"]
    keys = {found["key"]["key_id"]: VerifyKey.from_base64(found["key"]["key_id"], found["key"]["key"])}
    verify_json(found["head"], "example.org", keys)
    previous = None
    for place, record in enumerate(found["records"], 1):
        entry = record["entry"]
        verify_json(entry, "example.org", keys)
        assert (entry["seq"], entry["previous"]) == (place, previous)
        previous = hashlib.sha256(orjson.dumps(entry, option=orjson.OPT_SORT_KEYS)).hexdigest()
        if "details" in record:
            text = orjson.dumps(record["details"], option=orjson.OPT_SORT_KEYS)
            assert hashlib.sha256(decode_base64(record["salt"]) + text).hexdigest() == entry["details"]
    assert (found["head"]["entries"], found["head"]["digest"]) == (len(found["records"]), previous)
    records: list[dict[str, Any]] = found["records"]
    return records


@aio
async def test_a_stranger_can_check_what_is_shown(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    order = await bureau.approved()
    await bureau.open(order)
    shown = await bureau.shown()
    records = checked(shown)
    assert [each["entry"]["kind"] for each in records] == ["requested", "approved", "approved", "opened"]
    assert records[0]["details"]["order_sha256"] == order["order_sha256"]
    assert records[3]["details"] == {
        "accounts": 1,
        "fields": ["phone_number"],
        "since": 0,
        "until": order["order"]["until"],
        "epochs": [],
        "records": 0,
        "order_sha256": order["order_sha256"],
    }
    head = shown["registers"][0]["head"]
    assert (head["counts"]["opened"], head["counts"]["approved"], head["gagged"]) == (1, 2, 0)
    assert shown["ceiling"]["approvers"] == 3
    later = await bureau.deployment.asked("GET", "/_domicile/transparency/IR.json", after="3")
    assert [each["entry"]["seq"] for each in later.json["registers"][0]["records"]] == [4]
    for name in ("DE.json", "IR", "IR.xml"):
        assert (await bureau.deployment.asked("GET", f"/_domicile/transparency/{name}")).status == 404


@ON_SQLITE
@aio
async def test_a_gag_hides_what_an_order_is_about_and_nothing_else_until_it_ends(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    gagged = await bureau.approved(gag_until=bureau.now + 2 * DAY)
    soon = await bureau.approved("hamid", gag_until=bureau.now + DAY)
    shown = await bureau.shown()
    records = checked(shown)
    assert len(records) == 6
    assert not any("details" in each or "salt" in each for each in records)
    assert "Court 3" not in str(shown)
    assert shown["registers"][0]["head"]["gagged"] == 2
    assert shown["registers"][0]["head"]["counts"]["requested"] == 2
    await bureau.command("disclose-unseal", **bureau.named(gagged))
    with pytest.raises(DisclosureRefused, match="under no gag"):
        await bureau.command("disclose-unseal", **bureau.named(gagged))
    await bureau.deployment.clock.advance(DAY / 1000)
    await lapsing.lapse_all(bureau.deployment.server)
    again = await bureau.shown()
    after = checked(again)
    assert [each["entry"] for each in after[:6]] == [each["entry"] for each in records]
    assert all("details" in each for each in after)
    assert [each["entry"]["order"] for each in after if each["entry"]["kind"] == "unsealed"] == [
        1,
        soon["order"]["number"],
    ]
    assert again["registers"][0]["head"]["gagged"] == 0


@ON_SQLITE
@aio
async def test_an_order_expires_and_a_clock_that_is_set_back_changes_nothing(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    order = await bureau.approved(expires=bureau.now + DAY)
    still = await bureau.approved("hamid", expires=bureau.now + 9 * DAY)
    clock = bureau.deployment.clock
    await clock.advance(DAY / 1000)
    await lapsing.lapse_all(bureau.deployment.server)
    assert (await bureau.kinds())[-1] == "expired"
    clock._start_ms -= 2 * DAY
    with pytest.raises(DisclosureRefused, match="has expired"):
        await bureau.open(order)
    with pytest.raises(DisclosureRefused, match="clock") as back:
        await bureau.open(still)
    assert back.value.why == "clock_set_back"
    clock._start_ms += 2 * DAY
    assert (await bureau.open(still))["accounts"]
    stamps = [each["entry"]["ts"] for each in checked(await bureau.shown())]
    assert stamps == sorted(stamps)


@ON_SQLITE
@aio
async def test_time_is_noted_while_orders_can_expire(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    order = await bureau.approved()
    await bureau.deployment.clock.advance(DAY / 1000)
    await lapsing.lapse_all(bureau.deployment.server)
    bureau.deployment.clock._start_ms -= DAY
    with pytest.raises(DisclosureRefused, match="clock"):
        await bureau.open(order)
    assert (await bureau.kinds())[-1] == "failed"


@ON_SQLITE
@aio
async def test_an_order_that_has_expired_is_not_opened_though_no_job_has_come_to_it(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    order = await bureau.approved(expires=bureau.now + DAY)
    await bureau.deployment.clock.advance(DAY / 1000)
    with pytest.raises(DisclosureRefused) as refused:
        await bureau.open(order)
    assert refused.value.why == "expired"
    assert (await bureau.command("disclose-list"))["orders"][0]["state"] == "expired"


TAMPERED = {
    "entries 6 to 7 are gone": "DELETE FROM disclosure_register WHERE seq > 5",
    "entry 2 is gone": "DELETE FROM disclosure_register WHERE seq = 2",
    "what is kept of entry 1 is not what was signed": "UPDATE disclosure_register SET details = '{' WHERE seq = 1",
    "entry 3 is not what this node has signed": "UPDATE disclosure_register SET entry = entry || ' ' WHERE seq = 3",
    "the order 2 is not the one that is on record": "UPDATE disclosure_orders SET body = REPLACE(body,'hamid','sarah')",
    "its head is not that of this register": "UPDATE disclosure_register_head SET digest = 'x'",
}


@ON_SQLITE
@aio
async def test_what_is_done_to_the_register_by_hand_is_said_and_ends_all_disclosure(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    await bureau.open(await bureau.approved())
    order = await bureau.approved("hamid")
    whole = await bureau.tehran.read(disclosures.entries)
    head = await bureau.tehran.read(disclosures.head)
    for fault, sql in TAMPERED.items():
        await changed(bureau, sql)
        with pytest.raises(RegisterDamaged, match=fault):
            await bureau.open(order)
        assert (await bureau.shown())["registers"][0]["fault"] == fault
        with pytest.raises(RegisterDamaged):
            await bureau.request()
        assert (await bureau.command("disclose-list"))["registers"][0]["fault"]
        assert f"register of disclosures: {fault}" in str(await bureau.command("doctor"))
        await bureau.tehran.write(_put_back, whole, head)
        if "disclosure_orders" in sql:
            await changed(bureau, "UPDATE disclosure_orders SET body = REPLACE(body, 'sarah', 'hamid')")
    assert (await bureau.open(order))["order"] == "tehran/2"


async def _put_back(tx: Transaction, whole: list[disclosures.StoredEntry], head: disclosures.Head) -> None:
    await tx.run("DELETE FROM disclosure_register")
    await tx.run("DELETE FROM disclosure_register_head")
    for each in whole:
        await disclosures.append(tx, each, chain.digest(each.entry), head.seen_ts)


@ON_SQLITE
@aio
async def test_a_register_that_was_cut_off_with_its_head_is_missed_by_the_key_log(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    await bureau.open(await bureau.approved())
    whole = await bureau.tehran.read(disclosures.entries)
    head = await bureau.tehran.read(disclosures.head)
    await bureau.tehran.write(_put_back, whole[:3], head)
    found = await bureau.tehran.read(register.check, bureau.deployment.server)
    assert found.faults == ["entry 4 is gone, which the key log states"]
    with pytest.raises(RegisterDamaged, match="which the key log states"):
        await bureau.request()


@ON_SQLITE
@aio
async def test_checkpoints_of_the_key_log_name_the_end_of_the_register(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    await bureau.open(await bureau.approved())
    server = bureau.deployment.server
    while await sequencing.hash_waiting(server, bureau.tehran):
        pass
    held = await bureau.tehran.read(key_log.progress)
    assert held.checkpoint is not None
    assert b"\nregister 4 " in held.checkpoint
    await changed(bureau, "DELETE FROM key_log_leaves")  # as when a log that was set back begins anew
    await changed(bureau, "DELETE FROM key_log")
    assert not await bureau.tehran.read(register.is_stated)
    await lapsing.lapse_all(server)
    assert await bureau.tehran.read(register.is_stated)
    await lapsing.lapse_all(server)


@ON_SQLITE
@aio
async def test_nothing_is_disclosed_whose_entry_is_not_durable(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    bureau = await Bureau.opened(deploy)
    order = await bureau.approved()

    async def lost(*_: Any) -> None:
        raise NodeUnavailable("tehran")

    with monkeypatch.context() as patch:
        patch.setattr(disclosures, "append", lost)
        with pytest.raises(NodeUnavailable):
            await bureau.open(order)
    assert (await bureau.kinds())[-1] == "approved"
    write = bureau.tehran.engine.write

    async def cut_off(*arguments: Any, **named: Any) -> Any:
        await write(*arguments, **named)
        raise NodeUnavailable("tehran")

    with monkeypatch.context() as patch:
        patch.setattr(bureau.tehran.engine, "write", cut_off)
        with pytest.raises(NodeUnavailable):
            await bureau.open(order)
    assert (await bureau.kinds())[-1] == "opened"
    with pytest.raises(DisclosureRefused, match="opened already"):
        await bureau.open(order)


@ON_SQLITE
@aio
async def test_what_has_become_of_an_order_is_what_the_register_says(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    order = await bureau.approved()
    await bureau.open(order)
    await changed(bureau, "UPDATE disclosure_orders SET state = 'open'")
    with pytest.raises(DisclosureRefused, match="opened already"):
        await bureau.open(order)


def stranger() -> Any:
    """The functions of the script with which strangers check registers."""
    script = Path(__file__).resolve().parents[2] / "scripts" / "verify-register"
    assert "homeserver" not in script.read_text()
    spec = spec_from_loader("verify_register", SourceFileLoader("verify_register", str(script)))
    assert spec is not None
    assert spec.loader is not None
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "entry 2 of tehran does not follow": lambda register: register["records"].pop(1),
    "the head of tehran is not that of its entries": lambda register: register["records"].pop(),
    "entry 1 of tehran does not follow": lambda register: register["records"].reverse(),
    "entry 1 of tehran is not signed": lambda register: register["records"][0]["entry"].update(ts=1),
    "what is told of entry 1": lambda register: register["records"][0]["details"].update(authority="Court 4"),
    "the head of tehran is not signed": lambda register: register["head"]["counts"].update(opened=0),
    "tells nothing of orders that are under no gag": lambda register: register["records"][3].pop("details"),
}


@ON_SQLITE
@aio
async def test_a_stranger_sees_whatever_is_changed(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    await bureau.open(await bureau.approved())
    await bureau.approved("hamid", gag_until=bureau.now + DAY)
    checks = stranger()

    async def shown() -> dict[str, Any]:
        (register,) = (await bureau.shown())["registers"]
        return dict(register)

    async def check(register: dict[str, Any]) -> list[str]:
        found: list[str] = checks.check_register("example.org", register, register["key"]["key"], register["records"])
        return found

    assert len(await check(await shown())) == 7
    assert checks.seen("tehran\x1b[2K\n\u202e") == "tehran\\x1b[2K\\n\\u202e"
    for fault, change in CHANGES.items():
        register = await shown()
        change(register)
        with pytest.raises(checks.Wrong, match=fault):
            await check(register)


@ON_SQLITE
@aio
async def test_a_stranger_sees_what_is_back_dated_by_who_has_the_key(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    await bureau.request()
    await bureau.deployment.clock.advance(60)
    await bureau.request("hamid")
    (register,) = (await bureau.shown())["registers"]
    key, records, checks = bureau.deployment.server.identity.log_key("tehran"), register["records"], stranger()

    def sign(ts: int, kind: str) -> dict[str, Any]:
        entry = {**records[1]["entry"], "ts": ts, "kind": kind, "signatures": {}}
        records[1]["entry"] = sign_json(entry, "example.org", key)
        counts = {**register["head"]["counts"], "requested": 1, kind: 2 if kind == "requested" else 1}
        digest = hashlib.sha256(checks.canonical(records[1]["entry"])).hexdigest()
        head = {**register["head"], "counts": counts, "digest": digest, "signatures": {}}
        return {**register, "head": sign_json(head, "example.org", key)}

    first = records[0]["entry"]["ts"]
    for ts, kind in ((first, "requested"), (first - 1, "clock")):
        assert len(checks.check_register("example.org", sign(ts, kind), register["key"]["key"], records)) == 2
    with pytest.raises(checks.Wrong, match="entry 2 of tehran is older than the one before it"):
        checks.check_register("example.org", sign(first - 1, "requested"), register["key"]["key"], records)


@ON_SQLITE
@aio
async def test_a_stranger_holds_the_register_against_the_key_log(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    await bureau.open(await bureau.approved())
    checks, server = stranger(), bureau.deployment.server
    while await sequencing.hash_waiting(server, bureau.tehran):
        pass
    note = (await serving.checkpoint(server, bureau.tehran)).decode()
    (register,) = (await bureau.shown())["registers"]
    key = register["key"]["key"]
    digests = checks.check_register("example.org", register, key, register["records"])
    checks.check_log(note, key, "tehran", digests)
    checks.check_log(note, key, "tehran", [*digests, "later"])
    for wrong in (digests[:3], [*digests[:3], "0" * 64]):
        with pytest.raises(checks.Wrong, match="names an entry 4"):
            checks.check_log(note, key, "tehran", wrong)
    with pytest.raises(checks.Wrong, match="is not signed"):
        checks.check_log(note.replace("register 4", "register 3"), key, "tehran", digests)


@ON_SQLITE
@aio
async def test_a_node_that_comes_back_older_opens_nothing(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    server, tehran = bureau.deployment.server, bureau.tehran
    order = await bureau.approved()
    before = await tehran.read(disclosures.entries), await tehran.read(disclosures.head)
    leaves = (await tehran.read(key_log.progress)).size
    await bureau.open(order)
    while await sequencing.hash_waiting(server, tehran):
        pass
    await tehran.write(_put_back, *before)
    await tehran.write(_lose, server, tehran, leaves)
    again = Bureau(await deploy(policy=policy()))
    again.deployment.clock._start_ms = bureau.now
    for attempt in (again.open(order), again.request()):
        with pytest.raises(LogSetBack):
            await attempt
    assert "set back" in (await again.shown())["registers"][0]["fault"]
    assert "set back" in (await again.command("disclose-list"))["registers"][0]["fault"]
