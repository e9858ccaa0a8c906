"""The mail server of somebody who runs a homeserver: they can read what goes through it."""

import contextlib
from collections.abc import Iterator
from urllib.parse import urlencode

from aiosmtpd.controller import Controller

from tests.accounts.post import Mailbox, Post
from tests.interop.api import Api
from tests.interop.deployment import free_port

SUBMIT = "/_matrix/client/unstable/org.domicile/email/submitToken"


class Relay:
    """Takes all mail of a homeserver, and keeps it."""

    def __init__(self, port: int) -> None:
        self._post = Post(smtp_port=port)

    @property
    def settings(self) -> str:
        """What the homeserver has to be set to."""
        return self._post.settings.partition("[sms]")[0]

    def proves(self, api: Api, purpose: str, address: str) -> dict[str, str]:
        """Have a link sent to an address, and follow it as it comes by; returns what proves that one reads what is sent
        there. ``purpose``: the path of the route."""
        wanted = {"email": address, "client_secret": "secret", "send_attempt": 1}
        sid = api.client("POST", f"{purpose}/email/requestToken", wanted)["sid"]
        form = urlencode(self._post.letters[-1].parameters).encode()
        api.fetch("POST", SUBMIT, form, "application/x-www-form-urlencoded")
        return {"sid": sid, "client_secret": "secret"}

    def handler(self) -> Mailbox:
        """What takes the mail."""
        return Mailbox(self._post)


@contextlib.contextmanager
def relay() -> Iterator[Relay]:
    """One that listens."""
    port = free_port()
    made = Relay(port)
    listening = Controller(made.handler(), hostname="127.0.0.1", port=port)
    listening.start()
    try:
        yield made
    finally:
        listening.stop()
