"""From the paper to the printed address and phone number, with everyone's command; and then as a stranger checks it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from config.load import load_apart
from homeserver import app
from homeserver.context import Caller
from homeserver.sealing import writing
from homeserver.sealing.noticing import Notices
from homeserver.storage import devices, users
from tests.interop.api import Api
from tests.interop.forked import ROOT
from tests.operation.product import PASSWORD, Done, Product, run
from tests.support import finish, waits

SCRIPT = ROOT / "scripts" / "verify-register"
USER = "@sara:domicile.test"
ADDRESS, AGENT = "198.51.100.23", "Pomegranate/7.3"
PERIOD = ("--since", "2026-01-01", "--until", "2099-01-01", "--expires", "2099-01-01")
ASKED = ("--field", "phone_number", "--field", "ip_addresses")


class Town:
    """A deployment, its approvers and custodians with their keys, and a court."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.product = Product(folder, flows=False)
        (folder / "order.pdf").write_bytes(b"The court orders that.")
        approvers = {name: self.key(name, "ed25519") for name in ("parisa", "reza")}
        custodians = {name: self.key(name, "x25519") for name in ("leila", "omid", "nasrin")}
        lines = ["", "[disclosure.IR]", 'fields = ["phone_number", "ip_addresses"]']
        for title, keys in (("approvers", approvers), ("custodians", custodians)):
            lines += [f"[disclosure.IR.{title}]", *(f'{name} = "{key}"' for name, key in keys.items())]
        self.product.add("\n".join([*lines, ""]), self.product.policy)
        self.product.add_user("sara", PASSWORD, "--phone", "+989121234567")

    def key(self, name: str, kind: str) -> str:
        """Have somebody make a key; its public half."""
        return self.done("key", "new", "--kind", kind, self.folder / f"{name}.key").out.strip()

    @staticmethod
    def done(*words: str | Path) -> Done:
        """A command that needs no server."""
        done = run(*words)
        assert done.status == 0, done.err
        return done

    def request(self, *more: str, out: str = "order.json") -> Done:
        """Record what the court orders."""
        paper = ("--jurisdiction", "IR", "--authority", "Court 3", "--case", "17/4", "--basis", "Art. 9")
        files = ("--document", str(self.folder / "order.pdf"), "--out", str(self.folder / out))
        return self.product.run("disclose", "request", *paper, "--account", "sara", *PERIOD, *files, *more)

    def sign(self, name: str, order: str = "order.json") -> str:
        """Have somebody sign an order; the file with that."""
        out = f"{self.folder / name}.{order}"
        words = ("--name", name, "--key", self.folder / f"{name}.key", "--out", out, "--yes")
        self.done("disclose", "sign", self.folder / order, *words)
        return out

    def share(self, name: str, *more: str) -> Done:
        """Have a custodian give shares."""
        words = ("--name", name, "--key", self.folder / f"{name}.key", "--out", self.folder / f"{name}.share", "--yes")
        return run("disclose", "share", self.folder / "shares.json", *words, *more)

    def verify(self, *more: str) -> subprocess.CompletedProcess[str]:
        """Have a stranger look."""
        words = [sys.executable, str(SCRIPT), self.product.base_url, "IR", *more]
        return subprocess.run(words, capture_output=True, text=True, check=False, cwd="/")


async def seal(product: Product, device_id: str) -> None:
    """Have the use of a device sealed, as the server does each minute."""
    async with app.opened(*load_apart(product.settings)) as server:
        node = server.nodes["tehran"]
        user_nid = await node.read(users.resident, USER)
        assert user_nid is not None
        device = await node.read(devices.find, user_nid, device_id)
        assert device is not None
        caller = Caller(USER, "sara", node, user_nid, device_id, device.device_nid)
        node.memory(Notices).notice(caller, ADDRESS, AGENT, server.clock.now_ms())
        await writing.seal_waiting(server, node)


@waits
def test_everyone_does_their_part_and_a_stranger_checks_it(tmp_path: Path) -> None:
    town = Town(tmp_path)
    product = town.product
    with product:
        login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "sara"}, "password": PASSWORD}
        session = Api(product.base_url).client("POST", "/login", login)
        product.stop()
        finish(seal(product, session["device_id"]))
        product.start()
        beyond = town.request("--field", "email_address", out="beyond.json")
        assert (beyond.status, beyond.complaint) == (
            1,
            "domicile: email_address cannot be disclosed in IR: the policy names phone_number, ip_addresses",
        )
        assert "tehran/2 of domicile.test, version 1" in town.request(*ASKED).out
        for name, count in (("parisa", "1 of 2"), ("reza", "2 of 2")):
            early = product.run("disclose", "shares", "tehran/2", "--out", str(tmp_path / "early.json"))
            assert early.status == 1
            assert count in product.run("disclose", "approve", town.sign(name)).out
        assert product.run("disclose", "shares", "tehran/2", "--out", str(tmp_path / "shares.json")).status == 0
        stranger = json.loads(run("key", "new", "--kind", "ed25519", tmp_path / "x.key", "--json").out)["public_key"]
        assert "0 of 2 approvals" in town.share("leila", "--approver", stranger).complaint
        for name in ("leila", "omid"):
            assert town.share(name).status == 0
        shares = [word for name in ("leila", "omid") for word in ("--share", str(tmp_path / f"{name}.share"))]
        few = product.run("disclose", "open", "tehran/2", *shares[:2])
        assert (few.status, few.out) == (1, "")
        assert "1 of the 2 shares" in few.complaint
        opened = product.run("disclose", "open", "tehran/2", *shares)
        assert opened.out.splitlines() == [
            USER,
            "  phone_number       989121234567",
            f'  session            {{"ip_address":"{ADDRESS}"}}',
        ]
        assert "opened already" in product.run("disclose", "open", "tehran/2", *shares).complaint
        listed = product.run("disclose", "list").out
        assert "tehran/2       opened   2/2 approvals, 1 accounts" in listed
        seen = town.verify()
        assert (seen.returncode, seen.stderr) == (0, "")
        (line,) = seen.stdout.splitlines()
        assert line.startswith("tehran 8 ")
        assert town.verify("--seen", line).returncode == 0
        forged = town.verify("--seen", line[:-1] + ("0" if line[-1] != "0" else "1"))
        assert (forged.returncode, forged.stderr) == (1, "tehran had an entry 8 that is gone, or is another now\n")
        assert "another key" in town.verify("--key", f"tehran={stranger}").stderr
        page = Api(product.base_url).fetch("GET", "/_domicile/transparency?language=fa").decode()
        assert 'dir="rtl"' in page
        assert "حکم‌های ثبت‌شده: 2" in page
    for file in product.folder.rglob("*"):
        if file.is_file():
            assert ADDRESS.encode() not in file.read_bytes(), file
    assert ADDRESS not in product.log.read_text()
