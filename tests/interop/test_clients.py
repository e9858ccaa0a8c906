"""Plays: real clients of two countries on a real server, over HTTP, with real encryption.

Each play gathers in a room of its own. The people stay logged in from one play to the next, as people do.
"""

import secrets

import pytest

from tests.interop.api import ApiError, segment
from tests.interop.cast import Cast, House, Wardrobe, device_name, meet
from tests.interop.client import CallError, Client
from tests.interop.deployment import Deployment

BORDERS = [("nasrin", "jules"), ("javad", "noemie"), ("noemie", "nasrin"), ("jules", "javad")]
"""Pairs of people in two countries; every client library is first once in each country."""


def words(said_by: Client) -> str:
    """Something that has never been said."""
    return f"{said_by.name} says {secrets.token_hex(8)}"


def all_read_all(room: str, *people: Client) -> None:
    """Everybody says something, and everybody else reads it."""
    said = {person: words(person) for person in people}
    sent = {person: person.sends(room, text) for person, text in said.items()}
    for reader in people:
        for writer in people:
            if reader is not writer:
                assert reader.sees(room, writer, said[writer]) == sent[writer]


def couple(cast: Cast, names: tuple[str, str]) -> tuple[Client, Client]:
    """Two of the people."""
    first, second = names
    return getattr(cast, first), getattr(cast, second)


def test_everybody_reads_everybody(cast: Cast) -> None:
    room = meet(cast.nasrin, cast.javad, cast.noemie, cast.jules)
    all_read_all(room, *cast.everyone)
    all_read_all(room, *cast.everyone)


@pytest.mark.parametrize("names", BORDERS)
def test_two_people_talk_over_the_border(cast: Cast, names: tuple[str, str]) -> None:
    host, guest = couple(cast, names)
    all_read_all(meet(host, guest), host, guest)


def test_everybody_sees_whose_devices_are_whose(cast: Cast) -> None:
    """The keys of each, as all the others get them, vouch for the device that the person set up."""
    meet(cast.javad, cast.nasrin, cast.noemie, cast.jules)
    for owner in cast.everyone:
        views = [other.trusts(owner) for other in cast.everyone if other is not owner]
        assert len({view["master_key"] for view in views}) == 1
        assert all(view["devices"][owner.device_id]["signed_by_owner"] for view in views)


@pytest.mark.parametrize("names", BORDERS)
def test_an_attachment_crosses_the_border_and_opens(cast: Cast, names: tuple[str, str]) -> None:
    giver, taker = couple(cast, names)
    room = meet(giver, taker)
    content, name = secrets.token_bytes(200_001), f"{secrets.token_hex(6)}.bin"
    url = giver.sends_file(room, name, "application/x-secret", content)
    assert taker.receives_file(room, giver, name) == content
    stored = taker.api.download(url)
    assert len(stored) == len(content)
    assert stored != content


@pytest.mark.parametrize("names", BORDERS)
def test_a_device_that_was_away_finds_its_keys_waiting(cast: Cast, names: tuple[str, str]) -> None:
    """The room key is sent while the receiver is offline: it waits on the receiver's node."""
    writer, reader = couple(cast, names)
    room = meet(writer, reader)
    reader.goes_offline()
    said = [words(writer) for _ in range(3)]
    for text in said:
        writer.sends(room, text)
    reader.goes_online()
    for text in said:
        reader.sees(room, writer, text)
    all_read_all(room, writer, reader)


@pytest.mark.parametrize("names", BORDERS)
def test_a_new_device_reads_the_past_from_the_key_backup(
    cast: Cast, wardrobe: Wardrobe, house: House, names: tuple[str, str]
) -> None:
    """Without the recovery key it reads nothing of the past; with it everything, and everybody trusts the device."""
    other, owner = couple(cast, names)
    room = meet(owner, other)
    said = [words(owner), words(other)]
    owner.sends(room, said[0])
    other.sees(room, owner, said[0])
    other.sends(room, said[1])
    owner.sees(room, other, said[1])
    recovery_key = owner.enables_key_backup()
    kept = owner.backs_up()

    late = wardrobe.another_device(owner, house.base_url, f"late-{owner.name}")
    assert late.history(room) == [None, None]
    assert late.restores(recovery_key) == kept
    assert late.history(room) == said
    other.trusts(owner, late)
    all_read_all(room, late, other)
    late.logout()


