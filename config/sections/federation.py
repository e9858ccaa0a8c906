"""Traffic with other servers, and what this one recommends to their rooms."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from config.forms import DAY, HOUR, MINUTE, SERVER_NAME
from config.kinds import Duration, FilePath, Flag, Integer, ListOf, Network, Range, Secret, SecretFile, Span, Text
from config.tables import Setting, TablesOf

ROOM_ID = Text('a room id such as "!abc:example.org"', r"![^\x00]{1,254}")
KEY_ID = Text('the id of a signing key such as "ed25519:a_1"', r"ed25519:[A-Za-z0-9_]{1,64}")
PUBLIC_KEY = Text("a public key in unpadded base64", r"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]")


@dataclass(frozen=True, slots=True, kw_only=True)
class OldKey:
    """A signing key that is no longer used. What it signed before stays valid."""

    id: Annotated[str, Setting(KEY_ID, "The key's id.")]
    key: Annotated[str, Setting(PUBLIC_KEY, "The public key.")]
    expired_ts: Annotated[int, Setting(Integer(0), "When it was used last, in milliseconds since 1970.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """Traffic with other Matrix servers. Which data may flow to whom is said in residency.toml."""

    enabled: Annotated[bool, Setting(Flag(), "Whether there is any.")] = True
    ca_file: Annotated[
        Path | None, Setting(FilePath(), "PEM file of one more certificate authority to trust.", Path("ca.pem"))
    ] = None
    verify_certificates: Annotated[
        bool, Setting(Flag(), "Whether the certificates of other servers are verified. false is for tests only.")
    ] = True
    allow_addresses: Annotated[
        tuple[Network, ...],
        Setting(
            ListOf(Range()),
            "Ranges exempt from the deny-list of private and loopback addresses, which holds for every outgoing "
            "connection of the server.",
        ),
    ] = ()
    request_timeout: Annotated[Duration, Setting(Span(), "How long another server may take to answer.")] = MINUTE
    longest_backoff: Annotated[
        Duration, Setting(Span(), "The longest pause before a server that does not answer is tried again.")
    ] = HOUR
    keep_undelivered: Annotated[
        Duration,
        Setting(
            Span(),
            "How long messages to devices wait for a server that cannot be reached. Of older events it gets the newest "
            "of each room when it is back, and asks for the others.",
        ),
    ] = 30 * DAY
    key_validity: Annotated[
        Duration, Setting(Span(), "How long other servers may keep our signing key before they ask again.")
    ] = DAY
    old_keys: Annotated[
        tuple[OldKey, ...],
        Setting(TablesOf(OldKey), "Signing keys of former times, so that what they signed can still be verified."),
    ] = ()
    notaries: Annotated[
        tuple[str, ...],
        Setting(
            ListOf(SERVER_NAME),
            "Servers that are asked, and believed, about the keys of a server that does not answer itself.",
            ("notary.example.org",),
        ),
    ] = ()
    delegate_to: Annotated[
        str | None,
        Setting(
            SERVER_NAME,
            "Where other servers reach this one, if not under its name: told at `/.well-known/matrix/server`, which "
            "they ask for at the server name's port 443.",
            "matrix.example.org:8448",
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyServer:
    """Whether rooms may have this server as their policy server, which signs what it recommends for them.

    A room is protected that names the server and its public key in `m.room.policy` while a user of the server is in it.
    """

    enabled: Annotated[
        bool,
        Setting(
            Flag(),
            "Whether it is one. Its public key is then told at `/.well-known/matrix/policy_server`.",
        ),
    ] = False
    signing_key: Annotated[
        Secret | None,
        Setting(
            SecretFile("DOMICILE_POLICY_SERVER_KEY"),
            "The key that it recommends with, in the form of the server's signing key, which it must not be. Without "
            "it one follows from the deployment secret.",
            Secret(file=Path("policy_server.key")),
        ),
    ] = None
    rooms: Annotated[
        tuple[str, ...],
        Setting(
            ListOf(ROOM_ID), "Rooms that it protects; all that name it when none is listed.", ("!abc:example.org",)
        ),
    ] = ()
