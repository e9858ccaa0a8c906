"""A day of two people with matrix-js-sdk, once over /sync and once over sliding sync: the same script.

Soraya lives in Iran and signs in by password, Simon in France and by OAuth 2.0. Both get a second device, which the
first one vouches for, and both lose it. In the evening Soraya has no device left.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.cast import Wardrobe, device_name, meet
from tests.interop.client import CallError, Client, Kind
from tests.interop.deployment import STRICT, Deployment
from tests.interop.test_clients import all_read_all, words
from tests.interop.visitor import Visitor

REDIRECT_URI = "http://127.0.0.1/callback"
METADATA = {
    "client_name": "Interop",
    "client_uri": "https://interop.example/",
    "application_type": "native",
    "redirect_uris": [REDIRECT_URI],
    "grant_types": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
    "response_types": ["code"],
    "token_endpoint_auth_method": "none",
}
TOKEN_SECONDS = 4
"""So that clients which signed in by OAuth 2.0 need new tokens: the day is longer, as a device is let in after five
seconds at the earliest."""


class Hasty(Deployment):
    """A deployment whose access tokens soon run out, and in which a device that is not signed for is not spoken to."""

    template = STRICT

    def _federation(self) -> str:
        return f'{super()._federation()}\n[sessions]\naccess_token_lifetime = "{TOKEN_SECONDS}s"\n'


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hasty]:
    """The deployment of the days."""
    with Hasty(tmp_path_factory.mktemp("day")) as running:
        yield running


@dataclass(frozen=True)
class Person:
    """Somebody with an account, who may have a browser open, and devices."""

    place: Deployment
    wardrobe: Wardrobe
    kind: Kind
    name: str
    localpart: str
    password: str

    @classmethod
    def moves_in(cls, place: Deployment, wardrobe: Wardrobe, kind: Kind, name: str, node: str) -> Person:
        """An account for somebody who has none."""
        localpart, password = f"{name}-{secrets.token_hex(4)}", secrets.token_urlsafe(12)
        place.add_user(localpart, password, "--node", node)
        return cls(place, wardrobe, kind, name, localpart, password)

    @property
    def user_id(self) -> str:
        """Who this is."""
        return f"@{self.localpart}:{self.place.server_name}"

    @property
    def browser(self) -> Visitor:
        """A browser where nobody is signed in yet."""
        return Visitor(self.place.base_url, self.localpart, self.password)

    def device(self, what: str) -> Client:
        """A device on which nobody is signed in yet."""
        return self.wardrobe.client(self.kind, f"{self.name}-{what}", self.place.base_url)

    def by_password(self, what: str) -> Client:
        """Sign in with a new device by password."""
        device = self.device(what)
        device.login(self.user_id, self.password, device_name(what))
        return device

    def by_code(self, what: str) -> Client:
        """Sign in with a new device by the authorization code that a browser brings back."""
        device, state = self.device(what), secrets.token_hex(8)
        link = device.call(
            "ask_for_code", metadata=METADATA, device_id=_device_id(), redirect_uri=REDIRECT_URI, state=state
        )
        told = self.browser.allows(link)
        assert told["state"] == state
        session = device.call("sign_in_with_code", code=told["code"], redirect_uri=REDIRECT_URI)
        return self._signed_in(device, session)

    def by_another_screen(self, what: str) -> Callable[[], Client]:
        """Sign in with a new device that shows a code, which a browser elsewhere is told.

        It asks only now and then whether it may come in; what is returned waits until it has.
        """
        device = self.device(what)
        shown = device.call("show_code", metadata=METADATA, device_id=_device_id())
        page = self.browser.enters(shown["user_code"], shown["verification_uri"])
        assert "The device is signed in" in page.text
        return lambda: self._signed_in(device, device.call("sign_in_when_allowed"))

    def _signed_in(self, device: Client, session: dict[str, str]) -> Client:
        device.begins_session(session, self.password)
        assert device.user_id == self.user_id
        return device


def _device_id() -> str:
    return secrets.token_hex(5).upper()


@pytest.fixture
def wardrobe(tmp_path: Path) -> Iterator[Wardrobe]:
    """Clients of one day."""
    made = Wardrobe(tmp_path)
    yield made
    made.close()


def compare_emoji(asking: Client, asked: Client) -> None:
    """Two devices that one has in front of oneself show the same, and one says so on both."""
    asked.call("accept_verification", user=asking.user_id)
    asking.call("propose_emoji")
    begun = [device.begin("emoji") for device in (asking, asked)]
    shown = [each.result() for each in begun]
    assert shown[0] == shown[1]
    assert len(shown[0]) == 7
    for each in [device.begin("confirm_emoji") for device in (asking, asked)]:
        each.result()


def vouch(first: Client, second: Client) -> None:
    """The first device of a person vouches for the second one and shares the person's secrets with it."""
    assert not any(second.call("secrets").values())
    first.notices(second)
    second.call("ask_own_devices")
    compare_emoji(second, first)
    second.call("wait_for_secrets")
    first.trusts(first, second)


