"""Commands beside a server that runs: they go through its socket, and it knows of what they did at once."""

from __future__ import annotations

import json
import re
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.api import Api, ApiError
from tests.operation.product import PASSWORD, Product


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A deployment that is served."""
    with Product(tmp_path_factory.mktemp("running")) as running:
        yield running


def login(product: Product, localpart: str, password: str) -> Api:
    """Log in."""
    identifier = {"type": "m.id.user", "user": localpart}
    asked = {"type": "m.login.password", "identifier": identifier, "password": password}
    return Api(product.base_url, Api(product.base_url).client("POST", "/login", asked)["access_token"])


def test_an_account_made_by_command_can_log_in(product: Product) -> None:
    done = product.run("user", "add", "parisa", "--phone", "+98912000", "--password-stdin", stdin=PASSWORD + "\n")
    assert (done.status, done.out) == (0, "@parisa:domicile.test rests on tehran\n")
    assert login(product, "parisa", PASSWORD).client("GET", "/account/whoami")["user_id"] == "@parisa:domicile.test"
    shown = json.loads(product.run("user", "show", "parisa", "--json").out)
    assert [device["device_id"] for device in shown["devices"]]
    listed = json.loads(product.run("user", "list", "--json").out)
    assert "@parisa:domicile.test" in {user["user_id"] for user in listed["users"]}


def test_a_new_password_logs_every_device_out_at_once(product: Product) -> None:
    product.add_user("leila", PASSWORD, "--node", "tehran")
    phone, laptop = login(product, "leila", PASSWORD), login(product, "leila", PASSWORD)
    for device in (phone, laptop):
        assert device.client("GET", "/account/whoami")  # and is remembered
    done = product.run("user", "reset-password", "leila", "--password-stdin", stdin="another password\n")
    assert done.status == 0
    for device in (phone, laptop):
        with pytest.raises(ApiError) as refused:
            device.client("GET", "/account/whoami")
        assert (refused.value.status, refused.value.body["errcode"]) == (401, "M_UNKNOWN_TOKEN")
    with pytest.raises(ApiError) as refused:
        login(product, "leila", PASSWORD)
    assert refused.value.status == 403
    assert login(product, "leila", "another password").client("GET", "/account/whoami")


def test_a_deactivated_account_is_out_at_once(product: Product) -> None:
    product.add_user("pierre", PASSWORD, "--node", "paris")
    device = login(product, "pierre", PASSWORD)
    assert device.client("GET", "/account/whoami")
    assert product.run("user", "deactivate", "pierre").status == 0
    with pytest.raises(ApiError) as refused:
        device.client("GET", "/account/whoami")
    assert refused.value.status == 401
    assert "deactivated" in product.run("user", "list").out


def test_the_admin_api_over_a_socket(product: Product) -> None:
    """A role that the command line gives holds at once; both ways are in one log."""
    product.add_user("shirin", PASSWORD, "--node", "tehran")
    shirin = login(product, "shirin", PASSWORD)
    with pytest.raises(ApiError) as refused:
        shirin.ask("GET", "/_domicile/v1/log")
    assert (refused.value.status, refused.value.body["org.domicile.roles"]) == (403, ["auditor"])
    assert product.run("user", "role", "add", "shirin", "auditor").status == 0
    log = shirin.ask("GET", "/_domicile/v1/log?node=tehran&limit=3")
    assert log["intact"]
    told = [(each["command"], each["outcome"]) for each in log["entries"]]
    assert told == [("admin-log", "refused"), ("user-role-add", "begun"), ("user-role-add", "done")]
    assert shirin.ask("GET", "/_domicile/openapi.json")["servers"] == [{"url": product.base_url}]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["user", "show", "nobody"], "no such user"),
        (["user", "add", "new", "--node", "rome", "--password-stdin"], "rome"),
        (["user", "add", "B D", "--node", "paris", "--password-stdin"], "a-z"),
        (["user", "add", "new", "--password-stdin"], "where you live"),
    ],
)
def test_what_the_server_refuses_is_said_in_one_line(product: Product, words: list[str], said: str) -> None:
    done = product.run(*words, stdin=PASSWORD + "\n")
    assert (done.status, done.out) == (1, "")
    assert re.search(said, done.complaint)


def test_a_second_server_is_refused(product: Product) -> None:
    done = product.run("serve")
    assert (done.status, done.out) == (1, "")
    assert "another process serves" in done.complaint
    assert Api(product.base_url).ask("GET", "/health")["status"] == "ok"


def test_traffic_of_a_server_that_has_met_no_other(product: Product) -> None:
    done = product.run("residency", "traffic", "--json")
    assert (done.status, json.loads(done.out)) == (0, {"traffic": []})
    assert product.run("residency", "traffic").out == "Nothing has been sent or received since the start.\n"


def test_check_beside_the_server(product: Product) -> None:
    assert product.run("check").status == 0


def test_the_socket_is_its_owners_alone(product: Product) -> None:
    mode = (product.folder / "data" / "control.sock").stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_a_deployment_deep_below(tmp_path: Path) -> None:
    """The system allows the path of a socket 107 bytes."""
    deep = tmp_path.joinpath(*["a directory of some length"] * 5)
    deep.mkdir(parents=True)
    with Product(deep) as product:
        product.user("parisa", "tehran")
        with pytest.raises(AssertionError, match="another process serves"):  # it is not done on the databases
            Product.domicile(product, "serve", "--config", str(product.settings))
        assert product.run("user", "show", "parisa").status == 0
    assert not (product.folder / "data" / "control.sock").exists()


def test_a_server_that_was_killed_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    product = Product(tmp_path)
    product.start()
    product.user("parisa", "tehran")
    product.kill9()
    assert (product.folder / "data" / "control.sock").exists()
    assert product.run("user", "show", "parisa").status == 0
    with product:
        assert product.run("user", "show", "parisa").status == 0


def test_a_server_that_ends_before_it_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that has asked says that there was no answer, and does not do it a second time itself."""
    product = Product(tmp_path)
    product.add_user("parisa", PASSWORD, "--node", "tehran")
    with socket.socket(socket.AF_UNIX) as dying:
        monkeypatch.chdir(product.folder / "data")  # the whole path may be too long for a socket
        dying.bind("control.sock")
        dying.listen()

        def die() -> None:
            connection, _ = dying.accept()
            connection.recv(65536)
            connection.close()

        thread = threading.Thread(target=die)
        thread.start()
        done = product.run("user", "deactivate", "parisa")
        thread.join()
    assert done.status == 1
    assert "went away" in done.complaint
    assert "deactivated" not in product.run("user", "list").out
