"""Pages on which somebody signs in to our pages, signs out, or makes an account.

spec: client-server-api/#user-registration
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from config.placement import Attributes, MustChoose, place
from homeserver.accounts import (
    contacts,
    identifying,
    passwords,
    registration,
    registration_tokens,
    sessions,
    validation,
)
from homeserver.accounts.letters import Purpose
from homeserver.accounts.oauth import browsers
from homeserver.accounts.registration import NewAccount
from homeserver.accounts.validation import Wish
from homeserver.endpoints import browsing, forms, oauth
from homeserver.pages import places
from homeserver.protocol.errors import Forbidden, InvalidParam, LimitExceeded, Refusal, Unauthorized, UserLocked
from homeserver.protocol.threepids import EMAIL, MSISDN, email_address, phone_number
from homeserver.web.limits import Limit

if TYPE_CHECKING:
    from homeserver.accounts.validation import Proved
    from homeserver.context import Server
    from homeserver.endpoints.browsing import Browser
    from homeserver.endpoints.forms import Form
    from homeserver.pages.places import Choice
    from homeserver.web.messages import Request, Response

MXID: Final = "mxid:"
"""What a user id stands behind in ``login_hint``."""


def _login_page(
    server: Server, browser: Browser, onward: str, user: str = "", fault: Refusal | None = None
) -> Response:
    return browsing.show(
        server,
        browser,
        "sign_in.html",
        fault=fault,
        next=onward,
        user=user,
        providers=server.settings.identity_providers,
        may_register=server.settings.registration.mode != "closed",
    )


@browsing.page("GET", browsing.LOGIN)
async def login_page(server: Server, request: Request) -> Response:
    """Ask who it is."""
    asked = forms.in_query(request)
    onward = browsing.local(asked.get("next"), oauth.ACCOUNT)
    browser = await browsing.browser_of(server, request)
    if browser.visitor is not None:
        return browsing.onward(server, onward)
    hint = asked.get("login_hint") or ""
    return _login_page(server, browser, onward, hint.removeprefix(MXID)[:300] if hint.startswith(MXID) else "")


@browsing.page("POST", browsing.LOGIN, limit=Limit.LOGIN)
async def log_in(server: Server, request: Request) -> Response:
    """Sign in by password."""
    sent = forms.in_body(request)
    browser = await browsing.browser_of(server, request)
    browsing.check_form(server, request, browser, sent)
    onward = browsing.local(sent.get("next"), oauth.ACCOUNT)
    user = sent.need("user").strip()
    try:
        token = await _token(server, user, sent.need("password"))
    except (Forbidden, InvalidParam, LimitExceeded, UserLocked) as fault:
        return _login_page(server, browser, onward, user[:300], fault)
    return browsing.signed_in(server, token, onward)


async def _token(server: Server, user: str, password: str) -> str:
    whose = sessions.full_user_id(server, await identifying.named_user(server, {"identifier": _identifier(user)}))
    verified = await passwords.verify(server, whose, password)
    if verified is None:
        raise Forbidden("Invalid username or password")
    node, account = verified
    if account.locked:
        raise UserLocked
    return await browsers.sign_in(server, node, account.user_id, account.user_nid)


def _identifier(user: str) -> dict[str, str]:
    """What somebody means who types a name, an e-mail address or a phone number."""
    if "@" in user[1:] and not user.startswith("@"):
        return {"type": "m.id.thirdparty", "medium": EMAIL, "address": user}
    if user.startswith("+"):
        digits = "".join(letter for letter in user if letter.isascii() and letter.isdigit())
        return {"type": "m.id.thirdparty", "medium": MSISDN, "address": digits}
    return {"type": "m.id.user", "user": user}


@browsing.page("POST", browsing.LOGOUT)
async def log_out(server: Server, request: Request) -> Response:
    """Sign out of our pages. The user's devices stay."""
    sent = forms.in_body(request)
    browser = await browsing.browser_of(server, request)
    browsing.check_form(server, request, browser, sent)
    if browser.visitor is not None:
        await browsers.sign_out(server, browser.visitor.token)
    return browsing.signed_out(server, browsing.local(sent.get("next"), browsing.LOGIN))


# -- registration


class _Proof(NamedTuple):
    """What shows that somebody owns an identifier: see `validation.proof`."""

    medium: str
    sid: str
    secret: str


class _Step(NamedTuple):
    """Where somebody is who makes an account: what they have proved, and what they still must."""

    proofs: list[_Proof]
    lacking: str | None


def _step(server: Server, sent: Form) -> _Step:
    """Raises InvalidParam for what is no list of proofs."""
    proofs = []
    for entry in (sent.get("proofs") or "").split():
        fields = entry.split(":")
        if len(fields) != 3:
            raise InvalidParam("This form is too old, or your browser does not keep cookies. Go back and try again.")
        proofs.append(_Proof(*fields))
    return _Step(proofs, _lacking(server, proofs))


def _lacking(server: Server, proofs: list[_Proof]) -> str | None:
    have = {proof.medium for proof in proofs}
    return next((medium for medium in server.settings.registration.verify if medium not in have), None)


def _written(proofs: list[_Proof]) -> str:
    return " ".join(":".join(proof) for proof in proofs)


