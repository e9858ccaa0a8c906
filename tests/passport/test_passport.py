"""The passport: that it says what is so, that it can be checked by its signature, and that a changed one is refused."""

from __future__ import annotations

import contextlib
import io
import runpy
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest import mock

import orjson
import pytest

from homeserver.passport import build, issuing
from homeserver.protocol import checkpoints, passports, signed_notes
from homeserver.protocol.checkpoints import Checkpoint, Head
from homeserver.protocol.errors import BadJson, InvalidSignature
from homeserver.protocol.merkle import EMPTY_ROOT
from homeserver.protocol.signed_notes import COSIGNATURE, Signature
from homeserver.protocol.signing import SigningKey, VerifyKey, sign_json
from tests.deployment import NAME, POLICY, SETTINGS, Deploy, Deployment
from tests.endpoints.visiting import Browser
from tests.support import ON_SQLITE, aio
from tests.transparency.test_key_log import caught_up, device

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "verify-passport"

SAID = (
    SETTINGS
    + """
[operator]
legal_name = "Example <Telecom>"
contact = "mailto:abuse@example.org"
[representatives.FR]
name = "Représentation SAS"
"""
)
WITNESSED = """
[witnesses.lyon]
key = "matrix.example.net/_domicile/v1/witness+781780cc+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X"
url = "https://matrix.example.net/_domicile/v1/witness"
jurisdiction = "FR"
"""
LAWFUL = (
    POLICY.replace('name = "Iran"', 'name = "Iran"\nlanguages = ["fa"]\nlaw = "قانون داده‌ها"')
    + WITNESSED
    + '[disclosure.IR]\nfields = ["phone_number"]\napprovals = 3\n'
)


async def shown(deployment: Deployment) -> dict[str, Any]:
    answer = await deployment.site.call("GET", "/_domicile/passport.json", address="192.0.2.1")
    assert answer.status == 200
    assert isinstance(answer.body, bytes)
    return dict(orjson.loads(answer.body))


def keys(deployment: Deployment) -> dict[str, VerifyKey]:
    return {key.key_id: key.verify_key for key in deployment.server.identity.keys}


