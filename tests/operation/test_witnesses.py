"""Three deployments witness each other's key logs, as their operators set it up; two lose their disks, and are found
out.

What a stranger sees of it takes HTTP and public keys only.
"""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest

from homeserver.protocol import canonical, checkpoints, log_alarms, signed_notes, witnessing
from homeserver.protocol.checkpoints import Checkpoint
from homeserver.protocol.signed_notes import NamedKey
from homeserver.protocol.signing import SigningKey, encode_base64, sign_json
from tests.interop.api import Api, ApiError
from tests.operation.product import Product

T = TypeVar("T")
LOGS = "/_domicile/v1/key-log"
PLACES = {"north": "IR", "south": "FR", "west": "CH"}
NODE = "tehran"


class Town(Product):
    """A deployment with a name of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        folder.mkdir()
        super().__init__(folder)

    def _lay_out(self, flows: bool, databases: Mapping[str, str]) -> None:
        self.server_name = f"{self.name}.test"
        super()._lay_out(flows, databases)

    @property
    def about(self) -> dict[str, Any]:
        """What it tells everybody of its logs."""
        found: dict[str, Any] = Api(self.base_url).ask("GET", LOGS)
        return found

    @property
    def key_log(self) -> dict[str, Any]:
        """Of the log of the node that the play is about."""
        return next(dict(each) for each in self.about["logs"] if each["node"] == NODE)

    def shown(self) -> bytes:
        """The checkpoint that it shows."""
        return Api(self.base_url).fetch("GET", f"{LOGS}/{NODE}/checkpoint")

    @property
    def leaves(self) -> int:
        """How many its operator is told that the log has."""
        logs = json.loads(self.run("log", "status", "--json").out)["logs"]
        return next(int(each["size"]) for each in logs if each["node"] == NODE)

    def standing(self) -> dict[str, Any] | None:
        """The first alarm that nobody has ended, if there is one."""
        return next((dict(each) for each in self.about["alarms"] if each["ended"] is None), None)

    def holds(self, origin: str) -> bytes:
        """The checkpoint of another's log that it has signed last."""
        return Api(self.base_url).fetch("GET", f"/_domicile/v1/witness/{witnessing.place_of(origin)}/checkpoint")


def until(look: Callable[[], T | None], seconds: float = 45.0) -> T:
    """What is there within so many seconds."""
    deadline = time.monotonic() + seconds
    while (found := look()) is None:
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)  # there is no other way to learn what another program has done
    return found


def agreed(town: Town, others: list[Town]) -> str:
    """Lines of a policy by which the others are its witnesses; and they are told of its logs."""
    lines = ["[jurisdictions.CH]\n[witnessing]\nquorum = 2\n"]
    for other in others:
        theirs = other.about["witness"]
        lines.append(f'[witnesses.{other.name}]\njurisdiction = "{PLACES[other.name]}"\n')
        lines.append(f'url = "{theirs["url"]}"\nkey = "{theirs["key"]}"\n')
        for log in town.about["logs"]:
            assert other.run("log", "witness", "add", log["url"], "--key", log["key"]).status == 0
    return "".join(lines)


def believed(town: Town, others: list[Town], note: bytes) -> Checkpoint:
    """What a checkpoint says, under the signatures of its log and of both witnesses."""
    read = signed_notes.read(note)
    keys = [NamedKey.read(other.about["witness"]["key"]) for other in others]
    assert set(checkpoints.witnesses(read, keys)) == set(keys)
    return checkpoints.opened(read, NamedKey.read(town.key_log["key"]))


def signed(town: Town, others: list[Town], more_than: int = 0) -> Checkpoint:
    """Wait until both others have signed a checkpoint of more leaves than that."""

    def look() -> Checkpoint | None:
        about = town.key_log["witnessing"]
        if (about["cosigned_size"] or 0) <= more_than or about["missing"]:
            return None
        return believed(town, others, town.shown())

    return until(look)


def publishes(town: Town, localpart: str) -> None:
    """Somebody comes, with a device that has keys."""
    api = town.user(localpart, NODE)
    me = api.client("GET", "/account/whoami")
    signer = SigningKey(me["device_id"], secrets.token_bytes(32))
    keys = {
        "user_id": me["user_id"],
        "device_id": me["device_id"],
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": {
            f"curve25519:{me['device_id']}": encode_base64(secrets.token_bytes(32)),
            signer.key_id: encode_base64(signer.verify_key.raw),
        },
    }
    api.client("POST", "/keys/upload", {"device_keys": sign_json(keys, me["user_id"], signer)})


