"""The real product, started as a user starts it: two nodes in two countries on SQLite, on a free port."""

import contextlib
import hashlib
import hmac
import re
import secrets
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.federation.authority import Authority
from tests.interop import forked
from tests.interop.api import Api
from tests.interop.cast import Country
from tests.interop.forked import Forked
from tests.interop.links import Link
from tests.interop.remains import Remains

NODES: Mapping[Country, str] = {"IR": "tehran", "FR": "paris"}
START_SECONDS = 60.0

SETTINGS = """\
server_name = "{server_name}"
public_base_url = "{base_url}"
data_dir = "data"
residency = "residency.toml"
signing_key = "signing.key"

[[listeners]]
address = "127.0.0.1"
port = {port}
resources = ["client", "console", "metrics"]

[registration]
mode = "token"
shared_secret_file = "registration.secret"
tokens_file = "registration.tokens"

[rate_limits]
enabled = false

[encryption]  # new devices are spoken to at once, as with servers that know nothing of signatures
unsigned_device_grace = "1w"

[passwords]  # cheap: nobody guesses here
time_cost = 1
memory_cost = 8
parallelism = 1
"""

STRICT = SETTINGS.replace('unsigned_device_grace = "1w"', "")
"""As a deployment is when nobody has set anything: who is not signed for is not spoken to."""

ALONE = """
[federation]
enabled = false
"""

AMONG_OTHERS = """
[federation]
ca_file = "{ca_file}"
allow_addresses = ["127.0.0.0/8", "::1/128"]

[[listeners]]
address = "127.0.0.1"
port = {port}
resources = ["federation"]
tls = {{ certificate = "{certificate}", key = "{key}" }}
"""

RESIDENCY = """\
format = 1
serial = 1

[jurisdictions.IR]
name = "Iran"
languages = ["fa"]

[jurisdictions.FR]
name = "France"
languages = ["fr"]

[nodes.tehran]
jurisdiction = "IR"
database = "sqlite:tehran/node.db"
media = "file:tehran/media"

[nodes.paris]
jurisdiction = "FR"
database = "sqlite:paris/node.db"
media = "file:paris/media"

[[pins]]
phone_prefix = "+98"
node = "tehran"

[[pins]]
phone_prefix = "+33"
node = "paris"

[[pins]]
token = "ir-*"
node = "tehran"

[[pins]]
token = "fr-*"
node = "paris"

[default]
refuse = "This service needs to know where you live."
"""

FLOWS = """
[[flows]]
from = "IR"
to = ["FR"]
classes = ["events", "keys", "media", "profile", "receipts", "presence"]
consent = false

[[flows]]
from = "FR"
to = ["IR"]
classes = ["*"]
consent = false
"""


