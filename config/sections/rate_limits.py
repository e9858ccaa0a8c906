"""How much may be asked for, and how fast."""

from dataclasses import dataclass
from typing import Annotated

from config.kinds import Flag, Integer, Rate
from config.tables import Setting, TableOf


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
    administration: Annotated[RateLimit, _bucket("Calls of the admin API, by user.")] = RateLimit(
        per_second=5, burst=50
    )
    request: Annotated[RateLimit, _bucket("Everything else, by user.")] = RateLimit(per_second=50, burst=300)
    federation: Annotated[RateLimit, _bucket("Requests of another server, by server.")] = RateLimit(
        per_second=50, burst=500
    )
