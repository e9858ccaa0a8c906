"""`kill -9` of the server, and of the command, at the worst moments of an order: nothing was printed of which the
register does not say so, nothing that was answered is lost, and no secret stays in a file."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import sqlite3
from base64 import b64encode
from pathlib import Path
from typing import Any

import orjson

from config.load import load_apart
from config.placement import Attributes
from homeserver import app, control_socket
from homeserver.accounts import registration
from homeserver.accounts.registration import NewAccount
from homeserver.accounts.sessions import DeviceWish
from homeserver.context import Caller
from homeserver.protocol import epochs
from homeserver.protocol.epochs import Epoch
from homeserver.sealing import writing
from homeserver.sealing.noticing import Notices
from homeserver.storage import epochs as stored
from tests.disclosure.bureau import CUSTODIANS, ceiling, signed
from tests.interop import forked
from tests.interop.api import Api
from tests.interop.killing import killed_at
from tests.operation.product import PASSWORD, Product
from tests.sealing.play import rows
from tests.support import finish, waits

ADDRESS = "198.51.100.23"
ORDER = {
    "jurisdiction": "IR",
    "authority": "Court 3",
    "case": "17/4",
    "legal_basis": "Art. 9",
    "document_sha256": "a" * 64,
    "accounts": ["sara"],
    "fields": ["ip_addresses"],
    "since": 0,
    "until": 4_000_000_000_000,
    "expires": 4_000_000_000_000,
}


class Siege:
    """A deployment in which something is sealed about sara, and those who open it while it is killed."""

    def __init__(self, folder: Path) -> None:
        self.product = Product(folder, flows=False)
        self.product.add("\n" + ceiling(), self.product.policy)
        self.epoch = finish(self._sealed())
        self.words = {
            name: epochs.open_share(self.epoch.shares[name].box, bytes(CUSTODIANS[name])).words
            for name in ("leila", "omid")
        }

    async def _sealed(self) -> Epoch:
        settings, policy = load_apart(self.product.settings)
        with control_socket.exclusively(settings.data_dir):
            async with app.opened(settings, policy) as server:
                node = server.nodes["tehran"]
                wish = NewAccount(
                    localpart="sara", password=PASSWORD, attributes=Attributes(node="tehran"), device=DeviceWish()
                )
                made = await registration.register(server, wish)
                assert made.login is not None
                ((user_nid, device_nid),) = await rows(node, "SELECT user_nid, device_nid FROM devices")
                assert isinstance(user_nid, int)
                assert isinstance(device_nid, int)
                caller = Caller(made.user_id, "sara", node, user_nid, made.login.device_id, device_nid)
                node.memory(Notices).notice(caller, ADDRESS, "Pomegranate/7.3", server.clock.now_ms())
                await writing.seal_waiting(server, node)
                (epoch,) = await node.read(stored.every)
                return epoch.epoch

    def asks(self, command: str, **arguments: Any) -> dict[str, Any]:
        """What the running server answers."""
        answered = control_socket.ask_server(self.product.folder / "data", command, arguments)
        assert answered is not None
        assert answered[0] == 200, answered
        return answered[1]

    def approve(self, order: dict[str, Any], name: str) -> None:
        """Have an approver sign an order."""
        self.asks("disclose-approve", **named(order), approval=signed(order, name))

    def approved(self) -> dict[str, Any]:
        """An order that lacks nothing but shares, whose files are there."""
        order = self.asks("disclose-request", **ORDER)
        for name in ("parisa", "reza"):
            self.approve(order, name)
        return order

    def opens(self, order: dict[str, Any], place: str = "", *, after: bool = False) -> tuple[int, bytes, bytes]:
        """Open an order by the command, which is killed at a place, if one is given."""
        label = f"{order['order']['node']}/{order['order']['number']}"
        files = []
        for name, words in self.words.items():
            file = self.product.folder.parent / f"{name}.share"
            said = {"type": "org.domicile.disclosure_shares", "order": label, "epochs": {self.epoch.number: words}}
            file.write_bytes(orjson.dumps(said, option=orjson.OPT_NON_STR_KEYS))
            files += ["--share", str(file)]
        words_of_it = ["disclose", "open", label, *files, "--config", str(self.product.settings)]
        done = forked.run(words_of_it, first=killed_at(place, after=after) if place else None)
        return done.returncode, done.stdout, done.stderr

    def kinds(self) -> list[str]:
        """What the register on the disk says."""
        with contextlib.closing(sqlite3.connect(self.product.node_folder("tehran") / "node.db")) as database:
            found = database.execute("SELECT entry FROM disclosure_register ORDER BY seq").fetchall()
        return [str(json.loads(entry)["kind"]) for (entry,) in found]

    def shown(self) -> list[str]:
        """What a server that has just started shows of it to everybody, whose counts fit."""
        shown = Api(self.product.base_url).fetch("GET", "/_domicile/transparency/IR.json")
        (register,) = json.loads(shown)["registers"]
        assert register["fault"] is None
        kinds = [record["entry"]["kind"] for record in register["records"]]
        counts = {kind: count for kind, count in register["head"]["counts"].items() if count}
        assert counts == {kind: kinds.count(kind) for kind in kinds}
        assert kinds == self.kinds()
        return kinds

    def secrets_left(self) -> list[str]:
        """Files of the deployment, and its log, that hold a share or the secret of the epoch, in any form; beside those
        in which the custodians sent their words, which are found too."""
        with epochs.combine(self.epoch, list(self.words.values())) as secret:
            raw = bytes(secret._key)
        wanted = [raw, raw.hex().encode(), b64encode(raw).rstrip(b"="), ADDRESS.encode()]
        wanted += [" ".join(words.split()[4:9]).encode() for words in self.words.values()]
        files = [path for path in self.product.folder.parent.rglob("*") if path.is_file()]
        found = {path.name for path in files if any(each in path.read_bytes() for each in wanted)}
        sent = {f"{name}.share" for name in self.words}
        assert found >= sent
        return sorted(found - sent)


def named(order: dict[str, Any]) -> dict[str, Any]:
    """How commands name an order."""
    return {"node": order["order"]["node"], "number": order["order"]["number"]}


@waits
def test_whoever_is_killed_nothing_is_printed_that_the_register_does_not_say(tmp_path: Path) -> None:
    siege = Siege(tmp_path)
    product = siege.product
    # The server, between two approvals: the first was not answered, and counts all the same.
    product.start(first=killed_at("homeserver.disclosure.approving:approve", after=True))
    order = siege.asks("disclose-request", **ORDER)
    with contextlib.suppress(http.client.HTTPException, ConnectionError):
        siege.approve(order, "parisa")
    assert product.end() == -signal.SIGKILL
    # The server, when the opening is durable and nothing has left it.
    product.start(first=killed_at("homeserver.disclosure.opening:open_order", after=True))
    assert siege.shown() == ["requested", "approved"]
    (listed,) = siege.asks("disclose-list")["orders"]
    assert (listed["state"], listed["approvals"]) == ("open", 1)
    siege.approve(order, "reza")
    status, printed, said = siege.opens(order)
    assert (status, printed) == (1, b"")
    assert b"went away" in said
    assert product.end() == -signal.SIGKILL
    assert siege.secrets_left() == []
    with product:
        assert siege.shown() == ["requested", "approved", "approved", "opened"]
        status, printed, said = siege.opens(order)
        assert (status, printed) == (1, b"")
        assert b"opened already" in said
        # The command, when the server has answered it.
        assert siege.opens(siege.approved(), "homeserver.command_line.disclosing:tell")[:2] == (-signal.SIGKILL, b"")
        before = siege.kinds()
        assert before[4:] == ["failed", "requested", "approved", "approved", "opened"]
        order = siege.approved()
    # The command that works on the databases itself: before its entry is durable, and behind that.
    opening, telling = "homeserver.disclosure.opening:_open", "homeserver.command_line.disclosing:tell"
    assert siege.opens(order, opening, after=True)[:2] == (-signal.SIGKILL, b"")
    assert siege.secrets_left() == []
    assert siege.kinds() == [*before, "requested", "approved", "approved"]
    assert siege.opens(order, telling)[:2] == (-signal.SIGKILL, b"")
    with product:
        assert siege.shown() == [*before, "requested", "approved", "approved", "opened"]
        status, printed, _ = siege.opens(siege.approved())
        assert (status, ADDRESS.encode() in printed) == (0, True)
    assert siege.secrets_left() == []