def a_conversation(room: str, one: Client, other: Client) -> None:
    """Messages, an edit, a reaction, a receipt, typing, a file, a thread."""
    all_read_all(room, one, other)
    for writer, reader in ((one, other), (other, one)):
        event_id = writer.sends(room, words(writer))
        reader.call("typing", room=room, typing=True)
        writer.call("wait_for_typing", room=room, user=reader.user_id, typing=True)
        reader.call("typing", room=room, typing=False)
        writer.call("wait_for_typing", room=room, user=reader.user_id, typing=False)
        better = words(writer)
        writer.call("edit", room=room, event_id=event_id, body=better)
        reader.call("wait_for_edit", room=room, event_id=event_id, body=better)
        reader.call("read", room=room, event_id=event_id)
        writer.call("wait_for_receipt", room=room, user=reader.user_id, event_id=event_id)
        reader.call("react", room=room, event_id=event_id, key="🌻")
        writer.call("wait_for_reaction", room=room, sender=reader.user_id, event_id=event_id, key="🌻")
        replies = [words(reader), words(writer)]
        reader.call("reply_in_thread", room=room, root=event_id, body=replies[0])
        writer.call("wait_for_thread", room=room, root=event_id, bodies=replies[:1])
        writer.call("reply_in_thread", room=room, root=event_id, body=replies[1])
        reader.call("wait_for_thread", room=room, root=event_id, bodies=replies)
        content, name = secrets.token_bytes(20_001), f"{secrets.token_hex(6)}.bin"
        writer.sends_file(room, name, "application/x-secret", content)
        assert reader.receives_file(room, writer, name) == content


def reads_no_more(room: str, writer: Client, lost: Client, left: Client) -> None:
    """What is said after a device is lost is encrypted with a key that this device never gets."""

    before = lost.call("texts", room=room)[-1]
    assert before["body"] is not None
    shown = left.call("event", room=room, event_id=before["event_id"])
    assert lost.call("read_event", event=shown)["body"] == before["body"]
    said = words(writer)
    writer.sends(room, said)
    shown = left.call("event", room=room, event_id=left.sees(room, writer, said))
    assert shown["content"]["session_id"] in left.call("sessions")
    assert shown["content"]["session_id"] not in lost.call("sessions")
    assert lost.call("read_event", event=shown)["body"] is None


