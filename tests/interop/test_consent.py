"""Users of real clients who are asked in a real browser before a room of theirs crosses a border, look where their data
is, and choose where it rests."""

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.api import Api, ApiError
from tests.interop.cast import Country, Wardrobe, device_name
from tests.interop.chromium import BROWSER, DRIVER, Chromium
from tests.interop.client import CallError, Client, Kind
from tests.interop.deployment import FLOWS, RESIDENCY, Deployment

pytestmark = pytest.mark.skipif(
    DRIVER is None or BROWSER is None, reason="there is no browser: install Debian's chromium and chromium-driver"
)

CHOICE = '[[pins]]\nchoice = true\nnodes = ["tehran", "paris"]\n\n[default]'
STAGE = "org.domicile.node"


class Asking(Deployment):
    """A deployment that asks before each border, and lets those choose whom no token places."""

    def _lay_out(self, flows: bool, databases: Any) -> None:
        super()._lay_out(flows, databases)
        policy = RESIDENCY.replace("[default]", CHOICE) + FLOWS.replace("consent = false\n", "")
        (self.folder / "residency.toml").write_text(policy)
        settings = (self.folder / "domicile.toml").read_text()
        (self.folder / "domicile.toml").write_text(settings.replace('mode = "token"', 'mode = "open"'))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asking]:
    """The deployment."""
    with Asking(tmp_path_factory.mktemp("asking")) as running:
        yield running


def newcomer(place: Asking, wardrobe: Wardrobe, kind: Kind, name: str, country: Country) -> Client:
    """Somebody with a client, whose data rests in a country."""
    user, password = f"{name}-{secrets.token_hex(4)}", secrets.token_urlsafe(12)
    place.add_user(user, password, "--node", {"IR": "tehran", "FR": "paris"}[country])
    client = wardrobe.client(kind, name, place.base_url)
    client.login(user, password, device_name(name))
    client.sets_up_cross_signing()
    return client


def asked(client: Client, verb: str, **arguments: Any) -> str:
    """What a client does is not done, but asked about; the address of the page."""
    with pytest.raises(CallError) as refusal:
        client.call(verb, **arguments)
    assert (refusal.value.status, refusal.value.errcode) == (403, "M_CONSENT_NOT_GIVEN")
    assert refusal.value.reason == "consent_needed"
    return str(refusal.value.body["consent_uri"])


@pytest.mark.parametrize("kind", ["js", "nio"])
def test_a_room_crosses_once_both_have_agreed(place: Asking, kind: Kind, tmp_path: Path) -> None:
    wardrobe = Wardrobe(tmp_path / "clients")
    try:
        parisa, pierre = (
            newcomer(place, wardrobe, kind, "parisa", "IR"),
            newcomer(place, wardrobe, kind, "pierre", "FR"),
        )
        wish = {"name": "Hall", "invite": [pierre.user_id], "encrypted": True}
        address = asked(parisa, "create_room", **wish)
        with Chromium(tmp_path, "fa") as browser:
            browser.opens(address)
            assert browser.direction == "rtl"
            assert browser.styled
            for words in (parisa.user_id, "فرانسه (FR)", "ایران (IR)", "چه کسانی در اتاق هستند"):
                assert words in browser.text
            browser.picture(tmp_path / "consent_fa.png")
            browser.presses("می‌پذیرم")
            assert "پذیرفتید" in browser.text
            assert browser.complaints() == []
            room = parisa.creates_room("Hall", pierre)

            pierre.call("wait_for_invite", room=room)
            browser.opens(asked(pierre, "join", room=room))
            assert "Iran" not in browser.text
            browser.presses("می‌پذیرم")
            pierre.joins(room)
            parisa.sees_members(room, parisa, pierre)
            parisa.sends(room, "salam")
            pierre.sees(room, parisa, "salam")
            where_is_my_data(place, browser, parisa, tmp_path)
    finally:
        wardrobe.close()


def test_the_passport_is_read_on_a_phone(place: Asking, tmp_path: Path) -> None:
    with Chromium(tmp_path, "fa") as browser:
        browser.opens(f"{place.base_url}/_domicile/passport")
        assert browser.direction == "rtl"
        assert browser.styled
        for words in ("گذرنامهٔ این سرویس", "ایران (IR)", "m.reaction"):
            assert words in browser.text
        browser.presses("English")
        assert browser.direction == "ltr"
        assert browser.styled
        assert "Where data rests" in browser.text
        browser.picture(tmp_path / "passport.png")
        assert browser.complaints() == []


def where_is_my_data(place: Asking, browser: Chromium, parisa: Client, folder: Path) -> None:
    """Sign in, look, and take the consent back."""
    browser.opens(f"{place.base_url}/_domicile/residency")
    browser.types(user=parisa.user_id, password=parisa.password)
    browser.presses("ورود")
    assert browser.direction == "rtl"
    assert browser.styled
    for words in ("داده‌های من کجاست؟", "ایران (IR)", "فرانسه (FR)", "پیام‌ها و رویدادهای اتاق"):
        assert words in browser.text
    browser.picture(folder / "residency_fa.png")
    browser.presses("پس گرفتن: فرانسه (FR)")
    assert "رضایت شما پس گرفته شد" in browser.text
    assert browser.complaints() == []


def test_a_client_that_knows_no_choice_opens_its_page(place: Asking, tmp_path: Path) -> None:
    name, password = f"nima-{secrets.token_hex(4)}", secrets.token_urlsafe(12)
    body: dict[str, Any] = {"username": name, "password": password}
    api = Api(place.base_url)
    with pytest.raises(ApiError) as challenge:
        api.client("POST", "/register", {**body, "auth": {"type": "m.login.dummy"}})
    session = challenge.value.body["session"]
    assert challenge.value.body["flows"] == [{"stages": ["m.login.dummy", STAGE]}]
    with Chromium(tmp_path, "en") as browser:
        browser.before_each_page("window.onAuthDone = () => { document.title = 'told' }")
        browser.opens(f"{place.base_url}/_matrix/client/v3/auth/{STAGE}/fallback/web?session={session}")
        assert browser.styled
        assert "Iran (IR)" in browser.text
        assert "ایران (IR)" in browser.text
        assert browser.direction_of("[lang=fa]") == "rtl"
        browser.picture(tmp_path / "choice.png")
        browser.chooses("node", "tehran")
        browser.presses("Continue")
        assert browser.title == "told"
        assert browser.complaints() == []
    made = api.client("POST", "/register", {**body, "auth": {"session": session}})
    here = Api(place.base_url, made["access_token"]).ask("GET", "/_domicile/v1/residency/me")
    assert (here["node"], here["jurisdiction"]["code"], here["pin"]["how"]) == ("tehran", "IR", "choice")
    assert here["stored"][1]["classes"] == {}
