"""Proofs that somebody owns an e-mail address or a phone number: begun, sent, submitted, used once.

They are kept in memory, bounded in number and in time: before there is an account, there is no node on which an
identifier may rest. What a stranger is answered does not tell whether an identifier belongs to somebody here.

spec: client-server-api/#post_matrixclientv3registeremailrequesttoken
"""

from __future__ import annotations

import hmac
import math
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

from homeserver.accounts import letters
from homeserver.accounts.letters import Purpose
from homeserver.protocol.errors import (
    InvalidParam,
    LimitExceeded,
    MediumNotSupported,
    SessionExpired,
    ThreepidAuthFailed,
    ThreepidDenied,
    TokenIncorrect,
)
from homeserver.protocol.threepids import EMAIL, MSISDN, Identifier, country_of, is_client_secret
from homeserver.runtime.lru import Lru

if TYPE_CHECKING:
    from homeserver.context import Server

MOST = 20_000
"""Proofs under way at once; beyond, the one that was begun longest ago is forgotten."""

DIGITS = 6
"""Of a code that is sent to a phone."""

SUBMIT = "/_matrix/client/unstable/org.domicile/{medium}/submitToken"


class Wish(NamedTuple):
    """What a client asks when it wants a proof."""

    purpose: Purpose
    identifier: Identifier
    client_secret: str
    send_attempt: int
    next_link: str | None = None

    def check(self) -> None:
        """Raise InvalidParam for what cannot be a wish."""
        if not is_client_secret(self.client_secret):
            raise InvalidParam("client_secret has 1 to 255 of the characters 0-9 a-z A-Z . = _ -")


@dataclass(slots=True)
class _Validation:
    """One proof under way. No ``secret``: nothing can prove it, for a reason that only the owner may know."""

    wish: Wish
    secret: str | None
    ends: float
    sent: int = 0
    failures: int = 0
    validated_ts: int | None = None


class Proved(NamedTuple):
    """An identifier whose ownership was proved, and when (ms)."""

    identifier: Identifier
    validated_ts: int


class Validations:
    """Those under way, by session id, the oldest first. One for the deployment."""

    def __init__(self) -> None:
        self.by_sid: OrderedDict[str, _Validation] = OrderedDict()
        self.sids: dict[bytes, str] = {}
        self.settled_at: Lru[bytes, float] = Lru(MOST)

    def find(self, now: float, sid: str) -> _Validation | None:
        """One that has not ended."""
        found = self.by_sid.get(sid)
        return None if found is None or found.ends <= now else found

    def forget_ended(self, server: Server, now: float) -> None:
        """Make room."""
        for sid in [sid for sid, found in self.by_sid.items() if found.ends <= now]:
            self.forget(server, sid)
        while len(self.by_sid) >= MOST:
            self.forget(server, next(iter(self.by_sid)))

    def forget(self, server: Server, sid: str) -> None:
        """Forget one."""
        found = self.by_sid.pop(sid, None)
        if found is not None:
            self.sids.pop(_key(server, found.wish), None)


def _under_way(server: Server) -> Validations:
    return server.nodes.directory.memory(Validations)


def _key(server: Server, wish: Wish) -> bytes:
    return server.identity.tag("validation", wish.purpose, *wish.identifier, wish.client_secret)


def check_permitted(server: Server, identifier: Identifier) -> None:
    """Raise MediumNotSupported or ThreepidDenied for what the operator does not take."""
    if not letters.is_possible(server, identifier.medium):
        raise MediumNotSupported(f"This server does not verify identifiers of the medium {identifier.medium}")
    sms = server.settings.sms
    if (
        identifier.medium == MSISDN
        and sms is not None
        and sms.countries
        and country_of(identifier) not in sms.countries
    ):
        raise ThreepidDenied("This server does not take phone numbers of that country")


async def begin(server: Server, wish: Wish, *, fits: bool) -> str:
    """Send what proves the ownership, unless it was sent for this attempt already; returns the session id.

    Without ``fits`` (the identifier is taken, or belongs to nobody) its owner is told so, and the answer is the same.
    Raises InvalidParam, MediumNotSupported, ThreepidDenied, LimitExceeded, NotDelivered.
    """
    wish.check()
    check_permitted(server, wish.identifier)
    under_way, now = _under_way(server), server.clock.monotonic()
    sid = under_way.sids.get(_key(server, wish))
    found = None if sid is None else under_way.find(now, sid)
    spent = found is not None and found.failures >= server.settings.verification.attempts
    if sid is None or found is None or spent or (found.secret is None) is fits:
        _charge(server, wish.identifier)
        sid, found = _new(server, under_way, wish, fits)
    elif wish.send_attempt > found.sent and found.validated_ts is None:
        _charge(server, wish.identifier)
    else:
        return sid
    before, found.sent = found.sent, wish.send_attempt
    found.wish = wish
    found.ends = now + server.settings.verification.lifetime.seconds
    try:
        if found.secret is None:
            await letters.send_refusal(server, wish.identifier, wish.purpose)
        else:
            link = _link(server, sid, wish, found.secret)
            await letters.send_proof(server, wish.identifier, wish.purpose, found.secret, link)
    except BaseException:
        found.sent = before  # so that the same attempt can be made again
        raise
    return sid


