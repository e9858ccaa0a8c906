"""Pages of stages that a client does not know: it opens them in a browser, and goes on when they are done with.

spec: client-server-api/#fallback
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from config.placement import MustChoose, place
from homeserver.accounts import interactive, registration
from homeserver.accounts.letters import Purpose
from homeserver.endpoints import browsing, forms
from homeserver.pages import places
from homeserver.protocol.errors import Forbidden, InvalidParam
from homeserver.web.limits import Limit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Server
    from homeserver.endpoints.browsing import Browser
    from homeserver.protocol.errors import Refusal
    from homeserver.web.messages import Request, Response

CHOICE: Final = f"/_matrix/client/v3/auth/{interactive.NODE}/fallback/web"


def _nodes(server: Server, session: str) -> Sequence[str]:
    """The nodes between which somebody chooses who registers. Raises Forbidden when there is nothing to choose."""
    completed = interactive.established(server, session, Purpose.REGISTER)
    if completed is not None:
        told = {stage: value for stage, value in completed.items() if stage != interactive.NODE}
        placement = place(server.policy.now, registration.attributes_of(server, told, None))
        if isinstance(placement, MustChoose):
            return placement.nodes
    raise Forbidden("This registration has ended, or leaves you nothing to choose. Go back to your app.")


def _page(
    server: Server, browser: Browser, session: str, nodes: Sequence[str], fault: Refusal | None = None
) -> Response:
    return browsing.show(
        server,
        browser,
        "choose_place.html",
        fault=fault,
        opened_by_client=True,
        heading=browser.language.text("Where is your data to rest?"),
        action=CHOICE,
        session=session,
        places=places.choices(server.policy.now, browser.language, nodes),
    )


@browsing.page("GET", CHOICE, spec="client-server-api/#fallback")
async def choose_place(server: Server, request: Request) -> Response:
    """Let somebody who registers choose where their data is to rest."""
    session = forms.in_query(request).need("session")
    nodes = _nodes(server, session)
    return _page(server, await browsing.browser_of(server, request), session, nodes)


@browsing.page("POST", CHOICE, limit=Limit.REGISTRATION, spec="client-server-api/#fallback")
async def chosen_place(server: Server, request: Request) -> Response:
    """Note the choice, for the client that goes on."""
    sent = forms.in_body(request)
    browser = await browsing.browser_of(server, request)
    browsing.check_form(server, request, browser, sent)
    session = sent.need("session")
    nodes, node = _nodes(server, session), sent.get("node")
    if node is None or node not in nodes:
        return _page(server, browser, session, nodes, InvalidParam("Choose where your data is to rest."))
    interactive.complete(server, session, interactive.NODE, node)
    return browsing.done(server, browser, browser.language.text("Chosen"))
