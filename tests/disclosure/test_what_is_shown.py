"""Approvers and custodians read an order on a terminal: whoever wrote it cannot make it look like another one, nor have
shares for it of times that it is not about."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner
from nacl.public import PrivateKey

from homeserver.__main__ import main
from homeserver.command_line.orders import described
from homeserver.protocol import disclosure_orders, epochs, key_files
from homeserver.protocol.disclosure_orders import Ceiling, Order, Scope
from homeserver.protocol.epochs import Period
from homeserver.protocol.errors import InvalidParam
from homeserver.protocol.key_files import Kind
from homeserver.protocol.plain_text import is_plain
from homeserver.protocol.signing import decode_base64
from tests.disclosure.bureau import APPROVERS

ORDER = Order(
    server_name="example.org",
    node="tehran",
    jurisdiction="IR",
    number=1,
    version=1,
    authority="Court 3",
    case="17/4",
    legal_basis="Art. 9",
    document="a" * 64,
    scope=Scope(("@sara:example.org",), ("phone_number",), 0, 1000, 2000),
    gag_until=None,
    recorded=0,
    ceiling=Ceiling(1, ("phone_number",), 2),
    nonce="A" * 22,
)
HIDING = "\x1b[2A\x1b[K", "\r", "\b\b", "\u202e", "\u2066", "\u200e", "\u2028", "\x9b1A"


@pytest.mark.parametrize("trick", HIDING, ids=ascii)
def test_what_cannot_be_seen_is_written_out(trick: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(key_files.make(Kind.ED25519).text)
    scope = ORDER.scope._replace(accounts=(f"@a:example.org{trick}", "@sara:example.org"))
    for order in (replace(ORDER, authority=f"Court{trick}3"), replace(ORDER, scope=scope)):
        (tmp_path / "order.json").write_bytes(order.write())
        words = ["--name", "parisa", "--key", str(tmp_path / "key"), "--out", str(tmp_path / "out")]
        shown = CliRunner().invoke(main, ["disclose", "sign", str(tmp_path / "order.json"), *words], input="n\n").output
        assert "Approve tehran/1?" in shown
        assert trick not in shown
        assert all(is_plain(line) for line in shown.split("\n"))
    with pytest.raises(InvalidParam):
        disclosure_orders.text_of("authority", trick.strip() and f"Court{trick}3")


def test_times_that_no_calendar_has_are_shown() -> None:
    scope = ORDER.scope._replace(until=2**53 - 1, expires=253_402_300_799_999)
    shown = "\n".join(described(orjson.loads(replace(ORDER, scope=scope).write())))
    assert "to 9007199254740 seconds after 1970" in shown
    assert "9999-12-31 23:59 UTC" in shown


def test_what_people_write_in_their_languages_is_plain() -> None:
    for said in ("دادگاه شمارهٔ ۳ می‌گوید", "Суд № 3", "Cour d’appel – 3e", "क्‍ष", "法院 3"):
        assert disclosure_orders.text_of("authority", said) == said


@pytest.mark.parametrize(
    ("period", "given"),
    [(Period(0, 1), True), (Period(999, 5000), True), (Period(1000, 5000), False), (Period(-500, 0), False)],
)
def test_no_share_is_given_of_an_epoch_that_the_order_is_not_about(period: Period, given: bool, tmp_path: Path) -> None:
    mine = key_files.make(Kind.X25519)
    (tmp_path / "key").write_text(mine.text)
    keys = {"leila": decode_base64(mine.public), "omid": bytes(PrivateKey.generate().public_key)}
    epoch = epochs.born("tehran", 7, keys, 2, period)
    shares = {name: b64encode(share.box).decode() for name, share in epoch.shares.items()}
    approvals = [disclosure_orders.approve(ORDER, name, APPROVERS[name]) for name in ("parisa", "reza")]
    said = {
        "order": orjson.loads(ORDER.write()),
        "approvals": [orjson.loads(each.write()) for each in approvals],
        "approvers": {name: key.verify_key.base64 for name, key in APPROVERS.items()},
        "needed": 2,
        "epochs": [{"epoch": 7, "threshold": 2, "shares": shares}],
    }
    (tmp_path / "shares.json").write_bytes(orjson.dumps(said))
    words = ["--name", "leila", "--key", str(tmp_path / "key"), "--out", str(tmp_path / "out"), "--yes"]
    done = CliRunner().invoke(main, ["disclose", "share", str(tmp_path / "shares.json"), *words])
    assert (done.exit_code == 0, (tmp_path / "out").exists()) == (given, given), done.output
    assert given or "epoch 7 is of" in done.output
