"""Three Domiciles of three operators in three jurisdictions, each the witness of the others' key logs."""

import contextlib
import hashlib
import json
import secrets
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.federation.authority import Authority
from tests.interop import forked
from tests.interop.api import Api
from tests.interop.deployment import STRICT, Deployment
from tests.interop.relay import Relay, relay

PLACES: Final[Mapping[str, str]] = {"IR": "tehran", "FR": "paris", "KZ": "almaty"}
"""Where each of them rests."""

RESIDENCY: Final = """\
format = 1
serial = {serial}

[jurisdictions.{country}]
name = "{country}"

[nodes.{node}]
jurisdiction = "{country}"
database = "sqlite:{node}/node.db"
media = "file:{node}/media"

[default]
node = "{node}"
"""

PEER: Final = """
[jurisdictions.{country}]
name = "{country}"

[[peers]]
server = "{server_name}"
jurisdiction = "{country}"
"""

FLOW: Final = """
[[flows]]
from = "{country}"
to = {others}
classes = ["*"]
consent = false
"""

WITNESS: Final = """
[witnesses.{node}]
key = "{key}"
url = "{url}"
jurisdiction = "{country}"
"""

QUORUM: Final = """
[witnessing]
quorum = 2
"""


class Realm(Deployment):
    """A deployment of one node, in one country."""

    template = STRICT

    def __init__(self, folder: Path, country: str, authority: Authority) -> None:
        self.country = country
        self.node = PLACES[country]
        folder.mkdir()
        super().__init__(folder, authority=authority)

    def _lay_out(self, flows: bool, databases: Mapping[str, str]) -> None:
        self.domicile("init", str(self.folder), "--server-name", self.server_name, "--jurisdiction", self.country)
        settings = self.template.format(server_name=self.server_name, base_url=self.base_url, port=self._port)
        self._config.write_text(settings + self._federation())
        for name, text in (("registration.secret", self._secret), ("registration.tokens", self.token)):
            (self.folder / name).write_text(text + "\n")
            (self.folder / name).chmod(0o600)

    @property
    def token(self) -> str:
        """What a person must show to get an account."""
        return f"{self.country.lower()}-{self._secret}"

    @property
    def data(self) -> Path:
        """Where everything is that it remembers."""
        return self.folder / "data"

    def policy(self, others: Sequence["Realm"], serial: int = 1, more: str = "") -> str:
        """Its policy: everything may flow between all of them."""
        text = RESIDENCY.format(country=self.country, node=self.node, serial=serial)
        for other in others:
            text += PEER.format(server_name=other.server_name, country=other.country)
        for country in PLACES:
            text += FLOW.format(country=country, others=json.dumps([each for each in PLACES if each != country]))
        return text + more

    def rule(self, text: str) -> None:
        """Put a policy into its file."""
        (self.folder / "residency.toml").write_text(text)

    def attempt(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[bytes]:
        """Run a command of its operator, however that ends."""
        return forked.run([*arguments, "--config", str(self._config)], stdin=stdin.encode())

    def command(self, *arguments: str, stdin: str = "") -> str:
        """Run a command of its operator and return what it prints. Raises AssertionError when it fails."""
        return self.domicile(*arguments, "--config", str(self._config), stdin=stdin)

    def set(self, text: str) -> None:
        """Add to its settings."""
        with self._config.open("a") as settings:
            settings.write(text)

    def registers_service(self, name: str, users: str) -> Api:
        """Register an application service with these users in its namespace, while it runs; returns its way to the
        server."""
        service = {
            "id": name,
            "url": None,
            "as_token": secrets.token_hex(16),
            "hs_token": secrets.token_hex(16),
            "sender_localpart": f"_{name}",
            "namespaces": {"users": [{"exclusive": False, "regex": users}]},
        }
        (self.folder / f"{name}.yaml").write_text(json.dumps(service))
        self.set(f'\n[[application_services]]\nregistration = "{name}.yaml"\nnode = "{self.node}"\n')
        assert self._process
        self._process.send_signal(signal.SIGHUP)
        return Api(self.base_url, str(service["as_token"]))

    # ------------------------------------------------------------ what anybody can see

    @property
    def public(self) -> dict[str, Any]:
        """What it tells everybody of its logs, and of what it has witnessed."""
        said: dict[str, Any] = Api(self.base_url).ask("GET", "/_domicile/v1/key-log")
        return said

    @property
    def log_about(self) -> dict[str, Any]:
        """What it tells everybody of its one log."""
        (about,) = self.public["logs"]
        return dict(about)

    def signed_of(self, other: "Realm") -> int:
        """How many leaves of another's log it has signed as a witness, as it serves that."""
        place = hashlib.sha256(other.log_about["origin"].encode()).hexdigest()
        return _size(Api(self.base_url).fetch("GET", f"/_domicile/v1/witness/{place}/checkpoint"))

    @property
    def log_size(self) -> int:
        """How many leaves its log has, as it serves it."""
        return _size(Api(self.base_url).fetch("GET", f"/_domicile/v1/key-log/{self.node}/checkpoint"))


def _size(checkpoint: bytes) -> int:
    return int(checkpoint.decode().split("\n")[1])


@dataclass(frozen=True)
class Treaty:
    """The three. ``relay``: the mail server of the operator in Tehran."""

    tehran: Realm
    paris: Realm
    almaty: Realm
    relay: Relay

    @property
    def all(self) -> tuple[Realm, Realm, Realm]:
        """Each of them."""
        return self.tehran, self.paris, self.almaty

    def others(self, realm: Realm) -> list[Realm]:
        """All but one."""
        return [each for each in self.all if each is not realm]


@contextlib.contextmanager
def treaty(folder: Path) -> Iterator[Treaty]:
    """The three, which run, know each other, and sign each other's logs."""
    (folder / "authority").mkdir()
    authority = Authority(folder / "authority")
    with contextlib.ExitStack() as stack:
        tehran, paris, almaty = (Realm(folder / place, country, authority) for country, place in PLACES.items())
        made = Treaty(tehran, paris, almaty, stack.enter_context(relay()))
        made.tehran.set(made.relay.settings)
        for realm in made.all:
            realm.rule(realm.policy(made.others(realm)))
            stack.enter_context(realm)
        for realm in made.all:
            _make_witnessed(realm, made.others(realm))
        yield made


def _make_witnessed(realm: Realm, others: Sequence[Realm]) -> None:
    """What the operators agree on: each adds the log of the other, and names the other as a witness."""
    more = QUORUM
    for other in others:
        about, witness = realm.log_about, other.public["witness"]
        other.command("log", "witness", "add", about["url"], "--key", about["key"])
        more += WITNESS.format(node=other.node, country=other.country, **witness)
    realm.rule(realm.policy(others, 2, more))
    realm.command("residency", "apply", json.loads(realm.command("residency", "plan", "--json"))["digest"])
