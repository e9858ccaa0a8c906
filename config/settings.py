"""What an operator may say in ``domicile.toml``, with the meaning and default of each key.

The tables are in `config.sections`. Nothing here or there depends on where the file stands or on the machine: values
in, values out. Relative paths have been joined to the file's directory by the loader.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from config.forms import SERVER_NAME, WEB_ADDRESS
from config.kinds import FilePath, Flag, Secret, SecretFile
from config.problems import Fault
from config.residency import CODE
from config.sections.application_services import ApplicationServicePlace
from config.sections.calls import Rtc, Turn
from config.sections.federation import Federation, PolicyServer
from config.sections.media import Media
from config.sections.notifying import Push
from config.sections.rate_limits import RateLimits
from config.sections.registration import Email, Registration, Sms, Verification
from config.sections.rooms import DelayedEvents, Encryption, Rooms, ThirdPartyInvites, Users
from config.sections.serving import Limits, Listener, Log, Moves, Operator, Representative, Storage
from config.sections.signing_in import IdentityProvider, OAuth, Passwords, Sessions
from config.tables import Setting, TableMap, TableOf, TablesOf

SIGNING_KEY = Secret(file=Path("signing.key"))


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
    representatives: Annotated[
        Mapping[str, Representative], Setting(TableMap(Representative, CODE, "representatives.FR"), "")
    ] = field(default_factory=dict)
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
    third_party_invites: Annotated[ThirdPartyInvites, Setting(TableOf(ThirdPartyInvites), "")] = field(
        default_factory=ThirdPartyInvites
    )
    delayed_events: Annotated[DelayedEvents, Setting(TableOf(DelayedEvents), "")] = field(default_factory=DelayedEvents)
    encryption: Annotated[Encryption, Setting(TableOf(Encryption), "")] = field(default_factory=Encryption)
    storage: Annotated[Storage, Setting(TableOf(Storage), "")] = field(default_factory=Storage)
    moves: Annotated[Moves, Setting(TableOf(Moves), "")] = field(default_factory=Moves)
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