def test_messages_reach_a_device_that_logged_in_later(cast: Cast, wardrobe: Wardrobe, house: House) -> None:
    """A device list that grows is noticed by those who write, on the other side of the border too."""
    room = meet(cast.nasrin, cast.javad, cast.noemie, cast.jules)
    all_read_all(room, *cast.everyone)
    for owner in (cast.noemie, cast.jules):
        late = wardrobe.another_device(owner, house.base_url, f"later-{owner.name}")
        for writer in (cast.nasrin, cast.javad):
            writer.notices(late)
            text = words(writer)
            writer.sends(room, text)
            late.sees(room, writer, text)
            owner.sees(room, writer, text)
        late.logout()


def test_who_has_left_reads_no_more(cast: Cast) -> None:
    room = meet(cast.javad, cast.noemie, cast.jules)
    all_read_all(room, cast.javad, cast.noemie, cast.jules)
    cast.noemie.call("leave", room=room)
    for person in (cast.javad, cast.jules):
        person.sees_members(room, cast.noemie, membership="leave")
    text = words(cast.javad)
    event_id = cast.javad.sends(room, text)
    cast.jules.sees(room, cast.javad, text)
    assert text not in [told["body"] for told in cast.noemie.call("texts", room=room)]
    with pytest.raises(ApiError) as refused:
        cast.noemie.api.client("GET", f"/rooms/{segment(room)}/event/{segment(event_id)}")
    assert refused.value.status in {403, 404}


def test_a_restart_in_mid_conversation(cast: Cast, house: House) -> None:
    """Nobody logs in again: sessions, keys and rooms are as they were, and what was said before is still there."""
    room = meet(cast.nasrin, cast.javad, cast.noemie, cast.jules)
    all_read_all(room, *cast.everyone)
    before = {person: len(person.history(room)) for person in cast.everyone}
    assert set(before.values()) == {4}
    cast.jules.goes_offline()
    waiting = words(cast.nasrin)
    cast.nasrin.sends(room, waiting)
    house.restart()
    cast.jules.goes_online()
    cast.jules.sees(room, cast.nasrin, waiting)
    all_read_all(room, *cast.everyone)
    fresh = meet(cast.jules, cast.nasrin)
    all_read_all(fresh, cast.jules, cast.nasrin)


def test_small_signs_of_life_cross_the_border(cast: Cast) -> None:
    """Typing, receipts, reactions, redactions: sent by each library, seen by each."""
    for writer, reader in (couple(cast, names) for names in BORDERS):
        room = meet(writer, reader)
        text = words(writer)
        event_id = writer.sends(room, text)
        reader.sees(room, writer, text)
        reader.call("typing", room=room, typing=True)
        writer.call("wait_for_typing", room=room, user=reader.user_id, typing=True)
        reader.call("typing", room=room, typing=False)
        writer.call("wait_for_typing", room=room, user=reader.user_id, typing=False)
        reader.call("read", room=room, event_id=event_id)
        writer.call("wait_for_receipt", room=room, user=reader.user_id, event_id=event_id)
        reader.call("react", room=room, event_id=event_id, key="👍")
        writer.call("wait_for_reaction", room=room, sender=reader.user_id, event_id=event_id, key="👍")
        writer.call("redact", room=room, event_id=event_id)
        reader.call("wait_for_redaction", room=room, event_id=event_id)
        assert text not in reader.history(room)
        assert reader.api.client("GET", f"/rooms/{segment(room)}/event/{segment(event_id)}")["content"] == {}


def test_a_display_name_is_seen_over_the_border(cast: Cast) -> None:
    meet(cast.nasrin, cast.javad, cast.noemie, cast.jules)
    for owner, other in (couple(cast, names) for names in BORDERS):
        name = f"{owner.name} {secrets.token_hex(4)}"
        owner.call("set_profile", displayname=name)
        assert other.call("profile", user=owner.user_id) == {"displayname": name}


def test_account_data_and_tags_come_back_by_sync(cast: Cast) -> None:
    for person in cast.everyone:
        content = {"colour": secrets.token_hex(4)}
        person.call("set_account_data", type="org.example.taste", content=content)
        person.call("wait_for_account_data", type="org.example.taste", content=content)
        room = person.creates_room("alone")
        person.call("wait_for_encryption", room=room)
        person.call("set_tag", room=room, tag="m.favourite", order=0.25)
        assert person.call("wait_for_tag", room=room, tag="m.favourite")["order"] == 0.25


