"""Who serves, on which addresses, within which bounds; the log and the databases that go with it."""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from config.forms import MINUTE, SECOND, WEB_ADDRESS, KiB, MiB
from config.kinds import Address, Choice, Duration, FilePath, Integer, ListOf, Network, Range, Size, Span, Text
from config.tables import Name, Setting, TableOf

CONTACT = Text(
    'an address such as "mailto:abuse@example.org" or "https://example.org/contact"',
    r"mailto:[^@\s]+@[^@\s]+|https?://\S+",
    hint=lambda text: 'write "mailto:" before an e-mail address' if re.fullmatch(r"[^@\s:]+@[^@\s]+", text) else "",
)

Resource = Literal["client", "federation", "console", "metrics"]
RESOURCES: tuple[Resource, ...] = ("client", "federation", "console", "metrics")


@dataclass(frozen=True, slots=True, kw_only=True)
class Representative:
    """Who answers for the operator in a jurisdiction, where its law asks for somebody there. Stands in the passport."""

    jurisdiction: Annotated[str, Name()] = ""
    name: Annotated[str, Setting(Text("a name"), "Name of the person or company.", "Example Representation GmbH")]
    contact: Annotated[
        str | None, Setting(CONTACT, "Where they can be written to.", "mailto:representative@example.org")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """Who runs this deployment. Published in the passport and as support contact."""

    legal_name: Annotated[
        str | None,
        Setting(Text("a name"), "Name of the person or company that answers for the deployment.", "Example Telecom"),
    ] = None
    contact: Annotated[
        str | None, Setting(CONTACT, "Where users and other operators can write to.", "mailto:abuse@example.org")
    ] = None
    security_contact: Annotated[
        str | None, Setting(CONTACT, "Where weaknesses are reported.", "mailto:security@example.org")
    ] = None
    support_page: Annotated[
        str | None, Setting(WEB_ADDRESS, "A page with help for users.", "https://example.org/support")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Certificate of a listener."""

    certificate: Annotated[Path, Setting(FilePath(), "Certificate chain, PEM.", Path("tls.crt"))]
    key: Annotated[Path, Setting(FilePath(), "Private key, PEM.", Path("tls.key"))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """An address on which the server answers. `GET /health` is answered on every one."""

    address: Annotated[str, Setting(Address(), "Address to bind. `0.0.0.0` and `::` mean all.")] = "127.0.0.1"
    port: Annotated[int, Setting(Integer(0, 65535), "Port to bind; 0 lets the system choose one.")] = 8008
    resources: Annotated[
        tuple[Resource, ...],
        Setting(
            ListOf(Choice(RESOURCES), least=1),
            "What is served: `client` the client-server API and media, `federation` the server-server API and keys, "
            "`console` the operator's pages and the admin API, `metrics` the Prometheus metrics.",
        ),
    ] = RESOURCES
    tls: Annotated[
        Tls | None,
        Setting(
            TableOf(Tls),
            "Speak TLS with this certificate; plain HTTP without.",
            Tls(certificate=Path("tls.crt"), key=Path("tls.key")),
        ),
    ] = None
    trusted_proxies: Annotated[
        tuple[Network, ...],
        Setting(
            ListOf(Range()),
            "Reverse proxies whose `X-Forwarded-For` says who the client is.",
            (ipaddress.ip_network("127.0.0.1"),),
        ),
    ] = ()

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the listener."""
        return ipaddress.ip_address(self.address).is_loopback


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what one client or server can make this one hold or wait for."""

    max_body: Annotated[int, Setting(Size(low=64 * KiB), "The biggest JSON body of a client's request.")] = 4 * MiB
    max_federation_body: Annotated[
        int, Setting(Size(low=4 * MiB), "The biggest JSON body of another server's request.")
    ] = 16 * MiB
    unrecognised_bodies: Annotated[
        int,
        Setting(
            Size(low=64 * MiB),
            "Bytes of request bodies that are held, all in all, before it is known who sends them. One address may hold"
            " a quarter.",
        ),
    ] = 256 * MiB
    max_headers: Annotated[int, Setting(Size(low=4 * KiB), "The most bytes of a request line and its headers.")] = (
        32 * KiB
    )
    receive_timeout: Annotated[
        Duration, Setting(Span(), "How long a client may take to send the headers, and each 64 KiB of a body.")
    ] = 30 * SECOND
    idle_timeout: Annotated[Duration, Setting(Span(), "How long a connection without a request is kept.")] = 75 * SECOND
    connections: Annotated[int, Setting(Integer(1), "Connections held at once, over all listeners.")] = 20_000
    sync_timeout: Annotated[Duration, Setting(Span(), "The longest that `/sync` waits, whatever the client asks.")] = (
        5 * MINUTE
    )
    page_size: Annotated[int, Setting(Integer(1, 10_000), "The most events or entries in one page of an answer.")] = (
        1000
    )
    one_time_keys: Annotated[
        int, Setting(Integer(50, 100_000), "One-time keys of each algorithm that are kept for a device.")
    ] = 1000
    devices: Annotated[int, Setting(Integer(1, 100_000), "Devices that one user may have.")] = 500
    mailbox: Annotated[
        int,
        Setting(
            Integer(10, 10**7),
            "Messages that wait for one device that does not ask for them; beyond that the oldest are dropped.",
        ),
    ] = 10_000
    account_data: Annotated[int, Setting(Size(low=4 * KiB), "The biggest content of one account data entry.")] = (
        256 * KiB
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """How the nodes' databases, which residency.toml names, are used."""

    readers: Annotated[int, Setting(Integer(1, 64), "Reading connections of each SQLite node; one more writes.")] = 3
    cache: Annotated[int, Setting(Size(), "Pages that each of those connections keeps in memory.")] = 2 * MiB
    connections: Annotated[
        int, Setting(Integer(2, 1000), "Connections of each PostgreSQL node, one of which writes.")
    ] = 10


PATIENCE = Duration(10_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """Moving users from node to node."""

    at_once: Annotated[
        int, Setting(Integer(1, 100), "Users who are moved at the same time; others wait for their turn.")
    ] = 2
    patience: Annotated[
        Duration,
        Setting(
            Span(),
            "How long the requests of a user may be held while they are switched; it is tried again later if that is"
            " not enough.",
        ),
    ] = PATIENCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The log. It never holds content, tokens or addresses of users."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Setting(Choice(("debug", "info", "warning", "error")), "The least important entries that are written."),
    ] = "info"
    format: Annotated[
        Literal["text", "json"], Setting(Choice(("text", "json")), "`text` for people, `json` for machines.")
    ] = "text"
