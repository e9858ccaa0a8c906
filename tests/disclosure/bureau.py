"""A deployment with a ceiling in one jurisdiction, its approvers and custodians, and what they do with an order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import orjson
from nacl.public import PrivateKey

from homeserver.control import commands
from homeserver.protocol import disclosure_orders
from homeserver.protocol.signing import SigningKey, encode_base64
from homeserver.storage import accounts
from homeserver.storage.accounts import Threepid
from homeserver.storage.engine import Transaction
from homeserver.storage.nodes import Node
from tests.deployment import POLICY, Deploy, Deployment, User

DAY = 86_400_000
APPROVERS = {name: SigningKey(name, name.ljust(32).encode()) for name in ("parisa", "reza", "shirin")}
CUSTODIANS = {name: PrivateKey(name.ljust(32).encode()) for name in ("leila", "omid", "nasrin")}
PHONE = "989121234567"
FIELDS = ("ip_addresses", "user_agents", "last_seen", "phone_number", "registration_time")


def policy(*, serial: int = 1, **wished: Any) -> str:
    """A policy with a ceiling in Iran."""
    return POLICY.replace("serial = 1", f"serial = {serial}") + ceiling(**wished)


def ceiling(*, fields: Sequence[str] = FIELDS, approvals: int = 2, approvers: Sequence[str] = tuple(APPROVERS)) -> str:
    """What a policy says of disclosures in Iran."""
    keys = "\n".join(f'{name} = "{APPROVERS[name].verify_key.base64}"' for name in approvers)
    shares = "\n".join(f'{name} = "{encode_base64(bytes(key.public_key))}"' for name, key in CUSTODIANS.items())
    return (
        f"[disclosure.IR]\nfields = {list(fields)}\napprovals = {approvals}\nthreshold = 2\n"
        f"[disclosure.IR.approvers]\n{keys}\n[disclosure.IR.custodians]\n{shares}\n"
    )


class Bureau:
    """Those who keep a deployment, and what they are asked."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.people: dict[str, User] = {}

    @classmethod
    async def opened(cls, deploy: Deploy, **ceiling: Any) -> Bureau:
        """One with two accounts in Tehran, each with a phone number, and one in Paris."""
        made = cls(await deploy(policy=policy(**ceiling)))
        await made.deployment.clock.advance(10 * DAY / 1000)
        for name, node in (("sara", "tehran"), ("hamid", "tehran"), ("marie", "paris")):
            made.people[name] = await made.deployment.user(name, node)
        await made.tehran.write(_give_number, "@sara:example.org", PHONE, made.now)
        return made

    @property
    def tehran(self) -> Node:
        """The node with the ceiling."""
        return self.deployment.node("tehran")

    @property
    def now(self) -> int:
        """Milliseconds since 1970."""
        return self.deployment.clock.now_ms()

    async def command(self, name: str, **arguments: Any) -> dict[str, Any]:
        """What the command line is answered."""
        return await commands.perform(self.deployment.server, name, arguments)

    async def request(self, *accounts: str, **wished: Any) -> dict[str, Any]:
        """Record an order, by default about the phone number of sara."""
        paper = {
            "jurisdiction": "IR",
            "authority": "Court 3",
            "case": "17/4",
            "legal_basis": "Art. 9",
            "document_sha256": hashlib.sha256(b"paper").hexdigest(),
            "accounts": list(accounts or ("sara",)),
            "fields": ["phone_number"],
            "since": 0,
            "until": self.now + DAY,
            "expires": self.now + 3 * DAY,
        }
        return await self.command("disclose-request", **{**paper, **wished})

    async def approve(self, order: dict[str, Any], *names: str) -> dict[str, Any]:
        """Have approvers sign an order, as it was handed out."""
        answer: dict[str, Any] = {}
        for name in names:
            answer = await self.command("disclose-approve", **self.named(order), approval=signed(order, name))
        return answer

    async def approved(self, *accounts: str, **wished: Any) -> dict[str, Any]:
        """An order that two approvers have signed."""
        order = await self.request(*accounts, **wished)
        await self.approve(order, "parisa", "reza")
        return order

    async def open(self, order: dict[str, Any], **shares: Any) -> dict[str, Any]:
        """Open an order."""
        return await self.command("disclose-open", **self.named(order), **shares)

    async def shown(self, jurisdiction: str = "IR") -> dict[str, Any]:
        """What everybody is shown."""
        await self.deployment.clock.advance(20)  # what was read a moment ago is shown again
        answer = await self.deployment.asked("GET", f"/_domicile/transparency/{jurisdiction}.json")
        assert answer.status == 200
        return answer.json

    async def kinds(self) -> list[str]:
        """The kinds of all entries of the register of Tehran."""
        (register,) = (await self.shown())["registers"]
        return [record["entry"]["kind"] for record in register["records"]]

    @staticmethod
    def named(order: dict[str, Any]) -> dict[str, Any]:
        """How commands name an order."""
        return {"node": order["order"]["node"], "number": order["order"]["number"]}


def signed(order: dict[str, Any], name: str, key: SigningKey | None = None) -> dict[str, Any]:
    """The approval of an order under a name."""
    read = disclosure_orders.read(orjson.dumps(order["order"]))
    made: dict[str, Any] = orjson.loads(disclosure_orders.approve(read, name, key or APPROVERS[name]).write())
    return made


async def _give_number(tx: Transaction, user_id: str, number: str, now: int) -> None:
    account = await accounts.find(tx, user_id)
    assert account is not None
    await accounts.add_threepid(tx, account.user_nid, Threepid("msisdn", number, now, now))