@pytest.mark.parametrize("kind", ["js", "sliding"])
def test_a_day(place: Hasty, wardrobe: Wardrobe, kind: Kind) -> None:
    soraya = Person.moves_in(place, wardrobe, kind, "soraya", "tehran")
    simon = Person.moves_in(place, wardrobe, kind, "simon", "paris")

    # In the morning both set up what is to protect them, and meet.
    laptop, desktop = soraya.by_password("laptop"), simon.by_code("desktop")
    keys = {}
    for device in (laptop, desktop):
        device.sets_up_cross_signing()
        keys[device] = device.enables_key_backup()
    dehydrated = laptop.call("dehydrate")["device_id"]
    let_in = simon.by_another_screen("tablet")
    room = meet(laptop, desktop)
    assert desktop.call("search_users", term=soraya.localpart) == [soraya.user_id]
    a_conversation(room, laptop, desktop)

    # Both get a second device, which reads what was said before it was there, and vouches for others.
    said = words(laptop)
    laptop.sends(room, said)
    desktop.sees(room, laptop, said)  # and so its node has all that was said before
    past, seconds = desktop.history(room), []
    ways: tuple[tuple[Client, Callable[[], Client]], ...] = (
        (laptop, lambda: soraya.by_code("phone")),
        (desktop, let_in),
    )
    for first, sign_in in ways:
        second = sign_in()
        kept = first.backs_up()
        assert set(second.history(room)) == {None}
        vouch(first, second)
        assert second.call("restore_with_shared_secret")["total"] == kept
        assert second.history(room) == past
        seconds.append(second)
    phone, tablet = seconds
    assert set(tablet.call("threads", room=room)) == set(desktop.call("threads", room=room))
    assert len(tablet.call("threads", room=room)) == 2
    phone.trusts(desktop, tablet)
    tablet.notices(phone)  # else it does not listen to what that asks
    phone.call("ask_in_room", user=simon.user_id, room=room)
    compare_emoji(phone, tablet)
    for device, person in ((laptop, simon), (phone, simon), (desktop, soraya), (tablet, soraya)):
        device.call("wait_for_verified_user", user=person.user_id)
    colour = {"colour": secrets.token_hex(4)}
    laptop.call("set_account_data", type="org.example.taste", content=colour)
    phone.call("wait_for_account_data", type="org.example.taste", content=colour)
    for device in (laptop, desktop):
        for other in (phone, tablet):
            device.notices(other)
    for writer, said in ((laptop, words(laptop)), (desktop, words(desktop))):
        writer.sends(room, said)
        for reader in {laptop, phone, desktop, tablet} - {writer}:
            reader.sees(room, writer, said)

    # In the afternoon both lose it, and let nobody read on who finds it.
    with pytest.raises(CallError) as wrong:
        laptop.call("delete_device", device_id=phone.device_id, password="not the password")
    assert wrong.value.status == 401 or wrong.value.errcode == "M_FORBIDDEN"
    laptop.call("delete_device", device_id=phone.device_id, password=soraya.password)
    account = f"{place.base_url}/_domicile/account?action=org.matrix.device_delete&device_id={tablet.device_id}"
    browser = simon.browser
    page = browser.opens(account)
    assert tablet.device_id in page.text
    assert tablet.device_id not in browser.sends(page).text
    for lost in (phone, tablet):
        assert lost.call("wait_for_logout")["errcode"] == "M_UNKNOWN_TOKEN"
    for device in (laptop, desktop):
        device.call("wait_for_no_device", user=soraya.user_id, device=phone.device_id)
        device.call("wait_for_no_device", user=simon.user_id, device=tablet.device_id)
    reads_no_more(room, desktop, phone, laptop)
    reads_no_more(room, laptop, tablet, desktop)

    # In the evening Soraya has no device at all; what she is told waits for the next one.
    laptop.call("logout")
    desktop.call("wait_for_no_device", user=soraya.user_id, device=laptop.device_id)
    desktop.call("wait_for_device", user=soraya.user_id, device=dehydrated)
    said = words(desktop)
    desktop.sends(room, said)
    late = soraya.by_password("late")
    assert late.history(room)[-1] is None
    late.restores(keys[laptop])
    assert late.history(room)[-1] is None
    woken = late.call("dehydrate")
    assert woken["room_keys"] > 0
    assert woken["device_id"] != dehydrated
    assert late.history(room)[-1] == said
    all_read_all(room, late, desktop)
    assert desktop.call("refreshes") > 0
