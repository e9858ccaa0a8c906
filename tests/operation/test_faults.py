"""What keeps a deployment from being served, or a node from being reached: one line, the same to check and to serve."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import pytest

from tests.interop.api import Api, ApiError
from tests.operation.product import PASSWORD, Product, run
from tests.support import POSTGRES


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a deployment that has been used and is at rest."""
    product = Product(tmp_path_factory.mktemp("founded"))
    product.add_user("parisa", PASSWORD, "--node", "tehran")
    return product.folder


@pytest.fixture
def folder(founded: Path, tmp_path: Path) -> Path:
    """A copy of it that may be damaged."""
    return Path(shutil.copytree(founded, tmp_path / "house"))


def spoil_schema(path: Path) -> None:
    """Leave a database as a later version of the program would."""
    database = sqlite3.connect(path)
    database.execute("INSERT INTO migrations (number, name, digest) VALUES (99, 'from_the_future', 'x')")
    database.commit()
    database.close()


def swap_nodes(data: Path) -> None:
    """Put the one node's database where the other's belongs."""
    (data / "tehran").rename(data / "aside")
    (data / "paris").rename(data / "tehran")
    (data / "aside").rename(data / "paris")


def file_for_folder(path: Path) -> None:
    """Put an empty file in a directory's place."""
    shutil.rmtree(path)
    path.touch()


def instead(path: Path, text: str | None = None) -> None:
    """Put a directory in a file's place, or other text into it."""
    if text is None:
        path.unlink()
        path.mkdir()
    else:
        path.write_text(text)


def trusting(folder: Path, ca_file: Path) -> None:
    """Name a file of certificates in the settings."""
    config = folder / "domicile.toml"
    config.write_text(config.read_text().replace("[federation]", f'[federation]\nca_file = "{ca_file}"'))


FATAL: dict[str, tuple[Callable[[Path], object], str]] = {
    "no configuration": (lambda at: (at / "domicile.toml").unlink(), r"domicile\.toml: cannot be read: No such file"),
    "no policy": (lambda at: (at / "residency.toml").unlink(), r"residency\.toml: cannot be read: No such file"),
    "no TOML": (lambda at: instead(at / "domicile.toml", "server_name ="), r"domicile\.toml:1: is not TOML"),
    "no key": (lambda at: (at / "signing.key").unlink(), r"signing\.key: cannot be read: No such file"),
    "unreadable key": (lambda at: instead(at / "signing.key"), r"signing\.key: cannot be read: Is a directory"),
    "junk for a key": (lambda at: instead(at / "signing.key", "junk"), r"signing key .* restore it from a backup"),
    "empty key": (lambda at: instead(at / "signing.key", "\n"), r"signing\.key: is empty"),
    "a key twice": (
        lambda at: instead(at / "signing.key", f"ed25519 a {'A' * 43}\n" * 2),
        "two signing keys ed25519:a",
    ),
    "no authority": (
        lambda at: trusting(at, at / "absent.pem"),
        r"absent\.pem is no file of certificates.*absent\.pem cannot be read: No such file",
    ),
    "junk for an authority": (lambda at: trusting(at, at / "signing.key"), r"signing\.key is no file of certificates"),
    "no shared secret": (lambda at: (at / "registration.secret").unlink(), r"registration\.secret: cannot be read"),
    "no tokens": (lambda at: (at / "registration.tokens").unlink(), r"registration\.tokens: cannot be read"),
    "no deployment secret": (lambda at: (at / "data" / "deployment.secret").unlink(), r"deployment\.secret is gone"),
    "newer schema": (lambda at: spoil_schema(at / "data/tehran/node.db"), "tehran .*0099.*run the newer version"),
    "newer directory": (lambda at: spoil_schema(at / "data/directory.db"), "directory .*0099.*run the newer version"),
    "nodes swapped": (lambda at: swap_nodes(at / "data"), "configured for tehran belongs to paris"),
    "damaged directory": (lambda at: instead(at / "data/directory.db", "junk" * 999), "directory.*not a database"),
    "data is a file": (lambda at: file_for_folder(at / "data"), "data is not a directory"),
}


@pytest.mark.parametrize("fault", FATAL)
def test_a_fault_that_is_fatal_is_said_in_one_line_by_every_command(folder: Path, fault: str) -> None:
    spoil, said = FATAL[fault]
    spoil(folder)
    config = folder / "domicile.toml"
    for words in (["serve"], ["user", "list"]):
        done = run(*words, "--config", config)
        assert (done.status, done.out) == (1, "")
        last = done.err.splitlines()[-1] if words == ["serve"] else done.complaint  # a server logs until then
        assert re.search(said, last)
    checked = run("check", "--config", config)
    assert checked.status == 1
    assert any(re.search(said, line) for line in checked.err.splitlines())


def test_check_does_not_touch_what_it_looks_at(folder: Path) -> None:
    def contents() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before = contents()
    assert run("check", "--config", folder / "domicile.toml").status == 0
    assert contents() == before


