"""Templates become answers. Everything that is put into a page is escaped, and a page may load or run nothing.

The policy of each page names where its forms may lead, because browsers hold redirects after a form to it too.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from homeserver.pages.languages import Language, language
from homeserver.web.messages import Response

HTML: Final = "text/html; charset=utf-8"


@cache
def _style() -> tuple[str, str]:
    """The style of all pages, and what a policy calls it."""
    text = (files(__package__) / "style.css").read_text(encoding="utf-8")
    return text, f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


DONE: Final = (
    "if(window.onAuthDone){window.onAuthDone()}else if(window.opener&&window.opener.postMessage)"
    '{window.opener.postMessage("authDone","*")}'
)
"""What tells a client that a stage has been completed on its page. spec: client-server-api/#fallback"""
_DONE_HASH: Final = f"'sha256-{b64encode(sha256(DONE.encode()).digest()).decode()}'"


@cache
def _environment(code: str) -> Environment:
    spoken = language(code)
    made = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
        auto_reload=False,
    )
    made.install_gettext_callables(  # type: ignore[attr-defined]  # the extension adds it
        spoken.text, lambda one, many, n: spoken.text(one if n == 1 else many), newstyle=True
    )
    made.globals.update(language=spoken, fault="", onward="", at_once=False, done="")
    return made


def text(spoken: Language, template: str, **values: Any) -> str:
    """A page as text. Raises jinja2.UndefinedError for a value that the template needs and does not get."""
    return _environment(spoken.code).get_template(template).render(style=_style()[0], **values)


def page(
    spoken: Language,
    template: str,
    *,
    status: int = 200,
    leads_to: Sequence[str] = (),
    opened_by_client: bool = False,
    headers: Sequence[tuple[str, str]] = (),
    **values: Any,
) -> Response:
    """A page as an answer. ``leads_to``: origins or schemes to which its forms may send a browser.
    ``opened_by_client``: a client has opened it and waits to be told that it is done with, by the one script there is.
    """
    policy = (
        f"default-src 'none'; style-src {_style()[1]}; form-action {' '.join((chr(39) + 'self' + chr(39), *leads_to))};"
        " frame-ancestors 'none'; base-uri 'none'" + (f"; script-src {_DONE_HASH}" if opened_by_client else "")
    )
    guards = (
        ("Content-Security-Policy", policy),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Cross-Origin-Opener-Policy", "unsafe-none" if opened_by_client else "same-origin"),
        ("Vary", "Accept-Language, Cookie"),
        ("Content-Language", spoken.code),
    )
    body = text(spoken, template, **values).encode(errors="replace")
    return Response(status, body, (*guards, *headers), content_type=HTML)