def _new(server: Server, under_way: Validations, wish: Wish, fits: bool) -> tuple[str, _Validation]:
    now = server.clock.monotonic()
    under_way.forget_ended(server, now)
    secret = None
    if fits and wish.identifier.medium == EMAIL:
        secret = secrets.token_urlsafe(32)
    elif fits:
        secret = f"{secrets.randbelow(10**DIGITS):0{DIGITS}}"
    found = _Validation(wish, secret, now + server.settings.verification.lifetime.seconds, sent=wish.send_attempt - 1)
    key = _key(server, wish)
    if key in under_way.sids:
        under_way.forget(server, under_way.sids[key])
    sid = secrets.token_urlsafe(18)
    under_way.by_sid[sid] = found
    under_way.sids[key] = sid
    return sid, found


def submit_url(server: Server, medium: str) -> str:
    """Where a client or a page submits what was sent.

    spec: client-server-api/#post_matrixclientv3registermsisdnrequesttoken
    """
    return server.settings.base_url + SUBMIT.replace("{medium}", medium)


def _link(server: Server, sid: str, wish: Wish, secret: str) -> str:
    query = urlencode({"sid": sid, "client_secret": wish.client_secret, "token": secret})
    return f"{submit_url(server, wish.identifier.medium)}?{query}"


def _charge(server: Server, identifier: Identifier) -> None:
    """Count a message against its recipient, whoever asks for it. Raises LimitExceeded."""
    limits = server.settings.rate_limits
    if not limits.enabled:
        return
    bucket, settled_at = limits.verification_of_one, _under_way(server).settled_at
    tag, now = server.identity.tag("letters", *identifier), server.clock.monotonic()
    full_at = max(settled_at.get(tag) or 0.0, now)
    wait = full_at - now - (bucket.burst - 1) / bucket.per_second
    if wait > 1e-9:  # smaller is rounding
        raise LimitExceeded(math.ceil(wait * 1000))
    settled_at[tag] = full_at + 1 / bucket.per_second


def submit(server: Server, medium: str, sid: str, client_secret: str, token: str) -> str | None:
    """Prove the ownership by what was sent; returns the link that the client wants its user to be sent to.

    Raises SessionExpired (also for a session that never was), TokenIncorrect.

    spec: identity-service-api/#post_matrixidentityv2validateemailsubmittoken
    """
    now = server.clock.monotonic()
    found = _under_way(server).find(now, sid)
    if found is None or found.wish.identifier.medium != medium or not _same(found.wish.client_secret, client_secret):
        raise SessionExpired("This verification has ended, or never was; ask for another one")
    if found.failures >= server.settings.verification.attempts:
        raise SessionExpired("Too many wrong codes; ask for another one")
    if not _same(found.secret or "", token.strip()) or found.secret is None:
        found.failures += 1
        raise TokenIncorrect("That is not the code that was sent")
    if found.validated_ts is None:
        found.validated_ts = server.clock.now_ms()
        found.ends = now + server.settings.verification.lifetime.seconds
    return found.wish.next_link


def _same(kept: str, given: str) -> bool:
    return hmac.compare_digest(kept.encode(), given.encode(errors="replace"))


def proof(server: Server, purpose: Purpose, sid: str, client_secret: str, medium: str | None = None) -> Proved:
    """What a session has proved, for this purpose. Raises ThreepidAuthFailed when that is nothing (yet)."""
    found = _under_way(server).find(server.clock.monotonic(), sid)
    if (
        found is None
        or found.validated_ts is None
        or found.wish.purpose is not purpose
        or (medium is not None and found.wish.identifier.medium != medium)
        or not _same(found.wish.client_secret, client_secret)
    ):
        raise ThreepidAuthFailed("The identifier has not been verified")
    return Proved(found.wish.identifier, found.validated_ts)


def proved(server: Server, sid: str) -> Proved:
    """What a session has proved of which the client secret was checked before. Raises ThreepidAuthFailed."""
    found = _under_way(server).find(server.clock.monotonic(), sid)
    if found is None or found.validated_ts is None:
        raise ThreepidAuthFailed("The verification of the identifier has ended; start again")
    return Proved(found.wish.identifier, found.validated_ts)


def use(server: Server, sid: str) -> None:
    """A proof has served its purpose, once."""
    _under_way(server).forget(server, sid)
