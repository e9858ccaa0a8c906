"""Somebody who runs a server is made to read along. Who can see it: the person's other devices, whoever watches over
their keys from outside, and the servers of other operators in other countries.
"""

import json
import secrets
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop import forked
from tests.interop.api import Api, ApiError, segment
from tests.interop.cast import Wardrobe, device_name, meet
from tests.interop.client import CallError, Client
from tests.interop.test_clients import all_read_all, words
from tests.interop.test_federation_rooms import eventually
from tests.interop.treaty import Realm, Treaty, treaty
from tests.transparency import ghosts
from tests.transparency.ghosts import GHOST

VERIFIER = Path(__file__).parents[2] / "scripts" / "verify-key-log"
UNWITNESSED = 3
"""Its status when nothing is wrong, but not enough have signed."""


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Treaty]:
    """The three servers; what was done in an earlier play stays."""
    with treaty(tmp_path_factory.mktemp("treaty")) as made:
        yield made


class Scene:
    """Nasrin in Iran with two devices, Noémie in France and Aigerim in Kazakhstan, in one encrypted room; and somebody
    who watches over Nasrin's keys from a machine of their own."""

    def __init__(self, three: Treaty, wardrobe: Wardrobe, folder: Path) -> None:
        self.three = three
        self.wardrobe = wardrobe
        self._folder = folder
        self.nasrin = self._newcomer(three.tehran, "nasrin")
        self.noemie = self._newcomer(three.paris, "noemie")
        self.aigerim = self._newcomer(three.almaty, "aigerim")
        self.room = meet(self.noemie, self.nasrin, self.aigerim)
        self.other = wardrobe.another_device(self.nasrin, three.tehran.base_url, "nasrin's other")
        all_read_all(self.room, self.noemie, self.nasrin, self.aigerim)
        self.opening = str(self.nasrin.api.ask("GET", "/_domicile/v1/key-log/me")["opening"])
        status, said = self.watch()
        assert status == 0, said

    def _newcomer(self, realm: Realm, name: str) -> Client:
        person = self.wardrobe.client("nio", name, realm.base_url)
        person.register(f"{name}-{secrets.token_hex(4)}", secrets.token_urlsafe(12), device_name(name), realm.token)
        person.sets_up_cross_signing()
        return person

    # ------------------------------------------------------------ what others see, over HTTP and by public keys

    def watch(self, by: Client | None = None) -> tuple[int, str]:
        """What a monitor says that has the opening of her name and no account, or asks as somebody does: status and
        words."""
        state, token = self._folder / f"{self.nasrin.user_id}.json", self._folder / "token"
        command = ["log", "monitor", self.nasrin.user_id, "--url", self.three.tehran.base_url, "--state", str(state)]
        if by is not None:
            token.write_text(by.access_token)
            command += ["--token-file", str(token)]
        done = forked.run([*command, "--opening", self.opening])
        return done.returncode, (done.stdout + done.stderr).decode()

    def shown_to(self, person: Client) -> dict[str, Any]:
        """What a person's server tells them of Nasrin's keys."""
        answer: dict[str, Any] = person.api.client("POST", "/keys/query", {"device_keys": {self.nasrin.user_id: []}})
        return answer

    def devices_shown_to(self, person: Client) -> set[str]:
        """The devices of Nasrin's that a person encrypts for."""
        return set(self.shown_to(person)["device_keys"].get(self.nasrin.user_id, {}))

    def verified(self, answer: dict[str, Any]) -> tuple[int, str]:
        """What the script says that knows nothing of Domicile, when it reads the log over HTTP and is given keys as
        they were shown; two of the other countries must have signed the log."""
        about, keys = self.three.tehran.log_about, self._folder / "keys.json"
        keys.write_text(json.dumps(answer))
        command = [sys.executable, "-I", str(VERIFIER), about["url"], "--key", about["key"], "--quorum", "2"]
        for other in self.three.others(self.three.tehran):
            command += ["--witness", f"{other.country}={other.public['witness']['key']}"]
        command += ["--user", self.nasrin.user_id, "--opening", self.opening, "--keys", str(keys)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stdout + done.stderr

    def is_proved_to(self, person: Client) -> None:
        """Insist that what a person elsewhere is shown of Nasrin's keys holds. Their server fetches the proof itself,
        and asks again after half a minute if there was none; what it has kept may be of the moment before witnesses
        signed."""

        def proved() -> bool | None:
            answer = self.shown_to(person)
            told = answer.get("org.domicile.key_log", {}).values()
            found = any(self.nasrin.user_id in each["users"] for each in told)
            return (found and self.verified(answer)[0] in (0, UNWITNESSED)) or None

        eventually(proved, 120.0)

    def waits_for_witnesses(self) -> None:
        """Wait until two countries have signed the log as far as it goes, as everybody can see."""
        eventually(lambda: _is_witnessed(self.three.tehran) or None)

    def password_of_hers(self) -> dict[str, Any]:
        """By what Nasrin confirms what only she may do."""
        who = {"type": "m.id.user", "user": self.nasrin.user_id}
        return {"type": "m.login.password", "identifier": who, "password": self.nasrin.password}

    def another_session(self) -> Api:
        """A session of Nasrin's without a client."""
        realm = self.three.tehran.base_url
        return Api(realm, Api(realm).client("POST", "/login", self.password_of_hers())["access_token"])

    def talk(self) -> str:
        """Noémie says something that Aigerim reads; returns it."""
        text = words(self.noemie)
        self.noemie.sends(self.room, text)
        self.aigerim.sees(self.room, self.noemie, text)
        return text

    def secrets_for(self, device_id: str) -> int:
        """How many encrypted messages wait for a device of Nasrin's: room keys would be among them."""
        with sqlite3.connect(self.three.tehran.node_folder("tehran") / "node.db") as database:
            row = database.execute(
                "SELECT COUNT(*) FROM to_device t JOIN devices d USING (device_nid)"
                " WHERE d.device_id = ? AND CAST(t.message AS TEXT) LIKE '%m.room.encrypted%'",
                (device_id,),
            ).fetchone()
        database.close()
        return int(row[0])


def _is_witnessed(realm: Realm) -> bool:
    told = realm.log_about["witnessing"]
    return not told["missing"] and min(each["size"] or 0 for each in told["witnesses"]) == realm.log_size


@pytest.fixture
def scene(three: Treaty, tmp_path: Path) -> Iterator[Scene]:
    """New people on the three servers."""
    wardrobe = Wardrobe(tmp_path)
    try:
        yield Scene(three, wardrobe, tmp_path)
    finally:
        wardrobe.close()


def test_a_device_that_is_put_into_the_database(scene: Scene) -> None:
    tehran = scene.three.tehran
    scene.waits_for_witnesses()
    with sqlite3.connect(tehran.node_folder("tehran") / "node.db", timeout=30) as database:
        for statement in ghosts.forged(scene.nasrin.user_id):
            database.execute(*statement)
    database.close()
    tehran.restart()
    # her devices are shown it whenever they ask, and show it among hers
    assert GHOST in scene.devices_shown_to(scene.other)
    assert GHOST in {each["device_id"] for each in scene.other.call("devices")}
    third = scene.wardrobe.another_device(scene.nasrin, tehran.base_url, "nasrin's third")
    third.call("wait_for_device", user=scene.nasrin.user_id, device=GHOST)
    # nobody else is, here or elsewhere
    for person in (scene.noemie, scene.aigerim):
        assert GHOST not in scene.devices_shown_to(person)
    text = scene.talk()
    scene.nasrin.sees(scene.room, scene.noemie, text)
    assert scene.secrets_for(GHOST) == 0
    status, said = scene.watch(by=scene.other)
    assert (status, f"the device {GHOST} is shown" in said) == (1, True), said
    # what its owner is shown is not what the log says, which two other countries have signed
    scene.waits_for_witnesses()
    status, said = scene.verified(scene.shown_to(scene.other))
    assert (status, f"the device {GHOST}" in said) == (1, True), said
    scene.is_proved_to(scene.noemie)


def test_devices_by_the_api_with_the_rights_of_an_operator(scene: Scene) -> None:
    scene.waits_for_witnesses()
    _an_application_service_is_refused(scene)
    _a_device_beside_hers_of_somebody_who_reads_her_mail(scene)
    _a_device_instead_of_hers_of_somebody_who_changes_the_password(scene)


def _an_application_service_is_refused(scene: Scene) -> None:
    tehran, victim = scene.three.tehran, scene.nasrin
    service = tehran.registers_service("spy", "@nasrin.*")
    eventually(lambda: "spy" in who if (who := _who(service)) else None)
    _, changes = scene.watch()
    as_her, with_hers = f"?user_id={segment(victim.user_id)}", f"&device_id={victim.device_id}"
    login = {"type": "m.login.application_service", "identifier": {"type": "m.id.user", "user": victim.user_id}}
    for method, path, body in (
        ("POST", "/login", login),
        ("PUT", "/devices/GHOST" + as_her, {"display_name": "Nasrin's phone"}),
        ("POST", "/keys/upload" + as_her + with_hers, {}),
        ("POST", "/keys/device_signing/upload" + as_her, {"master_key": {}}),
        ("GET", "/sync" + as_her, None),
    ):
        with pytest.raises(ApiError, match="not_made_by_service"):
            service.client(method, path, body)
    assert scene.devices_shown_to(scene.other) == {victim.device_id, scene.other.device_id}
    assert scene.watch() == (0, changes)


def _who(service: Api) -> str | None:
    """As whom an application service acts that names nobody; None while it is not registered yet."""
    try:
        return str(service.client("GET", "/account/whoami")["user_id"])
    except ApiError:
        return None


def _a_device_beside_hers_of_somebody_who_reads_her_mail(scene: Scene) -> None:
    tehran, relay = scene.three.tehran, scene.three.relay
    address = f"{scene.nasrin.user_id[1:].partition(':')[0]}@mail.example"
    proof = relay.proves(scene.nasrin.api, "/account/3pid", address)
    scene.nasrin.api.client("POST", "/account/3pid/add", {**proof, "auth": scene.password_of_hers()})
    drawer = scene.another_session()  # a device of hers that nobody uses
    _, changes = scene.watch()
    proof = relay.proves(Api(tehran.base_url), "/account/password", address)
    wanted = {"new_password": "known to the operator", "logout_devices": False}
    stage = {"type": "m.login.email.identity", "threepid_creds": proof}
    Api(tehran.base_url).client("POST", "/account/password", {**wanted, "auth": stage})
    ghost = scene.wardrobe.client("nio", "operator", tehran.base_url)
    ghost.login(scene.nasrin.user_id, "known to the operator", "Nasrin's phone")
    # her devices are still there, are shown it, and are told
    scene.other.call("wait_for_device", user=scene.nasrin.user_id, device=ghost.device_id)
    assert ghost.device_id in {each["device_id"] for each in scene.nasrin.call("devices")}
    (notice,) = [each["content"] for each in drawer.client("GET", "/sync")["to_device"]["events"]]
    assert (notice["reason"], notice["devices"]) == ("device_keys", [ghost.device_id])
    # nobody encrypts for it
    for person in (scene.noemie, scene.aigerim):
        assert ghost.device_id not in scene.devices_shown_to(person)
        claimed = {"one_time_keys": {scene.nasrin.user_id: {ghost.device_id: "signed_curve25519"}}}
        assert person.api.client("POST", "/keys/claim", claimed)["one_time_keys"] == {}
    scene.nasrin.sees(scene.room, scene.noemie, scene.talk())
    assert scene.secrets_for(ghost.device_id) == 0
    # nor does it get what her own device, which is shown it, encrypts for it
    text = words(scene.nasrin)
    scene.nasrin.sends(scene.room, text)
    scene.noemie.sees(scene.room, scene.nasrin, text)
    assert (scene.secrets_for(ghost.device_id), set(ghost.history(scene.room))) == (0, {None})
    # the log tells of it, under the signatures of two other countries
    scene.waits_for_witnesses()
    status, said = scene.watch()
    assert (status, said.count("a device published keys") - changes.count("a device published keys")) == (0, 1), said
    (withheld,) = [line for line in said.splitlines() if line.startswith("Not signed by their owner")]
    assert ghost.device_id in withheld
    status, said = scene.verified(scene.shown_to(scene.other))
    assert status == 0, said
    # an identity that signs it is not believed while there is the device that hers has signed
    ghost.sets_up_cross_signing()
    *_, notice = [each["content"]["reason"] for each in drawer.client("GET", "/sync")["to_device"]["events"]]
    assert notice == "identity_reset"
    for person in (scene.noemie, scene.aigerim):
        eventually(lambda person=person: scene.devices_shown_to(person) == set() or None)  # type: ignore[misc]
    scene.talk()
    assert scene.secrets_for(ghost.device_id) == 0
    scene.waits_for_witnesses()
    status, said = scene.watch()
    assert (status, "the identity was reset" in said) == (0, True), said


def _a_device_instead_of_hers_of_somebody_who_changes_the_password(scene: Scene) -> None:
    tehran = scene.three.tehran
    _, changes = scene.watch()
    tehran.command("user", "reset-password", scene.nasrin.user_id, "--password-stdin", stdin="known to the operator\n")
    ghost = scene.wardrobe.client("nio", "operator", tehran.base_url)
    ghost.login(scene.nasrin.user_id, "known to the operator", "Nasrin's phone")
    eventually(lambda: ghost.device_id in scene.devices_shown_to(ghost) or None)
    # her own devices are thrown out, which she sees
    with pytest.raises(ApiError, match="M_UNKNOWN_TOKEN"):
        scene.nasrin.api.client("GET", "/account/whoami")
    # nobody encrypts for it
    assert ghost.device_id not in scene.devices_shown_to(scene.noemie) | scene.devices_shown_to(scene.aigerim)
    text = scene.talk()
    assert scene.secrets_for(ghost.device_id) == 0
    with pytest.raises(CallError):
        ghost.call("wait_for_text", room=scene.room, sender=scene.noemie.user_id, body=text, timeout=3.0)
    # the log tells of it, under the signatures of two other countries
    scene.waits_for_witnesses()
    status, said = scene.watch()
    assert (status, said.count("a device published keys") - changes.count("a device published keys")) == (0, 1), said
