"""What an operator may say in ``domicile.toml``, with the meaning and default of each key.

Nothing here depends on where the file stands or on the machine: values in, values out. Relative paths have been
joined to the file's directory by the loader.
"""

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from config.kinds import (
    Address,
    Choice,
    Duration,
    FilePath,
    Flag,
    Integer,
    ListOf,
    Network,
    Range,
    Rate,
    Secret,
    SecretFile,
    Size,
    Span,
    Text,
    is_json,
    is_web_address,
)
from config.problems import Fault
from config.tables import Setting, TableOf, TablesOf

KiB, MiB = 2**10, 2**20
SECOND, MINUTE, HOUR, DAY = (Duration(ms) for ms in (1000, 60_000, 3_600_000, 86_400_000))

SIGNING_KEY = Secret(file=Path("signing.key"))

CLEAR_EVENT_TYPES = (
    "m.reaction",
    "m.room.redaction",
    "m.call.invite",
    "m.call.candidates",
    "m.call.answer",
    "m.call.select_answer",
    "m.call.reject",
    "m.call.hangup",
    "m.call.negotiate",
    "m.call.sdp_stream_metadata_changed",
)
"""The only events, besides ``m.room.encrypted`` and state, that may ever be sent in the clear."""

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
SERVER_NAME_PATTERN = rf"(?=.{{1,230}}\Z)(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]{{2,45}}\])(?::[0-9]{{1,5}})?"
SERVER_NAME = Text('a server name such as "example.org"', SERVER_NAME_PATTERN)
"""spec: appendices/#server-name"""

WEB_ADDRESS = Text(
    'a web address such as "https://matrix.example.org"',
    normal=lambda text: text.rstrip("/"),
    accepts=is_web_address,
    hint=lambda text: "" if "://" in text else 'it begins with "https://"',
)
CONTACT = Text(
    'an address such as "mailto:abuse@example.org" or "https://example.org/contact"',
    r"mailto:[^@\s]+@[^@\s]+|https?://\S+",
    hint=lambda text: 'write "mailto:" before an e-mail address' if re.fullmatch(r"[^@\s:]+@[^@\s]+", text) else "",
)

HOST = Text(
    'a host such as "mail.example.org"',
    rf"{_LABEL}(?:\.{_LABEL})*|[0-9A-Fa-f:.]{{2,45}}",
    normal=lambda text: text.lower(),
)
MAILBOX = Text('an e-mail address such as "noreply@example.org"', r"[^@\s<>]{1,64}@[^@\s<>]{1,255}")
GATEWAY = Text(
    'a web address such as "https://sms.example.org/send?to={number}"',
    r"https?://[^/{}\s?#@]+(?:[/?][\x21-\x7e]*)?",
    accepts=lambda text: is_web_address(text.partition("?")[0].replace("{", "").replace("}", "")),
)
JSON_TEMPLATE = Text("JSON", accepts=is_json, hint=lambda text: "" if text else "leave it out for none")
HEADER = Text("the name of a header", r"[A-Za-z0-9-]{1,100}")
TURN_URI = Text(
    'the address of a TURN server such as "turn:turn.example.org:3478?transport=udp"',
    r"turns?:[A-Za-z0-9.\[\]:_-]{1,255}(?:\?transport=(?:udp|tcp))?",
)
COUNTRY = Text('a country code such as "IR"', r"[A-Z]{2}")

PLACE = Text("a name of residency.toml", r"[A-Za-z0-9_-]{1,64}")

