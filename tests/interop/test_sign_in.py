"""Signing in with a real browser, the OAuth functions of matrix-js-sdk, and a real provider of identities."""

import json
import secrets
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.federation.authority import Authority
from tests.interop.api import Api, ApiError
from tests.interop.chromium import BROWSER, DRIVER, Chromium
from tests.interop.client import FOLDER, NODE
from tests.interop.deployment import ALONE, Deployment, free_port

pytestmark = pytest.mark.skipif(
    DRIVER is None or BROWSER is None, reason="there is no browser: install Debian's chromium and chromium-driver"
)
PASSWORD = "correct horse battery"
SECRET = "a secret that the two share"


class Open(Deployment):
    """A deployment with a provider of identities, whose new users rest in France."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.provider_port = free_port()
        self._trusted = authority.ca_file
        super().__init__(folder)

    def _federation(self) -> str:
        (self.folder / "provider.secret").write_text(SECRET)
        return f"""{ALONE}
ca_file = "{self._trusted}"
allow_addresses = ["127.0.0.0/8"]

[[identity_providers]]
id = "university"
name = "Example University"
issuer = "https://127.0.0.1:{self.provider_port}"
client_id = "domicile"
client_secret_file = "provider.secret"
jurisdiction = "FR"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    """The deployment and its provider."""
    folder = tmp_path_factory.mktemp("sign_in")
    authority = Authority(folder)
    tls = authority.issue("127.0.0.1")
    with Open(folder, authority) as deployment:
        options = {
            "port": deployment.provider_port,
            "certificate": str(tls.certificate),
            "key": str(tls.key),
            "client_id": "domicile",
            "client_secret": SECRET,
            "redirect_uri": f"{deployment.base_url}/_domicile/sso/callback",
        }
        command = [str(NODE), str(FOLDER / "identity_provider.mjs"), json.dumps(options)]
        with (folder / "provider.log").open("wb") as log:
            provider = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert provider.stdout
            assert provider.stdout.readline() == "ready\n", (folder / "provider.log").read_text()
            yield deployment
        finally:
            provider.kill()
            provider.communicate()


