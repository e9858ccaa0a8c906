"""Pages on which users look after their account: what clients link to as ``account_management_uri``.

What cannot be undone, and what somebody at an unlocked screen must not do, asks for the password once more; who has
none must have come from their provider a moment ago.

spec: client-server-api/#oauth-20-account-management
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from homeserver.accounts import contacts, deactivation, devices, passwords, profile, registration
from homeserver.accounts.oauth import browsers, resets
from homeserver.e2ee import publication
from homeserver.endpoints import browsing, forms, oauth
from homeserver.pages import places
from homeserver.protocol.errors import (
    Forbidden,
    InvalidParam,
    LimitExceeded,
    NotFound,
    Refusal,
    UserSuspended,
    WeakPassword,
)
from homeserver.web.limits import Limit

if TYPE_CHECKING:
    from homeserver.accounts.oauth.browsers import Visitor
    from homeserver.context import Server
    from homeserver.endpoints.browsing import Browser
    from homeserver.endpoints.forms import Form
    from homeserver.web.messages import Request, Response


_OLDER: Final = {"sessions_list": "devices_list", "session_view": "device_view", "session_end": "device_delete"}
"""COMPAT(Element, 2024): what actions were called before they were specified, with and without ``org.matrix.``."""


def _action(form: Form) -> str:
    name = (form.get("action") or "profile").removeprefix("org.matrix.").removeprefix("org.domicile.")
    return _OLDER.get(name, name)


@browsing.page("GET", oauth.ACCOUNT, spec="client-server-api/#account-management-url-parameters")
async def account(server: Server, request: Request) -> Response:
    """The page for an action; the overview for one that we do not know."""
    browser = await browsing.browser_of(server, request)
    if browser.visitor is None:
        return browsing.to_login(server, browsing.here(request))
    asked = forms.in_query(request)
    action, device_id = _action(asked), asked.get("device_id")
    if action in ("device_view", "device_delete") and device_id is not None:
        return await _device_page(server, browser, device_id, deleting=action == "device_delete")
    if action in ("devices_list", "device_view", "device_delete"):
        return await _devices_page(server, browser)
    if action in _CONFIRMED:
        return await _confirm_page(server, browser, _CONFIRMED[action], device_id or "")
    return await _overview(server, browser)


async def _overview(server: Server, browser: Browser, done: str = "", fault: Refusal | None = None) -> Response:
    visitor = browsing.need_visitor(browser)
    fields = await profile.of_local(server, visitor.user_id, visitor.node.jurisdiction)
    return browsing.show(
        server,
        browser,
        "account.html",
        fault=fault,
        done=browser.language.text(done),
        user_id=visitor.user_id,
        display_name=str(fields.get("displayname") or ""),
        jurisdiction=places.label(server.policy.now, browser.language, visitor.node.jurisdiction),
        contacts=[_contact(each) for each in await contacts.of_caller(visitor.caller)],
        has_password=visitor.has_password,
    )


def _contact(threepid: dict[str, Any]) -> str:
    address = str(threepid["address"])
    return f"+{address}" if threepid["medium"] == "msisdn" else address


async def _devices_page(server: Server, browser: Browser, done: str = "") -> Response:
    mine = await devices.of_caller(browsing.need_visitor(browser).caller)
    shown = [{"id": device.device_id, "name": device.display_name} for device in mine]
    return browsing.show(server, browser, "devices.html", devices=shown, done=browser.language.text(done))


async def _device_page(server: Server, browser: Browser, device_id: str, *, deleting: bool) -> Response:
    try:
        device = await devices.find(browsing.need_visitor(browser).caller, device_id)
    except NotFound:
        return await _devices_page(server, browser)
    shown = {"id": device.device_id, "name": device.display_name}
    return browsing.show(server, browser, "device.html", device=shown, deleting=deleting)


_CONFIRMED: Final = {"account_deactivate": "deactivate", "cross_signing_reset": "reset", "password": "password"}
"""What is confirmed, by the name of its action."""

_HEADINGS: Final = {
    "deactivate": "Close your account",
    "reset": "Reset your cryptographic identity",
    "password": "Change the password",
}
_LINES: Final = {
    "deactivate": (
        "Nobody can sign in to a closed account, and nobody can ever have its name again. It leaves all rooms, and its "
        "settings, keys and devices are deleted. This cannot be undone.",
    ),
    "reset": (
        "Go on only if your client sent you here because you have lost all verified devices and your recovery key. "
        "Others will see that your identity has changed and have to verify you again.",
    ),
    "password": (),
}
_BUTTONS: Final = {
    "deactivate": "Close the account for ever",
    "reset": "Let my client reset it",
    "password": "Change the password",
}


async def _confirm_page(
    server: Server, browser: Browser, what: str, device_id: str, fault: Refusal | None = None
) -> Response:
    visitor, said = browsing.need_visitor(browser), browser.language.text
    lines = [said(line) for line in _LINES[what]]
    if what == "reset" and device_id:
        lines.append(f"{said('The device that asks:')} {await _device_name(visitor, device_id)}")
    return browsing.show(
        server,
        browser,
        "confirm.html",
        fault=fault,
        heading=said(_HEADINGS[what]),
        lines=lines,
        button=said(_BUTTONS[what]),
        do=what,
        device_id=device_id,
        grave=what != "password",
        user_id=visitor.user_id,
        has_password=visitor.has_password,
    )


async def _device_name(visitor: Visitor, device_id: str) -> str:
    try:
        device = await devices.find(visitor.caller, device_id)
    except NotFound:
        return device_id
    return f"{device.display_name} ({device_id})" if device.display_name else device_id


# -- changes


@browsing.page("POST", oauth.ACCOUNT, limit=Limit.LOGIN, spec="client-server-api/#oauth-20-account-management")
async def change(server: Server, request: Request) -> Response:
    """Do what a form of these pages says."""
    sent = forms.in_body(request)
    browser = await browsing.browser_of(server, request)
    browsing.check_form(server, request, browser, sent)
    visitor = browsing.need_visitor(browser)
    what = sent.need("do")
    if what == "name":
        return await _rename(server, browser, visitor, sent)
    if what == "device_delete":
        await devices.remove(server, visitor.node, visitor.user_id, visitor.user_nid, [sent.need("device_id")])
        await publication.told(server, visitor.node)
        return await _devices_page(server, browser, "The device is signed out.")
    done = {"deactivate": _deactivate, "reset": _reset, "password": _password}.get(what)
    if done is None:
        raise InvalidParam("There is no such thing to do")
    try:
        await _confirm(server, visitor, sent)
        return await done(server, browser, visitor, sent)
    except (Forbidden, InvalidParam, LimitExceeded, WeakPassword) as fault:
        return await _confirm_page(server, browser, what, sent.get("device_id") or "", fault)


async def _confirm(server: Server, visitor: Visitor, sent: Form) -> None:
    """Raise Forbidden unless it is the account's owner who sits there; LimitExceeded after too many attempts."""
    if not visitor.has_password:
        if not visitor.confirmed:
            raise Forbidden("Sign out, sign in again, and then come back within a few minutes.")
    elif await passwords.verify(server, visitor.user_id, sent.need("password")) is None:
        raise Forbidden("Invalid password")