FLOWS_OUT = """
[[flows]]
from = "IR"
to = ["unknown"]
classes = ["*"]
consent = false

[[flows]]
from = "FR"
to = ["unknown"]
classes = ["*"]
consent = false
"""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Deployment:
    """A deployment in `folder`; with `flows`, everything may flow between the two countries, else nothing.

    `databases` are addresses by node, for nodes that are not to be on SQLite. With an `authority`, which signs the
    certificates of all, it talks with other servers, which reach it by ``link``, and everything may flow to them too.
    """

    template = SETTINGS

    def __init__(
        self,
        folder: Path,
        *,
        flows: bool = True,
        databases: Mapping[str, str] | None = None,
        authority: Authority | None = None,
    ) -> None:
        self.folder = folder / "domicile"
        self.log = folder / "log.txt"
        self._port = free_port()
        self._authority = authority
        self._federation_port = free_port()
        self.link = None if authority is None else Link(self._federation_port)
        self.server_name = "domicile.test" if self.link is None else f"localhost:{self.link.port}"
        self._process: Forked | None = None
        self._listener: threading.Thread | None = None
        self._secret = secrets.token_hex(16)
        self._tokens = {country: f"{country.lower()}-{secrets.token_hex(8)}" for country in NODES}
        self._lay_out(flows, databases or {})

    @property
    def base_url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def _config(self) -> Path:
        return self.folder / "domicile.toml"

    def _lay_out(self, flows: bool, databases: Mapping[str, str]) -> None:
        countries = [argument for country in NODES for argument in ("--jurisdiction", country)]
        self.domicile("init", str(self.folder), "--server-name", self.server_name, *countries)
        settings = self.template.format(server_name=self.server_name, base_url=self.base_url, port=self._port)
        self._config.write_text(settings + self._federation())
        residency = RESIDENCY + (FLOWS if flows else "") + (FLOWS_OUT if self._authority else "")
        for node, address in databases.items():
            residency = residency.replace(f"sqlite:{node}/node.db", address)
        (self.folder / "residency.toml").write_text(residency)
        for name, text in (
            ("registration.secret", self._secret),
            ("registration.tokens", "\n".join(self._tokens.values())),
        ):
            (self.folder / name).write_text(text + "\n")
            (self.folder / name).chmod(0o600)

    def _federation(self) -> str:
        """The settings that are about other servers."""
        if self._authority is None:
            return ALONE
        tls = self._authority.issue("localhost")
        return AMONG_OTHERS.format(
            ca_file=self._authority.ca_file, port=self._federation_port, certificate=tls.certificate, key=tls.key
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self.link is not None:
            self.link.__exit__(kind, error, trace)

    def domicile(self, *arguments: str, stdin: str = "") -> str:
        """Run a command of the product and return what it prints. Raises AssertionError when it fails."""
        done = forked.run(arguments, stdin=stdin.encode())
        assert done.returncode == 0, f"domicile {' '.join(arguments)}: {done.stdout + done.stderr!r}"
        return done.stdout.decode()

    # ------------------------------------------------------------ running

    def start(self, first: Callable[[], None] | None = None) -> None:
        """Serve; returns when clients can come in. ``first``: see `Forked`."""
        assert self._process is None
        self._process = Forked(["serve", "--config", str(self._config)], first=first)
        ready = threading.Event()
        self._listener = threading.Thread(target=self._listen, args=(self._process, ready), daemon=True)
        self._listener.start()
        if not ready.wait(START_SECONDS) or self._process.poll() is not None:
            said = self.log.read_text()[-4000:]
            self.kill9()
            raise AssertionError(f"the server did not become ready:\n{said}")
        Api(self.base_url).ask("GET", "/health")

    def _listen(self, process: Forked, ready: threading.Event) -> None:
        assert process.stdout
        with process.stdout, self.log.open("a") as log:
            for line in process.stdout:
                log.write(line)
                log.flush()
                if re.search(r"\bready\b", line):
                    ready.set()
        ready.set()  # it ended; nobody needs to wait any longer

    def _gone(self) -> None:
        assert self._process
        assert self._listener
        self._process.wait(START_SECONDS)
        self._listener.join()
        self._process = None

    def stop(self) -> None:
        """Stop in order, as systemd does. Raises AssertionError unless it ends by itself with status 0."""
        if self._process is None:
            return
        process = self._process
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise AssertionError("the server did not stop on SIGTERM") from None
        self._gone()
        assert process.returncode == 0, self.log.read_text()[-4000:]

    def kill9(self) -> None:
        """Kill it without warning."""
        assert self._process
        self._process.kill()
        self._gone()

    def restart(self) -> None:
        """Stop it in order and start it again on the same data and address."""
        self.stop()
        self.start()

    @contextlib.contextmanager
    def without(self, node: str) -> Iterator[None]:
        """Go on while a node's disk is away: restarts without it, and with it again at the end."""
        away = self.log.parent / f"{node} is away"
        self.stop()
        shutil.move(self.node_folder(node), away)
        self.node_folder(node).write_text("not a folder: nothing can be opened or made below it\n")
        try:
            self.start()
            yield
            self.stop()
        finally:
            self.node_folder(node).unlink()
            shutil.move(away, self.node_folder(node))
        self.start()

    # ------------------------------------------------------------ people

    def registration_token(self, country: Country) -> str:
        """The token that pins who registers with it to the node of a country."""
        return self._tokens[country]

    def add_user(self, localpart: str, password: str, *options: str) -> None:
        """Make an account by the command line, with ``--phone`` or ``--node`` among the options."""
        command = ["user", "add", localpart, "--config", str(self._config), "--password-stdin", *options]
        self.domicile(*command, stdin=password + "\n")

    def add_user_by_secret(self, localpart: str, password: str, node: str) -> dict[str, Any]:
        """Make an account by the route of the shared secret, pinned to a node; returns its session."""
        api = Api(self.base_url)
        nonce = api.ask("GET", "/_synapse/admin/v1/register")["nonce"]
        signed = "\0".join((nonce, localpart, password, "notadmin")).encode()
        body = {
            "nonce": nonce,
            "username": localpart,
            "password": password,
            "admin": False,
            "mac": hmac.new(self._secret.encode(), signed, hashlib.sha1).hexdigest(),
            "org.domicile.node": node,
        }
        session: dict[str, Any] = api.ask("POST", "/_synapse/admin/v1/register", body)
        return session

    # ------------------------------------------------------------ what lies on the disk

    def node_folder(self, node: str) -> Path:
        """Where a node keeps its database, with what belongs to it, and its media."""
        return self.folder / "data" / node

    def remains(self, node: str) -> Remains:
        """What lies on a node: its database, write-ahead log and media."""
        return Remains(self.node_folder(node))

    def remains_elsewhere(self) -> Remains:
        """What lies in the deployment's folders, but on no node: the directory, keys, settings."""
        nodes = {self.node_folder(node) for node in NODES.values()}
        outside = [path for path in self.folder.rglob("*") if path.is_file() and not nodes.intersection(path.parents)]
        return Remains(*outside)