def test_an_address_that_is_taken(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = folder / "domicile.toml"
        config.write_text(re.sub(r"port = \d+", f"port = {port}", config.read_text()))
        done = run("serve", "--config", config)
    assert done.status == 1
    last = done.err.splitlines()[-1]
    assert f"127.0.0.1:{port}" in last
    assert "[[listeners]]" in last


def node_is_down(product: Product, node: str, why: str) -> None:
    """The server serves, says which node is down and why, and serves the users of the other one."""
    product.logged(rf"database is down.*{why}")
    assert Api(product.base_url).ask("GET", "/health") == {"status": "degraded", "nodes_down": [node]}
    for localpart, home in (("parisa", "tehran"), ("pierre", "paris")):
        login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": localpart}}
        api = Api(product.base_url)
        if home == node:
            with pytest.raises(ApiError) as refused:
                api.client("POST", "/login", {**login, "password": PASSWORD})
            assert refused.value.status == 503
        else:
            assert api.client("POST", "/login", {**login, "password": PASSWORD})["device_id"]
    listed = product.run("user", "list")
    assert listed.status == 1
    assert f"down, and not asked: {node}" in listed.complaint
    checked = product.run("check")
    assert checked.status == 1
    assert f"node {node}: " in checked.complaint
    assert re.search(why, checked.complaint)


def test_a_damaged_database_keeps_only_its_own_users_out(tmp_path: Path) -> None:
    product = Product(tmp_path)
    for name, node in (("parisa", "tehran"), ("pierre", "paris")):
        product.add_user(name, PASSWORD, "--node", node)
    path = product.node_folder("paris") / "node.db"
    path.write_bytes(os.urandom(path.stat().st_size))
    with product:
        node_is_down(product, "paris", "not a database")
    assert "Traceback" not in product.log.read_text()


def test_a_lost_database_is_not_made_anew(tmp_path: Path) -> None:
    product = Product(tmp_path)
    product.add_user("parisa", PASSWORD, "--node", "tehran")
    product.add_user("pierre", PASSWORD, "--node", "paris")
    shutil.rmtree(product.node_folder("paris"))
    with product:
        node_is_down(product, "paris", "node.db")
    assert not (product.node_folder("paris") / "node.db").exists()


# PostgreSQL ---------------------------------------------------------------------------------


@pytest.fixture
def postgres() -> str:
    """The address of the tests' PostgreSQL."""
    url = os.environ.get(POSTGRES, "")
    if not url:
        pytest.skip(f"{POSTGRES} is not set")
    return url


@pytest.fixture
def schema(postgres: str) -> Iterator[str]:
    """The address of a schema of the test's own."""
    import psycopg
    from psycopg.sql import SQL, Identifier

    name = f"operation_{os.getpid()}"
    yield f"{postgres}?options=-csearch_path%3D{name}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(Identifier(name)))


def test_check_of_a_new_node_on_postgres(schema: str, tmp_path: Path) -> None:
    """An empty database is where a deployment begins, not a fault; and a used one is none either."""
    product = Product(tmp_path, databases={"paris": schema})
    assert product.run("check").status == 0
    product.add_user("pierre", PASSWORD, "--node", "paris")
    assert product.run("check").status == 0


def test_postgres_that_is_down(schema: str, tmp_path: Path) -> None:
    product = Product(tmp_path, databases={"paris": schema})
    product.add_user("parisa", PASSWORD, "--node", "tehran")
    product.add_user("pierre", PASSWORD, "--node", "paris")
    parts = urlsplit(schema)
    nobody = parts._replace(netloc=f"{parts.username}@127.0.0.1:1").geturl()
    product.policy.write_text(product.policy.read_text().replace(schema, nobody).replace("serial = 1", "serial = 2"))
    with product:
        node_is_down(product, "paris", "onnection refused")
    assert "Traceback" not in product.log.read_text()


class Doorkeeper:
    """What PostgreSQL says to somebody with a wrong password. ``heard`` are the passwords that were tried."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        self._thread = threading.Thread(target=self._keep)
        self._thread.start()

    def close(self) -> None:
        """Go home."""
        self._door.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._door.close()

    def _keep(self) -> None:
        while True:
            try:
                visitor, _ = self._door.accept()
            except OSError:
                return
            with visitor, contextlib.suppress(ConnectionError), visitor.makefile("rb") as said:
                self._refuse(visitor, said)

    def _refuse(self, visitor: socket.socket, said: BinaryIO) -> None:
        length, code = struct.unpack("!II", said.read(8))
        if code != 196608:  # asks for encryption first
            visitor.sendall(b"N")
            self._refuse(visitor, said)
            return
        said.read(length - 8)  # who it is
        visitor.sendall(b"R" + struct.pack("!II", 8, 3))  # the password, please
        _, length = struct.unpack("!cI", said.read(5))
        self.heard.append(said.read(length - 4).rstrip(b"\0"))
        fields = b'SFATAL\0C28P01\0Mpassword authentication failed for user "domicile"\0\0'
        visitor.sendall(b"E" + struct.pack("!I", 4 + len(fields)) + fields)


@pytest.fixture
def doorkeeper() -> Iterator[Doorkeeper]:
    """Somebody who lets nobody in."""
    keeper = Doorkeeper()
    yield keeper
    keeper.close()


def test_the_password_of_postgres(doorkeeper: Doorkeeper, tmp_path: Path) -> None:
    """A file that is not there is a fault of the configuration; a wrong password is said, and not shown."""
    address = f"postgresql://domicile@127.0.0.1:{doorkeeper.port}/house"
    product = Product(tmp_path, databases={"paris": address})
    product.policy.write_text(
        product.policy.read_text().replace(f'"{address}"', f'"{address}"\npassword_file = "pass"')
    )
    for words in (["check"], ["serve"], ["user", "list"]):
        done = product.run(*words)
        assert done.status == 1
        assert re.search("pass: cannot be read: No such file", done.complaint)
    (product.folder / "pass").write_text("a wrong: p@ssword/\n")
    checked = product.run("check")
    assert checked.status == 1
    assert re.search("node paris: .*password authentication failed", checked.complaint)
    assert set(doorkeeper.heard) == {b"a wrong: p@ssword/"}
    with product:
        product.logged("database is down.*password authentication failed")
        assert Api(product.base_url).ask("GET", "/health")["nodes_down"] == ["paris"]
    assert "wrong: p" not in product.log.read_text() + checked.err