async def _rename(server: Server, browser: Browser, visitor: Visitor, sent: Form) -> Response:
    name = (sent.get("name") or "").strip()
    try:
        if visitor.suspended:
            raise UserSuspended("You cannot do this while your account is suspended")
        if name:
            await profile.set_field(server, visitor.caller, "displayname", name)
        else:
            await profile.delete_field(server, visitor.caller, "displayname")
    except Refusal as fault:
        return await _overview(server, browser, fault=fault)
    return await _overview(server, browser, "Your display name is changed.")


async def _deactivate(server: Server, browser: Browser, visitor: Visitor, sent: Form) -> Response:
    await deactivation.deactivate(server, visitor.user_id, erase=sent.get("erase") == "yes")
    await publication.told(server, visitor.node)
    said = browser.language.text
    heading, lines = said("Your account is closed"), [said("You can close this page.")]
    return browsing.show(server, browser, "message.html", heading=heading, lines=lines, onward="")


async def _reset(server: Server, browser: Browser, visitor: Visitor, sent: Form) -> Response:
    resets.confirm(server, visitor.node, visitor.user_nid, sent.get("device_id"))
    said = browser.language.text
    heading, lines = said("Your client may reset it now"), [said("Go back to it within ten minutes.")]
    return browsing.show(server, browser, "message.html", heading=heading, lines=lines, onward="")


async def _password(server: Server, browser: Browser, visitor: Visitor, sent: Form) -> Response:
    new = sent.need("new")
    if sent.get("again") != new:
        raise InvalidParam("The two passwords differ")
    await registration.change_own_password(server, visitor.user_id, new, log_out=sent.get("log_out") == "yes")
    await publication.told(server, visitor.node)
    token = await browsers.sign_in(server, visitor.node, visitor.user_id, visitor.user_nid)
    return browsing.signed_in(server, token, oauth.ACCOUNT)