def _next_page(
    server: Server, browser: Browser, step: _Step, onward: str, fault: Refusal | None = None, **values: str
) -> Response:
    """The form that comes next: one to prove something, or the one for the account."""
    if step.lacking is not None:
        sent: dict[str, Any] = {"sid": "", "secret": "", "address": "", **values}
        return browsing.show(
            server,
            browser,
            "prove.html",
            fault=fault,
            heading=browser.language.text("Create an account"),
            lines=(),
            action=browsing.SIGN_UP,
            kept={"next": onward, "medium": step.lacking, "proofs": _written(step.proofs)},
            medium=step.lacking,
            for_registration=True,
            **sent,
        )
    entered: dict[str, Any] = {"user": "", "token": "", **values}
    return browsing.show(
        server,
        browser,
        "register.html",
        fault=fault,
        action=browsing.SIGN_UP,
        pending="",
        next=onward,
        proofs=_written(step.proofs),
        needs_token=server.settings.registration.mode == "token",
        places=_places(server, browser, step, entered["token"]),
        **entered,
    )


def _places(server: Server, browser: Browser, step: _Step, token: str) -> list[Choice]:
    """The nodes between which the user chooses, if the policy lets them."""
    phones = [_proved(server, proof) for proof in step.proofs if proof.medium == MSISDN]
    attributes = Attributes(phone=phones[0].identifier.address if phones else None, token=token or None)
    policy = server.policy.now
    placement = place(policy, attributes)
    if not isinstance(placement, MustChoose):
        return []
    return places.choices(policy, browser.language, placement.nodes)


def _proved(server: Server, proof: _Proof) -> Proved:
    """Raises ThreepidAuthFailed."""
    return validation.proof(server, Purpose.REGISTER, proof.sid, proof.secret, proof.medium)


@browsing.page("GET", browsing.SIGN_UP, spec="client-server-api/#user-registration")
async def sign_up_page(server: Server, request: Request) -> Response:
    """Ask for what an account needs."""
    registration.flows(server)  # raises where nobody may
    asked = forms.in_query(request)
    browser = await browsing.browser_of(server, request)
    onward = browsing.local(asked.get("next"), oauth.ACCOUNT)
    if browser.visitor is not None:
        return browsing.onward(server, onward)
    return _next_page(server, browser, _Step([], _lacking(server, [])), onward)


@browsing.page("POST", browsing.SIGN_UP, limit=Limit.REGISTRATION, spec="client-server-api/#user-registration")
async def sign_up(server: Server, request: Request) -> Response:
    """One step towards an account, or the account."""
    registration.flows(server)
    sent = forms.in_body(request)
    browser = await browsing.browser_of(server, request)
    browsing.check_form(server, request, browser, sent)
    onward = browsing.local(sent.get("next"), oauth.ACCOUNT)
    step = _step(server, sent)
    kept = {name: (sent.get(name) or "")[:300] for name in ("user", "token", "sid", "secret", "address")}
    try:
        if step.lacking is not None:
            return await _prove(server, browser, step, onward, sent)
        token = await _create(server, step, sent)
    except Refusal as fault:
        if fault.status >= 500:
            raise
        names = ("sid", "secret", "address") if step.lacking is not None else ("user", "token")
        return _next_page(server, browser, step, onward, fault, **{name: kept[name] for name in names})
    return browsing.signed_in(server, token, onward)


async def _prove(server: Server, browser: Browser, step: _Step, onward: str, sent: Form) -> Response:
    """Have something sent that proves the ownership of an identifier, or look whether it was proved."""
    medium = step.lacking or ""
    sid, secret = sent.get("sid"), sent.get("secret")
    if sid is None or secret is None:
        address = sent.need("address").strip()
        identifier = email_address(address) if medium == EMAIL else phone_number(address)
        secret = secrets.token_hex(16)
        sid = await contacts.begin(server, Wish(Purpose.REGISTER, identifier, secret, 1))
        return _next_page(server, browser, step, onward, sid=sid, secret=secret, address=address)
    if medium == MSISDN:
        validation.submit(server, medium, sid, secret, sent.need("code"))
    proof = _Proof(medium, sid, secret)
    _proved(server, proof)
    proofs = [*step.proofs, proof]
    return _next_page(server, browser, _Step(proofs, _lacking(server, proofs)), onward)


async def _create(server: Server, step: _Step, sent: Form) -> str:
    """Make the account; returns what the browser is to hold."""
    password = sent.need("password")
    if sent.get("again") != password:
        raise InvalidParam("The two passwords differ")
    token = None
    if server.settings.registration.mode == "token":
        token = sent.need("token").strip()
        if not await registration_tokens.is_valid(server, token):
            raise Unauthorized("This registration token does not hold")
    proved = {proof.medium: _proved(server, proof) for proof in step.proofs}
    phone = proved.get(MSISDN)
    made = await registration.register(
        server,
        NewAccount(
            localpart=sent.need("user").strip(),
            password=password,
            attributes=Attributes(
                phone=None if phone is None else phone.identifier.address, token=token, choice=sent.get("node")
            ),
            threepids=tuple(contacts.as_row(server, each) for each in proved.values()),
        ),
    )
    for proof in step.proofs:
        validation.use(server, proof.sid)
    return await enter(server, made.user_id)


async def enter(server: Server, user_id: str) -> str:
    """Sign the browser in of somebody whose account was made just now."""
    return await browsers.sign_in(server, *await browsers.account_of(server, user_id))