PROVIDER_ID = Text('an id such as "university"', r"[A-Za-z0-9._~-]{1,64}")
BRAND = Text('a brand such as "github"', r"[a-z0-9._-]{1,64}")
ISSUER = Text(
    'the address of an issuer such as "https://id.example.org"',
    r"https://.+",
    accepts=is_web_address,
    hint=lambda text: "" if text.startswith("https://") else 'it begins with "https://"',
)
CLAIM = Text('the name of a claim such as "preferred_username" or "address.country"', r"[\x21-\x7e]{1,200}")
SCOPE = Text('a scope such as "profile"', r"[\x21\x23-\x5b\x5d-\x7e]{1,200}")
ROOM_ID = Text('a room id such as "!abc:example.org"', r"![^\x00]{1,254}")
KEY_ID = Text('the id of a signing key such as "ed25519:a_1"', r"ed25519:[A-Za-z0-9_]{1,64}")
PUBLIC_KEY = Text("a public key in unpadded base64", r"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]")

Resource = Literal["client", "federation", "console", "metrics"]
RESOURCES: tuple[Resource, ...] = ("client", "federation", "console", "metrics")


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
class Registration:
    """Who may make an account. Where its data will rest is said in residency.toml."""

    mode: Annotated[
        Literal["open", "token", "closed"],
        Setting(
            Choice(("open", "token", "closed")),
            "`open`: everyone; `token`: who has a registration token; `closed`: only the operator makes accounts.",
        ),
    ] = "closed"
    guests: Annotated[
        bool, Setting(Flag(), "Whether anybody may look around as a guest: an account without name and password.")
    ] = False
    shared_secret: Annotated[
        Secret | None,
        Setting(
            SecretFile("DOMICILE_REGISTRATION_SHARED_SECRET"),
            "Secret of `/_synapse/admin/v1/register`, by which tools make accounts. The route is off without it.",
            Secret(file=Path("registration.secret")),
        ),
    ] = None
    tokens: Annotated[
        Secret | None,
        Setting(
            SecretFile("DOMICILE_REGISTRATION_TOKENS"),
            "Registration tokens that always hold, one a line; `#` begins a comment.",
            Secret(file=Path("registration.tokens")),
        ),
    ] = None
    verify: Annotated[
        tuple[Literal["email", "msisdn"], ...],
        Setting(
            ListOf(Choice(("email", "msisdn"))),
            "What everyone who registers must prove to own: an e-mail address, a phone number (`msisdn`). The tables "
            "`email` and `sms` say how that is asked. What is not named here may be given and need not be.",
            ("msisdn",),
        ),
    ] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Email:
    """The mail server through which e-mail addresses are verified; without it none is.

    It sees whom it writes to: choose it as you choose your nodes.
    """

    server: Annotated[str, Setting(HOST, "The SMTP server.", "mail.example.org")]
    sender: Annotated[str, Setting(MAILBOX, "Address that the messages come from.", "noreply@example.org")]
    port: Annotated[int, Setting(Integer(1, 65535), "Its port: usually 587, or 465 for `tls`.")] = 587
    security: Annotated[
        Literal["starttls", "tls", "none"],
        Setting(
            Choice(("starttls", "tls", "none")),
            "`starttls`: TLS is begun after the connection is made, and demanded; `tls`: from the first byte; `none`: "
            "in the clear, for a server on this machine.",
        ),
    ] = "starttls"
    ca_file: Annotated[
        Path | None,
        Setting(
            FilePath(), "PEM file of the authority of its certificate, if not one of the system's.", Path("ca.pem")
        ),
    ] = None
    user: Annotated[str | None, Setting(Text("a name"), "Name to log in with.", "domicile")] = None
    password: Annotated[
        Secret | None,
        Setting(SecretFile("DOMICILE_EMAIL_PASSWORD"), "Password to log in with.", Secret(file=Path("email.password"))),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sms:
    """The HTTP gateway through which phone numbers are verified; without it none is.

    It sees whom it writes to: choose it as you choose your nodes. In `url` and `body`, `{number}` stands for the number
    with its `+`, `{digits}` for it without, `{text}` for the message.
    """

    url: Annotated[str, Setting(GATEWAY, "Where the gateway is asked.", "https://sms.example.org/v1/messages")]
    method: Annotated[Literal["POST", "PUT", "GET"], Setting(Choice(("POST", "PUT", "GET")), "How.")] = "POST"
    body: Annotated[
        str, Setting(JSON_TEMPLATE, "The JSON that is sent; the places are filled inside its strings. Not sent by GET.")
    ] = '{"to": "{number}", "text": "{text}"}'
    header: Annotated[str, Setting(HEADER, "Name of the header that holds the secret.")] = "Authorization"
    secret: Annotated[
        Secret | None,
        Setting(
            SecretFile("DOMICILE_SMS_SECRET"),
            "The whole value of that header, such as `Bearer abc`.",
            Secret(file=Path("sms.secret")),
        ),
    ] = None
    countries: Annotated[
        tuple[str, ...],
        Setting(
            ListOf(COUNTRY),
            "Countries whose numbers are accepted, all when none is named. Messages cost.",
            ("IR", "FR"),
        ),
    ] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """How somebody proves to own an e-mail address or a phone number: by a link or a code that is sent there."""

    lifetime: Annotated[
        Duration, Setting(Span(), "How long a code or link holds, and then how long the proof may be used.")
    ] = HOUR
    attempts: Annotated[int, Setting(Integer(1, 100), "Wrong codes after which the right one does not hold.")] = 5
    return_to: Annotated[
        tuple[str, ...],
        Setting(
            ListOf(HOST),
            "Hosts of web clients to which the page of a link may send people back. A client that names another is "
            "not followed.",
            ("app.example.org",),
        ),
    ] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """Telling devices, by push gateways, and people, by e-mail, that something has come. Never what it says.

    A gateway, or the domain of an e-mail address, stands where residency.toml says that a server of its name does; the
    class `notifications` must be let flow there.
    """

    details: Annotated[
        bool,
        Setting(
            Flag(),
            "Whether a gateway is told who sent which kind of event in which room, where a client does not ask for less"
            " (`event_id_only`) and the policy lets `events` flow there. Content is never told.",
        ),
    ] = True
    request_timeout: Annotated[Duration, Setting(Span(), "How long a gateway may take to answer.")] = 20 * SECOND
    longest_backoff: Annotated[
        Duration, Setting(Span(), "The longest pause before a gateway that takes no notifications is tried again.")
    ] = 30 * MINUTE
    give_up_after: Annotated[
        Duration, Setting(Span(), "What a gateway has not taken for so long is dropped, and so is what is older.")
    ] = DAY
    letter_after: Annotated[
        Duration, Setting(Span(), "How long something is unread until a letter says so to who asked for letters.")
    ] = 10 * MINUTE
    letter_every: Annotated[Duration, Setting(Span(), "The least time between two such letters.")] = 12 * HOUR


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The TURN server that relays calls between clients that cannot reach each other. It sees their addresses, and that
    they speak: choose it as you choose your nodes.
    """

    uris: Annotated[
        tuple[str, ...],
        Setting(ListOf(TURN_URI, least=1), "Where it is reached.", ("turn:turn.example.org:3478?transport=udp",)),
    ]
    secret: Annotated[
        Secret,
        Setting(
            SecretFile("DOMICILE_TURN_SECRET"),
            "The secret that it shares with this server (coturn: `static-auth-secret`), from which clients get "
            "passwords that hold for a while.",
            Secret(file=Path("turn.secret")),
        ),
    ]
    lifetime: Annotated[Duration, Setting(Span(), "How long such a password holds.")] = HOUR


@dataclass(frozen=True, slots=True, kw_only=True)
class Rtc:
    """Calls of many (MatrixRTC): the services through which clients reach a media server."""

    livekit: Annotated[
        tuple[str, ...],
        Setting(
            ListOf(WEB_ADDRESS),
            "Addresses of services that give out tokens for a LiveKit server, the preferred one first.",
            ("https://livekit.example.org",),
        ),
    ] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """How long logins and what belongs to them live."""

    access_token_lifetime: Annotated[
        Duration | None,
        Setting(Span(never=True), "Life of the access token of a client that can refresh it."),
    ] = HOUR
    refresh_token_lifetime: Annotated[
        Duration | None,
        Setting(Span(never=True), "Life of a refresh token that is not used; after it the user logs in again."),
    ] = None
    authentication_lifetime: Annotated[
        Duration, Setting(Span(), "How long a user may take for an interactive authentication, registration included.")
    ] = 15 * MINUTE
    login_token_lifetime: Annotated[
        Duration, Setting(Span(), "How long a token holds by which a client lets another one of its user log in.")
    ] = 2 * MINUTE
    transaction_id_lifetime: Annotated[
        Duration, Setting(Span(), "How long a repeated transaction id of a client is answered like the first time.")
    ] = DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuth:
    """Signing in through a browser, by the OAuth 2.0 API: pages of the server ask for the password, not the client."""

    enabled: Annotated[
        bool, Setting(Flag(), "Whether clients may. Without it they are told to use the legacy API.")
    ] = True
    browser_lifetime: Annotated[
        Duration, Setting(Span(), "How long a browser stays signed in to the server's own pages.")
    ] = HOUR
    device_code_lifetime: Annotated[
        Duration, Setting(Span(), "How long a code holds that a device without a browser shows.")
    ] = 15 * MINUTE


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityProvider:
    """A provider of identities (OpenID Connect) through which people sign in.

    At the provider, register the redirect URI `/_domicile/sso/callback` of this server.

    It learns who signs in here, and when. Where the data of new users rests is said by `jurisdiction` or
    `jurisdiction_claim`, else by the pin rules of residency.toml.
    """

    id: Annotated[str, Setting(PROVIDER_ID, "What tells it from the others. It must never change.", "university")]
    name: Annotated[str, Setting(Text("a name"), "What people read.", "Example University")]
    issuer: Annotated[str, Setting(ISSUER, "Its issuer, as it says it itself.", "https://id.example.org")]
    client_id: Annotated[str, Setting(Text("the id of a client"), "What it calls this server.", "domicile")]
    client_secret: Annotated[
        Secret | None,
        Setting(
            SecretFile("DOMICILE_IDENTITY_PROVIDER_SECRET"),
            "The secret that goes with it, if there is one.",
            Secret(file=Path("university.secret")),
        ),
    ] = None
    scopes: Annotated[tuple[str, ...], Setting(ListOf(SCOPE), "What is asked of it besides `openid`.")] = ("profile",)
    localpart_claim: Annotated[
        str, Setting(CLAIM, "What a new user's name is made from; if it cannot be or is taken, they are asked.")
    ] = "preferred_username"
    display_name_claim: Annotated[str, Setting(CLAIM, "What a new user's display name is.")] = "name"
    registers: Annotated[
        bool, Setting(Flag(), "Whether those get an account who have none, whatever the mode of registration.")
    ] = True
    jurisdiction: Annotated[str | None, Setting(PLACE, "Where the data of new users rests.", "FR")] = None
    jurisdiction_claim: Annotated[
        str | None,
        Setting(
            CLAIM,
            "A claim that names the jurisdiction by its code. Of whom it says nothing, `jurisdiction` holds; without "
            "that, they get no account.",
            "address.country",
        ),
    ] = None
    brand: Annotated[str | None, Setting(BRAND, "By which clients may know what picture to show.", "github")] = None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """A bucket that holds `burst` requests and gains `per_second` of them each second."""

    per_second: Annotated[float, Setting(Rate(), "Requests gained each second.")]
    burst: Annotated[int, Setting(Integer(1, 10**6), "Requests that may come at once.")]


def _bucket(doc: str) -> Setting:
    return Setting(TableOf(RateLimit), doc)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """How much one user, or one address where there is no user yet, may ask for. An answer says when to try again."""

    enabled: Annotated[bool, Setting(Flag(), "Whether limits hold at all.")] = True
    message: Annotated[RateLimit, _bucket("Events, redactions and state sent, by user.")] = RateLimit(
        per_second=10, burst=50
    )
    login: Annotated[RateLimit, _bucket("Login attempts, by address.")] = RateLimit(per_second=0.2, burst=10)
    login_failure: Annotated[RateLimit, _bucket("Failed logins, by account.")] = RateLimit(per_second=0.05, burst=5)
    login_token: Annotated[RateLimit, _bucket("Tokens asked for to let another client log in, by user.")] = RateLimit(
        per_second=0.03, burst=4
    )
    registration: Annotated[RateLimit, _bucket("Registrations and their checks, by address.")] = RateLimit(
        per_second=0.2, burst=10
    )
    verification: Annotated[RateLimit, _bucket("Codes and links asked for, by address of the client.")] = RateLimit(
        per_second=0.02, burst=10
    )
    verification_of_one: Annotated[
        RateLimit, _bucket("Messages sent to one e-mail address or phone number, whoever asks.")
    ] = RateLimit(per_second=0.002, burst=5)
    room_creation: Annotated[RateLimit, _bucket("Rooms made or upgraded, by user.")] = RateLimit(
        per_second=0.2, burst=20
    )
    join: Annotated[RateLimit, _bucket("Joins and knocks, by user.")] = RateLimit(per_second=1, burst=20)
    invite: Annotated[RateLimit, _bucket("Invitations, by user.")] = RateLimit(per_second=0.5, burst=30)
    invite_from_server: Annotated[RateLimit, _bucket("Invitations of another server, by server.")] = RateLimit(
        per_second=1, burst=50
    )
    invite_from_user: Annotated[RateLimit, _bucket("Invitations of one user of another server, by who invites.")] = (
        RateLimit(per_second=0.2, burst=20)
    )
    invited: Annotated[RateLimit, _bucket("Invitations of other servers, by who is invited.")] = RateLimit(
        per_second=0.02, burst=20
    )
    media: Annotated[RateLimit, _bucket("Uploads and downloads, by user.")] = RateLimit(per_second=10, burst=100)
    keys: Annotated[RateLimit, _bucket("Uploads, queries and claims of keys, by user.")] = RateLimit(
        per_second=10, burst=100
    )
    to_device: Annotated[RateLimit, _bucket("Requests that send messages to devices, by user.")] = RateLimit(
        per_second=10, burst=100
    )
    ephemeral: Annotated[RateLimit, _bucket("Typing, receipts and presence, by user.")] = RateLimit(
        per_second=20, burst=100
    )
    profile: Annotated[RateLimit, _bucket("Changes of a profile, by user.")] = RateLimit(per_second=0.5, burst=10)
    directory: Annotated[RateLimit, _bucket("Searches for rooms and users, by user.")] = RateLimit(
        per_second=2, burst=30
    )
    report: Annotated[RateLimit, _bucket("Reports to the operator, by user.")] = RateLimit(per_second=0.05, burst=20)
    request: Annotated[RateLimit, _bucket("Everything else, by user.")] = RateLimit(per_second=50, burst=300)
    federation: Annotated[RateLimit, _bucket("Requests of another server, by server.")] = RateLimit(
        per_second=50, burst=500
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Passwords:
    """Passwords and the cost of their Argon2id hash, in its library's terms. Low costs are for tests only."""

    minimum_length: Annotated[int, Setting(Integer(1, 512), "Characters that a new password needs.")] = 8
    time_cost: Annotated[int, Setting(Integer(1, 1000), "Passes over the memory.")] = 3
    memory_cost: Annotated[int, Setting(Integer(8, 2**24), "Memory of one hash, in KiB; at least 8 for each lane.")] = (
        65536
    )
    parallelism: Annotated[int, Setting(Integer(1, 255), "Lanes.")] = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """A size in which thumbnails are made. `crop` fills the frame, `scale` fits into it."""

    width: Annotated[int, Setting(Integer(1, 4096), "Width of the frame, in pixels.")]
    height: Annotated[int, Setting(Integer(1, 4096), "Height of the frame, in pixels.")]
    method: Annotated[Literal["crop", "scale"], Setting(Choice(("crop", "scale")), "How the picture is put in it.")]


# spec: client-server-api/#thumbnails
SPEC_THUMBNAILS = (
    Thumbnail(width=32, height=32, method="crop"),
    Thumbnail(width=96, height=96, method="crop"),
    Thumbnail(width=320, height=240, method="scale"),
    Thumbnail(width=640, height=480, method="scale"),
    Thumbnail(width=800, height=600, method="scale"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """Uploaded files. Attachments of encrypted rooms are ciphertext here; only avatars and such can be looked into."""

    max_upload: Annotated[int, Setting(Size(), "The biggest file that a user may upload.")] = 100 * MiB
    max_download: Annotated[int, Setting(Size(), "The biggest file that is fetched from another server.")] = 100 * MiB
    max_pixels: Annotated[
        int,
        Setting(Integer(1, 10**9), "Pictures with more pixels get no thumbnail: unpacked they would fill the memory."),
    ] = 32_000_000
    thumbnails: Annotated[
        tuple[Thumbnail, ...],
        Setting(TablesOf(Thumbnail), "Sizes of thumbnails, the specification's when none is named."),
    ] = SPEC_THUMBNAILS
    pending_lifetime: Annotated[
        Duration, Setting(Span(), "How long a content URI that was made before its upload waits for it.")
    ] = DAY
    pending_uploads: Annotated[int, Setting(Integer(1, 10_000), "How many of those one user may have.")] = 10
    user_files: Annotated[
        int | None,
        Setting(Integer(1), "How many files one user may have uploaded; any number when it is not set.", 10_000),
    ] = None
    user_bytes: Annotated[
        int | None,
        Setting(Size(), "How many bytes in all; as many as there is room for when it is not set.", 10 * 1024 * MiB),
    ] = None
    url_previews: Annotated[
        bool,
        Setting(
            Flag(),
            "Whether the server fetches pages for previews of links. With it, clients that ask for them tell the server"
            " which links stand in their rooms, encrypted ones too, and the pages learn that somebody here has looked.",
        ),
    ] = False


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
class Log:
    """The log. It never holds content, tokens or addresses of users."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Setting(Choice(("debug", "info", "warning", "error")), "The least important entries that are written."),
    ] = "info"
    format: Annotated[
        Literal["text", "json"], Setting(Choice(("text", "json")), "`text` for people, `json` for machines.")
    ] = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """What users can see of each other."""

    presence: Annotated[bool, Setting(Flag(), "Whether presence is tracked and shown.")] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """Rooms made on this server."""

    default_version: Annotated[
        str,
        Setting(
            Choice(tuple(str(version) for version in range(3, 13))),
            "Room version of new rooms, unless asked otherwise.",
        ),
    ] = "12"
    publish: Annotated[
        Literal["everyone", "admins", "nobody"],
        Setting(Choice(("everyone", "admins", "nobody")), "Who may put a room into the public room directory."),
    ] = "everyone"


@dataclass(frozen=True, slots=True, kw_only=True)
class DelayedEvents:
    """Events that clients have sent later, unless they say otherwise: so a call ends for those whose device is gone."""

    max_delay: Annotated[Duration, Setting(Span(), "The longest that one may be put off at once.")] = DAY
    per_user: Annotated[
        int, Setting(Integer(0, 10_000), "How many of one user's may wait; 0 turns them off altogether.")
    ] = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Encryption:
    """What may be sent unencrypted. The list can be made shorter than the built-in one, never longer."""

    allow_in_clear: Annotated[
        tuple[str, ...],
        Setting(
            ListOf(Choice(CLEAR_EVENT_TYPES)),
            "Types of events, state aside, that are accepted in the clear. Servers see what they say.",
        ),
    ] = CLEAR_EVENT_TYPES


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """How the nodes' databases, which residency.toml names, are used."""

    readers: Annotated[int, Setting(Integer(1, 64), "Reading connections of each SQLite node; one more writes.")] = 3
    cache: Annotated[int, Setting(Size(), "Pages that each of those connections keeps in memory.")] = 2 * MiB
    connections: Annotated[
        int, Setting(Integer(2, 1000), "Connections of each PostgreSQL node, one of which writes.")
    ] = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationServicePlace:
    """An application service (a bridge, or a bot): it acts for its users, and is sent what happens in their rooms.

    Its users rest on one node. What it is sent goes to the jurisdiction where it runs, if the residency policy lets it.
    """

    registration: Annotated[
        Path,
        Setting(FilePath(), "The registration file (YAML) that the service made.", Path("bridges/telegram.yaml")),
    ]
    node: Annotated[
        str | None, Setting(PLACE, "Where its users rest; may be left out where there is one node only.", "paris")
    ] = None
    jurisdiction: Annotated[
        str | None, Setting(PLACE, "Where the service runs, if not in the jurisdiction of that node.", "FR")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The deployment as a whole."""

    server_name: Annotated[
        str,
        Setting(SERVER_NAME, "The part of user ids after the colon. It can never be changed.", "example.org"),
    ]
    public_base_url: Annotated[
        str | None,
        Setting(
            WEB_ADDRESS,
            "Where clients reach the client-server API; `https://` and the server name when not given.",
            "https://matrix.example.org",
        ),
    ] = None
    data_dir: Annotated[
        Path, Setting(FilePath(), "Directory of all that the server writes. Relative paths start from this file.")
    ] = Path("data")
    residency: Annotated[Path, Setting(FilePath(), "The residency policy.")] = Path("residency.toml")
    signing_key: Annotated[
        Secret,
        Setting(
            SecretFile("DOMICILE_SIGNING_KEY", key_suffix=""),
            "The server's signing key: `ed25519`, the key's id and the seed in unpadded base64, with spaces between. "
            "Of several lines the first is what the server signs with; the others are published as its keys too.",
        ),
    ] = SIGNING_KEY
    deployment_secret: Annotated[
        Secret | None,
        Setting(
            SecretFile("DOMICILE_DEPLOYMENT_SECRET"),
            "Secret from which the keys of keyed hashes come (directory, rate limits). Without it one is made at the "
            "first start and kept in the data directory.",
            Secret(file=Path("deployment.secret")),
        ),
    ] = None
    conformance_mode: Annotated[
        bool,
        Setting(Flag(), "Accept plaintext, for conformance suites. Every listener must then be on a loopback address."),
    ] = False
    operator: Annotated[Operator, Setting(TableOf(Operator), "")] = field(default_factory=Operator)
    listeners: Annotated[tuple[Listener, ...], Setting(TablesOf(Listener), "")] = (Listener(),)
    registration: Annotated[Registration, Setting(TableOf(Registration), "")] = field(default_factory=Registration)
    email: Annotated[Email | None, Setting(TableOf(Email), "")] = None
    sms: Annotated[Sms | None, Setting(TableOf(Sms), "")] = None
    verification: Annotated[Verification, Setting(TableOf(Verification), "")] = field(default_factory=Verification)
    push: Annotated[Push, Setting(TableOf(Push), "")] = field(default_factory=Push)
    turn: Annotated[Turn | None, Setting(TableOf(Turn), "")] = None
    rtc: Annotated[Rtc, Setting(TableOf(Rtc), "")] = field(default_factory=Rtc)
    sessions: Annotated[Sessions, Setting(TableOf(Sessions), "")] = field(default_factory=Sessions)
    oauth: Annotated[OAuth, Setting(TableOf(OAuth), "")] = field(default_factory=OAuth)
    identity_providers: Annotated[tuple[IdentityProvider, ...], Setting(TablesOf(IdentityProvider), "")] = ()
    federation: Annotated[Federation, Setting(TableOf(Federation), "")] = field(default_factory=Federation)
    policy_server: Annotated[PolicyServer, Setting(TableOf(PolicyServer), "")] = field(default_factory=PolicyServer)
    rate_limits: Annotated[RateLimits, Setting(TableOf(RateLimits), "")] = field(default_factory=RateLimits)
    passwords: Annotated[Passwords, Setting(TableOf(Passwords), "")] = field(default_factory=Passwords)
    media: Annotated[Media, Setting(TableOf(Media), "")] = field(default_factory=Media)
    limits: Annotated[Limits, Setting(TableOf(Limits), "")] = field(default_factory=Limits)
    users: Annotated[Users, Setting(TableOf(Users), "")] = field(default_factory=Users)
    rooms: Annotated[Rooms, Setting(TableOf(Rooms), "")] = field(default_factory=Rooms)
    delayed_events: Annotated[DelayedEvents, Setting(TableOf(DelayedEvents), "")] = field(default_factory=DelayedEvents)
    encryption: Annotated[Encryption, Setting(TableOf(Encryption), "")] = field(default_factory=Encryption)
    storage: Annotated[Storage, Setting(TableOf(Storage), "")] = field(default_factory=Storage)
    application_services: Annotated[
        tuple[ApplicationServicePlace, ...], Setting(TablesOf(ApplicationServicePlace), "")
    ] = ()
    log: Annotated[Log, Setting(TableOf(Log), "")] = field(default_factory=Log)

    @property
    def base_url(self) -> str:
        """Where clients reach the client-server API, without a slash at the end."""
        return self.public_base_url or f"https://{self.server_name}"


def faults(settings: Settings) -> Iterator[Fault]:
    """Mistakes that only show between several keys."""
    yield from _listener_faults(settings)
    yield from _federation_faults(settings)
    yield from _provider_faults(settings)
    for medium, table in (("email", settings.email), ("msisdn", settings.sms)):
        if medium in settings.registration.verify and table is None:
            yield Fault(
                ("registration", "verify"), f'wanted a table {"email" if medium == "email" else "sms"} for "{medium}"'
            )
    if settings.passwords.memory_cost < 8 * settings.passwords.parallelism:
        yield Fault(
            ("passwords", "memory_cost"),
            f"wanted at least {8 * settings.passwords.parallelism}: 8 KiB for each lane of parallelism",
        )


def _provider_faults(settings: Settings) -> Iterator[Fault]:
    known: set[str] = set()
    for index, provider in enumerate(settings.identity_providers):
        if provider.id in known:
            yield Fault(("identity_providers", index, "id"), f"there are two providers {provider.id}")
        known.add(provider.id)


def _federation_faults(settings: Settings) -> Iterator[Fault]:
    known: set[str] = set()
    for index, old in enumerate(settings.federation.old_keys):
        if old.id in known:
            yield Fault(("federation", "old_keys", index, "id"), f"{old.id} stands in this list twice")
        known.add(old.id)
    for index, notary in enumerate(settings.federation.notaries):
        if notary == settings.server_name:
            yield Fault(("federation", "notaries", index), "is this server itself")


def _listener_faults(settings: Settings) -> Iterator[Fault]:
    if not settings.listeners:
        yield Fault(("listeners",), "wanted at least one listener")
    taken: dict[tuple[str, int], int] = {}
    for index, listener in enumerate(settings.listeners):
        if settings.conformance_mode and not listener.is_loopback:
            yield Fault(
                ("listeners", index, "address"),
                "conformance_mode accepts plaintext, so it listens on loopback addresses only, "
                f'such as "127.0.0.1"; found "{listener.address}"',
            )
        place = (listener.address, listener.port)
        if listener.port and place in taken:
            yield Fault(
                ("listeners", index, "port"),
                f"{listener.address} port {listener.port} is taken by listeners[{taken[place]}]",
            )
        taken.setdefault(place, index)