@ON_SQLITE
@aio
async def test_it_says_what_is_so_under_the_servers_signature(deploy: Deploy) -> None:
    deployment = await deploy(settings=SAID, policy=LAWFUL)
    await device(deployment, "alice")
    await caught_up(deployment, "tehran")
    said = await shown(deployment)
    assert passports.faults(said, keys(deployment)) == []
    assert said["operator"]["legal_name"] == "Example <Telecom>"
    assert said["encryption"]["required"] is True
    assert "m.reaction" in said["encryption"]["allowed_in_clear"]
    assert said["encryption"]["unsigned_device_grace_ms"] == 0
    assert said["software"]["build_sha256"] == build.digest()
    iran, france = sorted(said["jurisdictions"], key=lambda each: str(each["code"]), reverse=True)
    assert (iran["code"], iran["law"]) == ("IR", "قانون داده‌ها")
    assert iran["disclosure"] == {"fields": ["phone_number"], "approvals": 3, "custodians": 0, "threshold": 2}
    assert france["representative"] == {"jurisdiction": "FR", "name": "Représentation SAS", "contact": None}
    assert [(each["name"], each["jurisdiction"]) for each in said["witnesses"]] == [("lyon", "FR")]
    assert (said["quorum"], said["alarms"]) == (0, {"raised": 0, "open": 0})
    assert said["witness"]["key"].startswith("example.org/_domicile/v1/witness+")
    tehran, paris = said["nodes"]
    assert (tehran["name"], tehran["jurisdiction"]) == ("tehran", "IR")
    assert tehran["register"] == {"count": 0, "head": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="}
    assert paris["register"] is None
    assert tehran["key_log"]["checkpoint"].startswith("example.org/_domicile/v1/key-log/tehran\n")
    assert paris["key_log"]["checkpoint"] is None
    deployment.server.policy.isolated = {"IR"}
    await deployment.clock.advance(issuing.KEPT)
    said = await shown(deployment)
    assert {each["code"]: each["isolated"] for each in said["jurisdictions"]} == {"FR": False, "IR": True}


@ON_SQLITE
@pytest.mark.parametrize(
    ("grace", "told", "sentence"),
    [("0s", 0, "not shown"), ("2h", 7_200_000, "for some time"), ("never", None, "shown to others, who")],
)
@aio
async def test_it_says_who_is_encrypted_for(deploy: Deploy, grace: str, told: int | None, sentence: str) -> None:
    deployment = await deploy(settings=SETTINGS + f'[encryption]\nunsigned_device_grace = "{grace}"\n')
    assert (await shown(deployment))["encryption"]["unsigned_device_grace_ms"] == told
    page = await Browser(deployment).get("/_domicile/passport?language=en")
    (said,) = [line for line in page.text.splitlines() if "owners have not signed" in line]
    assert sentence in said


@ON_SQLITE
@aio
async def test_it_is_made_anew_when_it_is_old_and_not_before(deployment: Deployment) -> None:
    first = await shown(deployment)
    await deployment.clock.advance(issuing.KEPT - 1)
    assert await shown(deployment) == first
    await deployment.clock.advance(2)
    later = await shown(deployment)
    assert later["time"] > first["time"]
    assert passports.faults(later, keys(deployment)) == []


@ON_SQLITE
@aio
async def test_a_server_for_tests_says_so(deploy: Deploy) -> None:
    deployment = await deploy(settings=SETTINGS.replace("\n[", "\nconformance_mode = true\n[", 1))
    said = await shown(deployment)
    assert said["encryption"]["required"] is False
    assert said["encryption"]["conformance_mode"] is True
    page = await Browser(deployment).get("/_domicile/passport")
    assert "This server is for tests" in page.text


@ON_SQLITE
@aio
async def test_the_page_is_in_the_languages_of_the_place(deploy: Deploy) -> None:
    deployment = await deploy(settings=SAID, policy=LAWFUL)
    page = await Browser(deployment).get("/_domicile/passport")
    assert (page.status, page.headers["content-language"]) == (200, "fa")
    assert '<html lang="fa" dir="rtl">' in page.text
    for words in ("گذرنامهٔ این سرویس", "Example &lt;Telecom&gt;", "شماره تلفن", "قانون داده‌ها", "ایران (IR)", "lyon"):
        assert words in page.text
    assert "<script" not in page.text
    english = await Browser(deployment).get("/_domicile/passport?language=en")
    assert "Who runs it" in english.text
    assert "phone number" in english.text
    assert 'lang="fa" dir="rtl"' in english.text
    french = await Browser(deployment, headers={"Accept-Language": "fr"}).get("/_domicile/passport")
    assert "Qui l’exploite" in french.text


def by_script(folder: Path, said: dict[str, Any], key: VerifyKey, *more: str) -> tuple[int, str]:
    """What the script says of a passport that is in a file: its exit status and words."""
    path, words = folder / "passport.json", io.StringIO()
    path.write_bytes(orjson.dumps(said))
    arguments = [SCRIPT.name, str(path), "--server-key", f"{key.key_id}={key.base64}", *more]
    with contextlib.redirect_stdout(words), mock.patch.object(sys, "argv", arguments):
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as ended:
            return 1, f"{words.getvalue()}{ended.code}"
    return 0, words.getvalue()


@ON_SQLITE
@aio
async def test_the_script_of_a_stranger_comes_to_the_same(deploy: Deploy, tmp_path: Path) -> None:
    deployment = await deploy(settings=SAID, policy=LAWFUL)
    await device(deployment, "alice")
    await caught_up(deployment, "tehran")
    said, identity = await shown(deployment), deployment.server.identity
    key = identity.key.verify_key
    status, words = by_script(tmp_path, said, key, "--build", build.digest())
    assert status == 0, words
    for told in ("in the clear: m.key.verification.accept, ", "have not signed are shown to them alone"):
        assert told in words
    for told in ("Example <Telecom>", "required", "tehran (IR): 1 leaves, 0 entries", "paris (FR): nothing"):
        assert told in words
    assert by_script(tmp_path, said, key, "--build", "00")[0] == 1
    assert by_script(tmp_path, said, SigningKey("test", b"o" * 32).verify_key)[0] == 1
    assert by_script(tmp_path, {}, key)[0] == 1
    for place in places(said):
        assert by_script(tmp_path, altered(said, place), key)[0] == 1, place
    posing = {**said, "operator": {**said["operator"], "legal_name": "me\x1b[2K\ngenuine\u202e"}, "signatures": {}}
    assert (
        "operator: me\\x1b[2K\\ngenuine\\u202e;" in by_script(tmp_path, sign_json(posing, NAME, identity.key), key)[1]
    )
    forged = altered(said, ("nodes", 0, "key_log", "checkpoint"))
    forged["nodes"][0]["key_log"]["checkpoint"] = said["nodes"][0]["key_log"]["checkpoint"].replace("\n1\n", "\n9\n")
    del forged["signatures"]
    status, words = by_script(tmp_path, sign_json(forged, NAME, identity.key), key)
    assert (status, "is not signed by its log" in words) == (1, True)


# what is changed is refused -----------------------------------------------------------------


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where something stands in a document that is no object and no list."""
    if isinstance(value, dict):
        return [place for name, each in value.items() for place in places(each, (*path, name))]
    if isinstance(value, list):
        return [place for index, each in enumerate(value) for place in places(each, (*path, index))]
    return [path]


def test_a_witness_is_believed_by_its_own_key_only() -> None:
    server, log, witness = SigningKey("a", b"k" * 32), SigningKey("log", b"l" * 32), SigningKey("w", b"w" * 32)
    origin, name = "x.example/log", "w.example/witness"
    note = checkpoints.signed(Checkpoint(origin, Head(0, EMPTY_ROOT), ()), log)
    good, bad = (checkpoints.cosigned(note, name, witness, seconds) for seconds in (1000, 2000))
    mixed = Signature(good.name, good.key_id, good.raw[:8] + bad.raw[8:])

    def faults(signature: Signature) -> list[str]:
        shown = note.with_signatures([signature]).write().decode()
        key = signed_notes.public_key(origin, log).write()
        said = {
            "nodes": [{"key_log": {"origin": origin, "key": key, "checkpoint": shown}}],
            "witnesses": [{"key": signed_notes.public_key(name, witness, COSIGNATURE).write()}],
        }
        signed = passports.signed(said, "x.example", server, 1)
        return passports.faults(signed, {server.key_id: server.verify_key})

    assert faults(good) == []
    (fault,) = faults(mixed)
    assert origin in fault


def altered(said: dict[str, Any], place: tuple[str | int, ...]) -> dict[str, Any]:
    """A passport in which something else stands somewhere."""
    changed = deepcopy(said)
    inner: Any = changed
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = "changed"
    return changed


@ON_SQLITE
@aio
async def test_whatever_is_changed_in_it_shows(deployment: Deployment) -> None:
    said = await shown(deployment)
    known, found = keys(deployment), places(said)
    assert len(found) > 30
    for place in found:
        assert passports.faults(altered(said, place), known) != [], place
    for name in said:
        assert passports.faults({key: value for key, value in said.items() if key != name}, known) != [], name


@ON_SQLITE
@aio
async def test_another_key_and_another_log_are_not_believed(deployment: Deployment) -> None:
    await device(deployment, "alice")
    await device(deployment, "pierre", "paris")
    await caught_up(deployment)
    said, known = await shown(deployment), keys(deployment)
    other = SigningKey("test", b"o" * 32)
    assert passports.faults(said, {other.key_id: other.verify_key}) != []
    swapped = deepcopy(said)
    tehran, paris = swapped["nodes"]
    del swapped["signatures"]
    for name in ("checkpoint", "key"):  # that of the other log, and then with the other log's key
        tehran["key_log"][name] = paris["key_log"][name]
        (fault,) = passports.faults(sign_json(swapped, NAME, deployment.server.identity.key), known)
        assert "example.org/_domicile/v1/key-log/tehran" in fault


@pytest.mark.parametrize(
    "garbage", [{}, {"format": 1}, {"format": 1, "server_name": "x", "time": 1}, {"format": 2, "server_name": "x"}]
)
def test_garbage_is_no_passport(garbage: dict[str, Any]) -> None:
    assert passports.faults(garbage, {}) != []


def test_the_keys_of_a_server_are_believed_by_its_own_signature() -> None:
    key = SigningKey("a", b"k" * 32)
    document = {"server_name": "x.example", "verify_keys": {key.key_id: {"key": key.verify_key.base64}}}
    signed = sign_json(document, "x.example", key)
    assert list(passports.keys_of(signed, "x.example")) == [key.key_id]
    with pytest.raises(BadJson):
        passports.keys_of(signed, "y.example")
    with pytest.raises(InvalidSignature):
        passports.keys_of({**signed, "old_verify_keys": {}}, "x.example")