def test_a_device_is_deleted_by_password(cast: Cast, wardrobe: Wardrobe, house: House) -> None:
    for owner in (cast.nasrin, cast.jules):
        lost = wardrobe.another_device(owner, house.base_url, f"lost-{owner.name}")
        assert {owner.device_id, lost.device_id} <= {device["device_id"] for device in owner.call("devices")}
        with pytest.raises(CallError) as wrong:
            owner.call("delete_device", device_id=lost.device_id, password="not the password")
        assert wrong.value.status == 401 or wrong.value.errcode == "M_FORBIDDEN"
        owner.call("delete_device", device_id=lost.device_id, password=owner.password)
        assert lost.device_id not in {device["device_id"] for device in owner.call("devices")}
        with pytest.raises(ApiError) as out:
            lost.api.client("GET", "/account/whoami")
        assert (out.value.status, out.value.body["errcode"]) == (401, "M_UNKNOWN_TOKEN")


def test_a_logout_ends_one_device_only(cast: Cast, wardrobe: Wardrobe, house: House) -> None:
    """Its token is void, its keys are gone, messages are no longer encrypted for it; the others talk on."""
    for owner, other in ((cast.nasrin, cast.jules), (cast.jules, cast.nasrin)):
        room = meet(owner, other)
        leaving = wardrobe.another_device(owner, house.base_url, f"leaving-{owner.name}")
        other.notices(leaving)
        text = words(other)
        other.sends(room, text)
        leaving.sees(room, other, text)
        leaving.logout()
        with pytest.raises(ApiError) as out:
            leaving.api.client("GET", "/account/whoami")
        assert (out.value.status, out.value.body["errcode"]) == (401, "M_UNKNOWN_TOKEN")
        assert leaving.device_id not in {device["device_id"] for device in owner.call("devices")}
        answer = other.api.client("POST", "/keys/query", {"device_keys": {owner.user_id: []}})
        assert set(answer["device_keys"][owner.user_id]) == {owner.device_id}
        all_read_all(room, owner, other)

        leaving.login(owner.user_id, owner.password, device_name("again"))
        other.notices(leaving)
        text = words(other)
        other.sends(room, text)
        leaving.sees(room, other, text)
        leaving.logout()


def test_every_room_is_encrypted_whether_asked_or_not(cast: Cast, deployment: Deployment) -> None:
    """Client libraries that forget to ask find an encrypted room, and encrypt."""
    assert deployment.base_url == cast.nasrin.base_url
    for host, guest in ((cast.nasrin, cast.jules), (cast.jules, cast.nasrin)):
        room = meet(host, guest, encrypted=False)
        host.call("wait_for_encryption", room=room)
        all_read_all(room, host, guest)


def test_a_kill_loses_no_message_that_was_acknowledged(cast: Cast, deployment: Deployment) -> None:
    room = meet(cast.nasrin, cast.javad, cast.noemie, cast.jules)
    said = []
    for _ in range(5):
        for person in cast.everyone:
            said.append(words(person))
            person.sends(room, said[-1])
    deployment.kill9()
    deployment.start()
    for person in cast.everyone:
        assert person.history(room) == said
    all_read_all(room, *cast.everyone)


def test_a_node_whose_disk_is_away_costs_its_own_people_only(cast: Cast, deployment: Deployment) -> None:
    """Tehran talks on while Paris is away; then Paris reads what it missed, and nobody has to log in again."""
    room = meet(cast.nasrin, cast.javad, cast.noemie, cast.jules)
    all_read_all(room, *cast.everyone)
    away = (cast.noemie, cast.jules)
    for person in away:
        person.goes_offline()
    said = []
    with deployment.without("paris"):
        for writer, reader in ((cast.nasrin, cast.javad), (cast.javad, cast.nasrin)):
            said.append((writer, words(writer)))
            writer.sends(room, said[-1][1])
            reader.sees(room, *said[-1])
        for person in away:
            with pytest.raises(ApiError) as refused:
                person.api.client("GET", "/account/whoami")
            assert refused.value.status == 503
            assert refused.value.body["org.domicile.reason"] == "node_unavailable"
    for person in away:
        person.goes_online()
        for writer, text in said:
            person.sees(room, writer, text)
    all_read_all(room, *cast.everyone)