class Program:
    """matrix-js-sdk: see js_oauth.mjs."""

    def __init__(self, base_url: str, folder: Path) -> None:
        self._log = (folder / "js_oauth.log").open("wb")
        command = [str(NODE), str(FOLDER / "js_oauth.mjs"), json.dumps({"base_url": base_url})]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, bufsize=1
        )
        self.device_id = secrets.token_hex(5).upper()

    def call(self, verb: str, **arguments: Any) -> Any:
        """Do a verb and return its result."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"id": 0, "verb": verb, "arguments": arguments}) + "\n")
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise AssertionError(answer["error"])
        return answer["result"]

    def register(self) -> dict[str, Any]:
        """Discover and register."""
        metadata = {
            "client_name": "Interop",
            "client_name#fa": "برنامهٔ آزمون",
            "client_uri": "https://interop.example/",
            "application_type": "native",
            "redirect_uris": ["http://127.0.0.1/callback"],
            "grant_types": [
                "authorization_code",
                "refresh_token",
                "urn:ietf:params:oauth:grant-type:device_code",
            ],
            "response_types": ["code"],
            "token_endpoint_auth_method": "none",
        }
        found: dict[str, Any] = self.call("register", metadata=metadata, device_id=self.device_id)
        return found

    def close(self) -> None:
        """End the process."""
        self._process.communicate()
        self._log.close()


@pytest.fixture
def program(place: Open, tmp_path: Path) -> Iterator[Program]:
    """A client that has registered."""
    made = Program(place.base_url, tmp_path)
    made.register()
    yield made
    made.close()


class Landing:
    """What a native client listens with for the browser that comes back."""

    def __init__(self) -> None:
        self.came: Queue[dict[str, str]] = Queue()
        landing = self

        class Answering(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                if parts.path == "/callback":
                    landing.came.put(dict(parse_qsl(parts.query)))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"<title>landed</title>landed")

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.uri = f"http://127.0.0.1:{self._server.server_port}/callback"

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def landing() -> Iterator[Landing]:
    """Where the browser lands."""
    made = Landing()
    yield made
    made.close()


def test_a_client_its_user_and_a_browser(place: Open, program: Program, landing: Landing, tmp_path: Path) -> None:
    """Make an account on the way, allow the client, use its tokens, and log out."""
    name = "u" + secrets.token_hex(4)
    link = program.call("link", state="s1", redirect_uri=landing.uri, mode="query", prompt="create")
    with Chromium(tmp_path) as browser:
        browser.opens(link)
        assert browser.styled
        browser.types(user=name, password=PASSWORD, again=PASSWORD, token=place.registration_token("FR"))
        browser.presses("Create an account")
        assert f"@{name}:{place.server_name}" in browser.text
        assert "Allow Interop?" in browser.text
        assert browser.styled
        browser.picture(tmp_path / "consent.png")
        browser.presses("Allow")
        back = landing.came.get(timeout=30)
        assert back["state"] == "s1"
        assert browser.complaints() == []
        tokens = program.call("complete", code=back["code"], redirect_uri=landing.uri)
        assert (tokens["user_id"], tokens["device_id"]) == (f"@{name}:{place.server_name}", program.device_id)
        newer = program.call("refresh", token=tokens["refresh_token"])
        assert newer["device_id"] == program.device_id
        browser.opens(f"{place.base_url}/_domicile/account?action=org.matrix.devices_list")
        assert program.device_id in browser.text
        program.call("revoke", token=newer["refresh_token"], type="refresh_token")
        browser.opens(f"{place.base_url}/_domicile/account?action=org.matrix.devices_list")
        assert program.device_id not in browser.text
    with pytest.raises(AssertionError, match="M_UNKNOWN_TOKEN"):
        program.call("whoami", token=newer["access_token"])


def test_a_device_that_shows_a_code(place: Open, program: Program, tmp_path: Path) -> None:
    name = "u" + secrets.token_hex(4)
    place.domicile(
        "user", "add", name, "--node", "paris", "--password-stdin", "--config", str(place.folder / "domicile.toml"),
        stdin=PASSWORD + "\n",
    )  # fmt: skip
    session = program.call("begin_device")
    with Chromium(tmp_path, "fr") as browser:
        browser.opens(session["verification_uri"])
        browser.types(user=name, password=PASSWORD)
        browser.presses("Se connecter")
        browser.types(user_code=session["user_code"])
        browser.presses("Continuer")
        assert session["user_code"] in browser.text
        browser.presses("Autoriser")
        assert "L’appareil est connecté" in browser.text
        assert browser.complaints() == []
    tokens = program.call("finish_device")
    assert (tokens["user_id"], tokens["device_id"]) == (f"@{name}:{place.server_name}", program.device_id)


def test_somebody_from_a_real_provider(place: Open, program: Program, landing: Landing, tmp_path: Path) -> None:
    """From the right to the left, too."""
    name = "u" + secrets.token_hex(4)
    link = program.call("link", state="s2", redirect_uri=landing.uri, mode="query")
    with Chromium(tmp_path, "fa") as browser:
        browser.opens(link)
        assert browser.direction == "rtl"
        browser.picture(tmp_path / "login_fa.png")
        assert browser.styled
        browser.presses("ادامه با Example University")
        assert browser.address.startswith(f"https://127.0.0.1:{place.provider_port}/")
        browser.types(login=name, password="whatever")
        browser.presses("Sign-in")
        browser.presses("Continue")
        assert browser.address.startswith(place.base_url)
        browser.complaints()  # those of the provider's pages
        browser.presses("ساخت حساب")
        assert "برنامهٔ آزمون" in browser.text
        assert browser.styled
        browser.presses("اجازه دادن")
        tokens = program.call("complete", code=landing.came.get(timeout=30)["code"], redirect_uri=landing.uri)
        assert tokens["user_id"] == f"@{name}:{place.server_name}"
        profile = Api(place.base_url, tokens["access_token"]).ask(
            "GET", f"/_matrix/client/v3/profile/@{name}:{place.server_name}"
        )
        assert profile["displayname"] == f"{name} of the University"
        browser.opens(f"{place.base_url}/_domicile/account")
        assert "فرانسه (FR)" in browser.text
        browser.picture(tmp_path / "account_fa.png")
        assert browser.complaints() == []
    with pytest.raises(ApiError):
        Api(place.base_url).ask("GET", "/_matrix/client/v3/account/whoami")