@pytest.fixture
def towns(tmp_path: Path) -> Iterator[list[Town]]:
    """Three deployments that serve."""
    with ExitStack() as stack:
        yield [stack.enter_context(Town(tmp_path / name, name)) for name in PLACES]


def back_up(town: Town, backup: Path) -> None:
    """Copy all that there is while it does not run."""
    town.stop()
    shutil.copytree(town.folder / "data", backup)
    town.start()


def put_back(town: Town, backup: Path) -> None:
    """Its disk was lost, and all that there is comes back as it was."""
    shutil.rmtree(town.folder / "data")
    shutil.copytree(backup, town.folder / "data")


def proved(alarm: dict[str, Any]) -> None:
    """A stranger sees that it is true."""
    link = {name: value for name, value in alarm.items() if name not in ("sha256", "ended")}
    log_alarms.check(log_alarms.read(canonical.encode(link)))


def goes_on_alone(town: Town, others: list[Town], backup: Path) -> int:
    """Its disk is lost behind a power of two, it comes back from the backup while nobody else can be reached, and goes
    on, past what was signed; how many leaves were."""
    backed_up = cosigned = signed(town, others).head.size
    while cosigned == backed_up or cosigned & cosigned - 1:
        publishes(town, f"before-{cosigned}")
        cosigned = signed(town, others, more_than=cosigned).head.size
    town.kill9()
    put_back(town, backup)
    for other in others:
        other.kill9()
    town.start()
    number = 0
    while town.leaves <= cosigned:
        number += 1
        publishes(town, f"again-{number}")
    town.stop()
    for each in (*others, town):
        each.start()
    return cosigned


def test_three_witness_each_other_and_two_lose_their_disks(towns: list[Town], tmp_path: Path) -> None:
    north, south, west = towns
    publishes(north, "alice")
    for town in towns:
        others = [other for other in towns if other is not town]
        policy = town.policy.read_text().replace("serial = 1", "serial = 2")
        town.policy.write_text(policy + agreed(town, others))
        town.send(signal.SIGHUP)
    for town in towns:
        signed(town, [other for other in towns if other is not town])
        assert town.run("log", "status").status == 0
    origin = north.key_log["origin"]

    back_up(north, tmp_path / "of-north")
    before = signed(north, [south, west]).head
    back_up(south, tmp_path / "of-south")
    publishes(north, "bob")
    after = signed(north, [south, west], more_than=before.size).head

    north.kill9()
    put_back(north, tmp_path / "of-north")
    north.start()  # all of it is as it was, but for what the others have seen
    alarm = until(north.standing)
    assert (alarm["kind"], alarm["origin"], alarm["ended"]) == ("set_back", origin, None)
    with pytest.raises(ApiError) as silent:
        north.shown()
    assert silent.value.body["org.domicile.reason"] == "log_set_back"
    said = north.run("log", "status")
    assert said.status == 1
    assert "which are more than there are" in said.err
    proved(alarm)
    for other in (south, west):
        note = signed_notes.read(other.holds(origin))
        assert checkpoints.opened(note, NamedKey.read(north.key_log["key"])).head == after

    ended = NamedKey.read(north.key_log["key"])
    again = NamedKey(f"{origin}.2", ended.kind, ended.key)
    for other in (south, west):
        assert other.run("log", "witness", "add", again.name, "--key", again.write()).status == 0
    assert north.run("log", "begin-anew", "--node", NODE, "--reason", "our disk was lost").status == 0
    assert north.key_log["key"] == again.write()
    until(lambda: north.key_log["witnessing"]["cosigned_size"])
    (alarm,) = north.about["alarms"]
    assert alarm["ended"]["reason"] == "our disk was lost"

    origin = south.key_log["origin"]
    size = goes_on_alone(south, [north, west], tmp_path / "of-south")
    for town, side in ((south, "log"), (north, "witness"), (west, "witness")):
        alarm = until(town.standing)
        assert (alarm["kind"], alarm["side"], alarm["origin"]) == ("two_histories", side, origin)
        proved(alarm)
        assert town.run("log", "alarm", "list").status == 1
    for other in (north, west):
        note = signed_notes.read(other.holds(origin))
        assert checkpoints.opened(note, NamedKey.read(south.key_log["key"])).head.size == size
