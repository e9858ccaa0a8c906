"""Every way in which data may cross a border to or from another server, tried while the policy forbids just that.

A row sets everything up while everything flows, and tries once for each flow that it needs and that is left out: what
left is looked at byte by byte, and so is what rests on the other side and is shown there. Then it tries once more with
all flows, which shows that those bytes would have been found.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from config.load import policy_from_text
from config.residency import FLOWING as CLASSES
from federation import asking_rooms, handshake, port, remote
from homeserver.protocol.errors import Refusal
from homeserver.protocol.versions import VERSIONS
from homeserver.runtime.exchange import Unreachable
from tests.deployment import FLOWING, Answer, User
from tests.e2ee.play import Device, Identity, message
from tests.federation.guests import FEDERATION, asks
from tests.federation.meetings import enter
from tests.federation.test_knocking import KNOCK
from tests.federation.test_media import download, upload
from tests.federation.test_outgoing_edus import be_online, read
from tests.federation.test_spaces import put, space
from tests.federation.test_third_party import ON_BIND, invite_by_address, notice
from tests.federation.test_user_keys import device_of
from tests.media.transfers import picture
from tests.network import Network
from tests.rooms.play import CLIENT, Play, ciphertext
from tests.support import Databases, aio

HERE, THERE = "here.test", "there.test"
DENIED = "403 M_FORBIDDEN"
OUT, IN = "out", "in"
Flow = tuple[str, str]
"""Which way a class of data goes, and the class."""
ROOM: tuple[Flow, ...] = ((OUT, "events"), (OUT, "keys"), (IN, "events"), (IN, "keys"))
"""What a room needs to span both sides."""

PLACES = {
    "by name": (f'[[peers]]\nserver = "{THERE}"\njurisdiction = "DE"\n', "DE"),
    "by suffix": ('[[peers]]\nserver = "*.test"\njurisdiction = "DE"\n', "DE"),
    "unknown": ("", "unknown"),
}
"""How the policy may place the other server: what it says of it, and where it is then."""


@pytest.fixture
def engines(tmp_path: Path) -> Databases:
    """What is asked of the policy does not depend on the database."""
    return Databases("sqlite", tmp_path)


def policy(place: str, *lacking: Flow) -> str:
    """A policy by which everything flows between Iran, France and the other server, but for what is lacking."""
    peers, target = PLACES[place]
    text = FLOWING.replace("[[pins]]", '[jurisdictions.DE]\nname = "Germany"\n[[pins]]', 1) + peers
    for way, source, destination in ((OUT, "IR", target), (IN, target, "IR")):
        left_out = {name for lacks, name in lacking if lacks == way}
        if target == "unknown":  # what may go out to there may come in, too
            left_out |= {name for lacks, name in lacking if lacks == IN}
        classes = orjson.dumps([name for name in CLASSES if name not in left_out]).decode()
        text += f'[[flows]]\nfrom = "{source}"\nto = ["{destination}"]\nclasses = {classes}\nconsent = false\n'
    return text


@dataclass
class Border:
    """Alice of here.test, at home in Tehran, in a room of hers with Bob of there.test. The policy is that of here.test;
    there.test lets everything flow."""

    network: Network
    place: str
    here: Play
    there: Play
    alice: User
    bob: User
    room_id: str
    tries: int = 0

    def forbid(self, *lacking: Flow) -> None:
        """From now on these do not flow, and everything else does."""
        self.here.server.policy.now = policy_from_text(policy(self.place, *lacking), "residency.toml", HERE)

    def left(self, play: Play) -> bytes:
        """What has left a server since the policy changed: bodies, and what it asked for."""
        name = play.server.name
        targets = [each.target.encode() for each in self.network.exchanges if each.source == name]
        return b"\n".join([self.network.bytes_out(name), *targets])

    async def held(self, play: Play) -> bytes:
        """What a server has in its files, and what it shows its user."""
        user = self.alice if play is self.here else self.bob
        shown = await play.ask(user, "GET", "/sync")
        files = sorted(self.network.databases_of(play.server.name).directory.rglob("*"))
        return b"\n".join([orjson.dumps(shown), *(each.read_bytes() for each in files if each.is_file())])


async def meet(network: Network, place: str) -> Border:
    """Found both servers and let them share a room."""
    here, there = await network.found(HERE, policy=policy(place)), await network.found(THERE)
    alice, bob = await here.user("alice"), await there.user("bob")
    room_id = await here.create(alice, preset="public_chat")
    await enter(there, bob, room_id, HERE)
    await network.settle()
    return Border(network, place, here, there, alice, bob, room_id)


async def outcome(asked: Awaitable[object]) -> str:
    """How a question was answered: status and errcode."""
    try:
        answer = await asked
    except (remote.RemoteRefusal, Refusal) as refused:
        return f"{refused.status} {refused.errcode}"
    return f"{answer.status} {answer.errcode or ''}".strip() if isinstance(answer, Answer) else "200"


Attempt = AsyncGenerator[bytes | str, None]
"""Yields the bytes to look for, when everything is set up; goes on when the policy has changed, and yields how that was
answered."""
Try = Callable[[Border, str], Attempt]


@dataclass(frozen=True)
class Row:
    """One hook: how it is tried, which flows it needs, and how it is refused where one is missing.

    ``source``: whose bytes are looked at, ``HERE`` or ``THERE``; None for what is pushed to here, which leaves there
    whatever our policy says. ``target``: on which side nothing may rest; None for what rests nowhere.
    """

    hook: str
    attempt: Try
    needs: tuple[Flow, ...]
    refused: str
    source: str | None = HERE
    target: str | None = None

    @property
    def what(self) -> str:
        """The hook, whoever comes to it."""
        return self.hook.partition(" ")[2]


def quoted(*parts: str) -> str:
    """A path of identifiers."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


def sealed(word: str) -> bytes:
    """What of a message that stands for a word is on the wire, and at rest."""
    return str(ciphertext(word)["ciphertext"]).encode()


# relations ----------------------------------------------------------------------------------


async def our_join(border: Border, word: str) -> Attempt:
    user = await border.here.user(word)
    room_id = await border.there.create(border.bob, preset="public_chat")
    yield user.user_id.encode()
    yield await outcome(user.asks("POST", f"{CLIENT}/join{quoted(room_id)}", {}, via=THERE))


async def their_make_join(border: Border, word: str) -> Attempt:
    room_id = await border.here.create(border.alice, preset="public_chat")
    yield b'"auth_events"'
    yield await outcome(
        asks(border.there, HERE, "GET", f"/make_join{quoted(room_id, border.bob.user_id)}", ver=list(VERSIONS))
    )


async def their_send_join(border: Border, word: str) -> Attempt:
    room_id = await border.here.create(border.alice, preset="public_chat", name=word)
    sending = await handing_in(border, room_id, "join", "v2")
    yield word.encode()
    yield await outcome(sending())


async def our_knock(border: Border, word: str) -> Attempt:
    user = await border.here.user(word)
    room_id = await border.there.create(border.bob, initial_state=KNOCK)
    yield user.user_id.encode()
    yield await outcome(user.asks("POST", f"{CLIENT}/knock{quoted(room_id)}", {}, via=THERE))


async def their_make_knock(border: Border, word: str) -> Attempt:
    room_id = await border.here.create(border.alice, initial_state=KNOCK)
    yield b'"auth_events"'
    yield await outcome(
        asks(border.there, HERE, "GET", f"/make_knock{quoted(room_id, border.bob.user_id)}", ver=list(VERSIONS))
    )


async def their_send_knock(border: Border, word: str) -> Attempt:
    room_id = await border.here.create(border.alice, initial_state=KNOCK, name=word)
    sending = await handing_in(border, room_id, "knock", "v1")
    yield word.encode()
    yield await outcome(sending())


async def handing_in(border: Border, room_id: str, kind: str, version: str) -> Callable[[], Awaitable[object]]:
    """Bob's member event in the place of a template, ready to be handed in."""
    there, user_id = border.there, border.bob.user_id
    template = await handshake.ask_template(there.server, there.node("tehran"), HERE, room_id, user_id, kind)
    event = handshake.fill(there.server, template, room_id, user_id, {"membership": kind})
    target = f"/_matrix/federation/{version}/send_{kind}{quoted(room_id, event.event_id)}"
    return lambda: remote.ask(there.server, HERE, "PUT", target, event.pdu(), most=2**20)


async def our_invitation(border: Border, word: str) -> Attempt:
    room_id = await border.here.create(border.alice, name=word)
    yield word.encode()
    yield await invited(border.alice, room_id, border.bob)


async def their_invitation(border: Border, word: str) -> Attempt:
    room_id = await border.there.create(border.bob, name=word)
    yield word.encode()
    yield await invited(border.bob, room_id, border.alice)


async def invited(inviter: User, room_id: str, user: User) -> str:
    return await outcome(inviter.asks("POST", f"{CLIENT}/rooms{quoted(room_id)}/invite", {"user_id": user.user_id}))


async def our_exchange(border: Border, word: str) -> Attempt:
    user = await border.here.user(word)
    room_id = await border.there.create(border.bob)
    await invite_by_address(border.there, border.bob, room_id)
    yield user.user_id.encode()
    yield await outcome(border.here.deployment.asked("PUT", ON_BIND, notice(room_id, border.bob, user)))


async def their_exchange(border: Border, word: str) -> Attempt:
    room_id = await border.here.create(border.alice, name=word)
    await invite_by_address(border.here, border.alice, room_id)
    yield word.encode()
    yield await outcome(border.there.deployment.asked("PUT", ON_BIND, notice(room_id, border.alice, border.bob)))


async def their_rescission(border: Border, word: str) -> Attempt:
    """An invitation is taken back: the event is one of a room that we are not in."""
    room_id = await border.there.create(border.bob)
    assert await invited(border.bob, room_id, border.alice) == "200"
    yield word.encode()
    body = {"user_id": border.alice.user_id, "reason": word}
    yield await outcome(border.bob.asks("POST", f"{CLIENT}/rooms{quoted(room_id)}/kick", body))


async def our_leave(border: Border, word: str) -> Attempt:
    """Nobody is kept from refusing an invitation: it is done here alone."""
    user = await border.here.user(word)
    room_id = await border.there.create(border.bob)
    assert await invited(border.bob, room_id, user) == "200"
    yield user.user_id.encode()
    yield await outcome(user.asks("POST", f"{CLIENT}/rooms{quoted(room_id)}/leave", {}))


RELATIONS = [
    Row("our make_join and send_join", our_join, ROOM, DENIED, HERE, THERE),
    Row("their make_join", their_make_join, ROOM, DENIED),
    Row("their send_join", their_send_join, ROOM, DENIED),
    Row("our make_knock and send_knock", our_knock, ROOM, DENIED, HERE, THERE),
    Row("their make_knock", their_make_knock, ROOM, DENIED),
    Row("their send_knock", their_send_knock, ROOM, DENIED),
    Row("our invite", our_invitation, ROOM, DENIED, HERE, THERE),
    Row("their invite", their_invitation, ROOM, DENIED, None, HERE),
    Row("our exchange_third_party_invite", our_exchange, ROOM, "200", HERE, THERE),
    Row("their exchange_third_party_invite", their_exchange, ROOM, "200", HERE, THERE),
    Row("our make_leave and send_leave", our_leave, ((OUT, "events"),), "200"),
    Row("their invite, taken back", their_rescission, ((IN, "events"),), "200", None, HERE),
]

# what is sent unasked -----------------------------------------------------------------------


def pushed(
    attempt: Callable[[Border, Play, User, str], Attempt], hook: str, of: str, refused: str = "200"
) -> list[Row]:
    """A row for what our user does, and one for what theirs does. Only our own user can be refused anything."""

    def ours(border: Border, word: str) -> Attempt:
        return attempt(border, border.here, border.alice, word)

    def theirs(border: Border, word: str) -> Attempt:
        return attempt(border, border.there, border.bob, word)

    return [
        Row(f"our {hook}", ours, ((OUT, of),), refused, HERE, THERE),
        Row(f"their {hook}", theirs, ((IN, of),), "200", None, HERE),
    ]


async def event(border: Border, play: Play, user: User, word: str) -> Attempt:
    yield sealed(word)
    await play.send(user, border.room_id, word)
    yield "200"


async def typing(border: Border, play: Play, user: User, word: str) -> Attempt:
    path = f"/rooms{quoted(border.room_id)}/typing{quoted(user.user_id)}"
    await play.ask(user, "PUT", path, {"typing": False})
    yield b"m.typing"
    await play.ask(user, "PUT", path, {"typing": True})
    yield "200"


async def receipt(border: Border, play: Play, user: User, word: str) -> Attempt:
    event_id = await play.send(user, border.room_id, word)
    yield b"m.receipt"
    await read(play, user, border.room_id, event_id)
    yield "200"


async def shows(border: Border, play: Play, user: User, word: str) -> Attempt:
    yield word.encode()
    await be_online(play, user, status_msg=word)
    yield "200"


async def to_device(border: Border, play: Play, user: User, word: str) -> Attempt:
    other = border.bob if user is border.alice else border.alice
    yield base64.b64encode(word.encode())
    yield await outcome(Device(user).send(word, {other.user_id: {other.device_id: message(word)}}))


async def device_list(border: Border, play: Play, user: User, word: str) -> Attempt:
    await known(border, user)
    yield word.encode()
    login = await play.deployment.login(user, device_id=word)
    await Device(User(play.deployment, user.user_id, word, login.json["access_token"])).publish()
    yield "200"


async def signing_keys(border: Border, play: Play, user: User, word: str) -> Attempt:
    other = await play.user(word)
    await enter(play, other, border.room_id, HERE)
    await border.network.settle()
    await known(border, other)
    identity = Identity(other.user_id)
    yield identity.master.verify_key.base64.encode()
    yield await outcome(Device(other).asks("POST", "/keys/device_signing/upload", identity.upload()))


async def known(border: Border, user: User) -> None:
    """Let the other side have a copy of a user's keys, which it is told the changes of."""
    reader = border.bob if user.deployment is border.here.deployment else border.alice
    await Device(reader).query(user)


PUSHED = [
    *pushed(event, "PDUs", "events"),
    *pushed(typing, "m.typing", "receipts"),
    *pushed(receipt, "m.receipt", "receipts"),
    *pushed(shows, "m.presence", "presence"),
    *pushed(to_device, "m.direct_to_device", "keys", DENIED),
    *pushed(device_list, "m.device_list_update", "keys"),
    *pushed(signing_keys, "m.signing_key_update", "keys"),
]

# rooms that both are in ---------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """One question about the graph of a room: how they ask it, how we do, and what of the answer is looked for.

    Both ask about the event that sets the topic to a word, and about one that follows it.
    """

    hook: str
    theirs: Callable[[Border, str, str], Awaitable[object]]
    ours: Callable[[Border, str, str], Awaitable[object]]
    mark: Callable[[str, str], bytes]
    refused: str = DENIED
    found_none: str = DENIED

    def rows(self) -> list[Row]:
        """What they ask and what we ask."""
        return [
            Row(f"their {self.hook}", self.asked(self.theirs), ((OUT, "events"),), self.refused, HERE),
            Row(f"our {self.hook}", self.asked(self.ours), ((IN, "events"),), self.found_none, THERE),
        ]

    def asked(self, ask: Callable[[Border, str, str], Awaitable[object]]) -> Try:
        """How that is tried."""

        async def attempt(border: Border, word: str) -> Attempt:
            path = f"/rooms{quoted(border.room_id)}/state/m.room.topic"
            event_id = str((await border.here.ask(border.alice, "PUT", path, {"topic": word}))["event_id"])
            later = await border.here.send(border.alice, border.room_id, "later")
            await border.network.settle()
            yield self.mark(word, event_id)
            yield await outcome(ask(border, event_id, later))

        return attempt


def theirs(verb: str, path: str, **query: Any) -> Callable[[Border, str, str], Awaitable[object]]:
    """A question of theirs: ``{room}``, ``{event}`` and ``{later}`` are filled in."""

    def ask(border: Border, event_id: str, later: str) -> Awaitable[object]:
        ids = {"room": border.room_id, "event": event_id, "later": later}
        where = path.format(**{name: quote(each, safe="") for name, each in ids.items()})
        filled = {name: value.format(**ids) if isinstance(value, str) else value for name, value in query.items()}
        content = None if verb == "GET" else {"earliest_events": [], "latest_events": [later], "limit": 1}
        return asks(border.there, HERE, verb, where, content, **filled)

    return ask


def ours(
    ask: Callable[..., Awaitable[object]], *what: str, **more: Any
) -> Callable[[Border, str, str], Awaitable[object]]:
    """A question of ours; ``what`` and the values of ``more`` are filled in, where they are names of ids."""

    def asked(border: Border, event_id: str, later: str) -> Awaitable[object]:
        ids = {"room": border.room_id, "event": event_id, "[event]": [event_id], "[later]": [later], "later": later}
        named = {name: ids[value] if isinstance(value, str) else value for name, value in more.items()}
        return ask(border.here.server, border.here.node("tehran"), THERE, *(ids[each] for each in what), **named)

    return asked


async def taken(pdus: list[Any]) -> None:
    assert pdus


async def nearest(server: Any, node: Any, destination: str, room_id: str) -> object:
    return await port.fetch_nearest(server, node, room_id, 0, None, backwards=False)


def the_word(word: str, event_id: str) -> bytes:
    return word.encode()


def the_id(word: str, event_id: str) -> bytes:
    return event_id.encode()


READINGS = [
    Reading(
        "backfill",
        theirs("GET", "/backfill/{room}", v="{event}", limit=1),
        ours(asking_rooms.backfill, "room", before="[event]", limit=1),
        the_word,
    ),
    Reading(
        "state",
        theirs("GET", "/state/{room}", event_id="{later}"),
        ours(asking_rooms.whole_state, "room", "later", take=taken),
        the_word,
    ),
    Reading(
        "state_ids",
        theirs("GET", "/state_ids/{room}", event_id="{later}"),
        ours(asking_rooms.state_ids, "room", "later"),
        the_id,
    ),
    Reading(
        "event",
        theirs("GET", "/event/{event}"),
        ours(asking_rooms.event, "event"),
        the_word,
        "404 M_NOT_FOUND",
    ),
    Reading(
        "event_auth",
        theirs("GET", "/event_auth/{room}/{event}"),
        ours(asking_rooms.event_auth, "room", "event", take=taken),
        lambda word, event_id: b'"auth_chain"',
    ),
    Reading(
        "get_missing_events",
        theirs("POST", "/get_missing_events/{room}"),
        ours(asking_rooms.missing_events, "room", latest="[later]", earliest=[], limit=1),
        the_word,
    ),
    Reading(
        "timestamp_to_event",
        theirs("GET", "/timestamp_to_event/{room}", ts=0, dir="f"),
        ours(nearest, "room"),
        lambda word, event_id: b'"event_id"',
        found_none="200",
    ),
]

# questions ----------------------------------------------------------------------------------


async def their_media(border: Border, word: str) -> Attempt:
    media_id = await upload(border.alice, word.encode(), "text/plain")
    yield word.encode()
    yield await downloaded(border.bob, media_id, HERE)


async def our_media(border: Border, word: str) -> Attempt:
    media_id = await upload(border.bob, word.encode(), "text/plain")
    yield word.encode()
    yield await downloaded(border.alice, media_id, THERE)


async def downloaded(user: User, media_id: str, server_name: str) -> str:
    got = await download(user, media_id, server_name)
    return f"{got.status} {got.errcode or ''}".strip()


async def their_thumbnail(border: Border, word: str) -> Attempt:
    media_id = await upload(border.alice, picture(40, 40))
    yield b"thumbnail."
    target = f"{FEDERATION}/media/thumbnail{quoted(media_id)}?width=8&height=8"
    try:
        yield await outcome(remote.ask(border.there.server, HERE, "GET", target, most=2**20))
    except Unreachable:
        yield "200"  # it is no JSON


async def their_profile(border: Border, word: str) -> Attempt:
    user = await border.here.user(word)
    await named(border.here, user, word)
    yield word.encode()
    yield await outcome(asks(border.there, HERE, "GET", "/query/profile", user_id=user.user_id))


async def our_profile(border: Border, word: str) -> Attempt:
    user = await border.there.user(word)
    await named(border.there, user, word)
    yield word.encode()
    yield await outcome(border.alice.asks("GET", f"{CLIENT}/profile{quoted(user.user_id)}"))


async def named(play: Play, user: User, name: str) -> None:
    await play.ask(user, "PUT", f"/profile{quoted(user.user_id)}/displayname", {"displayname": name})


async def their_devices(border: Border, word: str) -> Attempt:
    device = await device_of(border.here, word)
    yield device.curve.encode()
    yield await outcome(asks(border.there, HERE, "GET", f"/user/devices{quoted(device.user_id)}"))


async def our_devices(border: Border, word: str) -> Attempt:
    device = await device_of(border.there, word)
    yield device.curve.encode()
    yield await outcome(port.device_list(border.here.server, border.here.node("tehran"), device.user_id))


async def their_key_query(border: Border, word: str) -> Attempt:
    device = await device_of(border.here, word)
    yield device.curve.encode()
    wanted: dict[str, Any] = {"device_keys": {device.user_id: []}}
    yield await outcome(asks(border.there, HERE, "POST", "/user/keys/query", wanted))


async def our_key_query(border: Border, word: str) -> Attempt:
    device = await device_of(border.there, word)
    yield device.curve.encode()
    yield failed(await Device(border.alice).query(device))


async def their_claim(border: Border, word: str) -> Attempt:
    device = await claimable(border.here, word)
    yield word.encode()
    wanted = {"one_time_keys": {device.user_id: {device.device_id: "signed_curve25519"}}}
    yield await outcome(asks(border.there, HERE, "POST", "/user/keys/claim", wanted))


async def our_claim(border: Border, word: str) -> Attempt:
    device = await claimable(border.there, word)
    yield f"signed_curve25519:{word}".encode()
    yield failed(await Device(border.alice).claim(device))


async def claimable(play: Play, word: str) -> Device:
    """Somebody whose one-time key has a word for its name."""
    device = Device(await play.user(f"owner-{word[-2:]}"))
    await device.publish(one_time_keys=device.one_time_keys(word))
    return device


def failed(answer: dict[str, Any]) -> str:
    """What a client is told of keys that were not to be had."""
    found = answer["failures"].get(THERE)
    return "200" if found is None else f"200, {found['org.domicile.reason']}"


async def their_alias(border: Border, word: str) -> Attempt:
    room_id = await border.here.create(border.alice, room_alias_name=word)
    yield room_id.encode()
    yield await outcome(asks(border.there, HERE, "GET", "/query/directory", room_alias=f"#{word}:{HERE}"))


async def our_alias(border: Border, word: str) -> Attempt:
    room_id = await border.there.create(border.bob, room_alias_name=word)
    yield room_id.encode()
    yield await outcome(border.alice.asks("GET", f"{CLIENT}/directory/room{quoted(f'#{word}:{THERE}')}"))


async def their_public_rooms(border: Border, word: str) -> Attempt:
    await border.here.create(border.alice, visibility="public", name=word)
    yield word.encode()
    yield await outcome(asks(border.there, HERE, "GET", "/publicRooms"))


async def our_public_rooms(border: Border, word: str) -> Attempt:
    await border.there.create(border.bob, visibility="public", name=word)
    yield word.encode()
    yield await outcome(border.alice.asks("POST", f"{CLIENT}/publicRooms?server={THERE}", {}))


async def their_hierarchy(border: Border, word: str) -> Attempt:
    room_id = await space(border.here, border.alice, word)
    yield word.encode()
    yield await outcome(asks(border.there, HERE, "GET", f"/hierarchy{quoted(room_id)}"))


async def our_hierarchy(border: Border, word: str) -> Attempt:
    root = await space(border.there, border.bob, word)
    mine = await space(border.here, border.alice, "mine")
    await put(border.here, border.alice, mine, root, THERE)
    yield word.encode()
    yield await outcome(border.alice.asks("GET", f"/_matrix/client/v1/rooms{quoted(mine)}/hierarchy"))


async def our_summary(border: Border, word: str) -> Attempt:
    room_id = await border.there.create(border.bob, preset="public_chat", name=word)
    yield word.encode()
    yield await outcome(border.alice.asks("GET", f"/_matrix/client/v1/room_summary{quoted(room_id)}", via=THERE))


def question(hook: str, of: str, attempt: Try, refused: str, *, held: bool = False) -> Row:
    """A row of a question: of theirs, which is refused by us, or of ours, which is not asked at all."""
    if hook.startswith("their"):
        return Row(hook, attempt, ((OUT, of),), refused, HERE, THERE if held else None)
    return Row(hook, attempt, ((IN, of),), refused, THERE, HERE if held else None)


FAILED = "200, flow_denied"
QUESTIONS = [
    question("their media/download", "media", their_media, DENIED, held=True),
    question("our media/download", "media", our_media, DENIED, held=True),
    question("their media/thumbnail", "media", their_thumbnail, DENIED),
    question("their query/profile", "profile", their_profile, DENIED),
    question("our query/profile", "profile", our_profile, DENIED),
    question("their user/devices", "keys", their_devices, DENIED),
    question("our user/devices", "keys", our_devices, DENIED),
    question("their user/keys/query", "keys", their_key_query, DENIED),
    question("our user/keys/query", "keys", our_key_query, FAILED),
    question("their user/keys/claim", "keys", their_claim, "200"),
    question("our user/keys/claim", "keys", our_claim, FAILED),
    question("their query/directory", "events", their_alias, DENIED),
    question("our query/directory", "events", our_alias, DENIED),
    question("their publicRooms", "events", their_public_rooms, "200"),
    question("our publicRooms", "events", our_public_rooms, DENIED),
    question("their hierarchy", "events", their_hierarchy, DENIED),
    question("our hierarchy", "events", our_hierarchy, "200"),
    question("our hierarchy, for a room summary", "events", our_summary, "404 M_NOT_FOUND"),
]

# the table ----------------------------------------------------------------------------------

QUIET = [*RELATIONS, *(row for reading in READINGS for row in reading.rows()), *QUESTIONS]
"""Rows that do not mind what others before them did."""
TABLE = [
    *([row] for row in PUSHED),
    *([row for row in QUIET if row.what == what] for what in dict.fromkeys(row.what for row in QUIET)),
]
"""The rows that share a network: ours and theirs, where that is safe."""


@pytest.mark.parametrize(
    ("rows", "place"),
    [
        pytest.param(rows, place, id=f"{', '.join(row.hook for row in rows)} ({place})")
        for number, rows in enumerate(TABLE)
        for place in [list(PLACES)[number % len(PLACES)]]
    ],
)
@aio
async def test_what_may_not_cross_does_not(network: Network, rows: list[Row], place: str) -> None:
    border = await meet(network, place)
    for row in rows:
        await kept_apart(border, row)


async def kept_apart(border: Border, row: Row) -> None:
    """Nothing crosses while a flow is missing that a row needs; with all flows it does."""
    plays = border.network.plays
    for flow in row.needs:
        answer, mark = await tried(border, row, "kestrel", flow)
        assert answer == row.refused, (row.hook, flow)
        if row.source is not None:
            assert mark not in border.left(plays[row.source]), (row.hook, flow)
        if row.source == THERE:
            assert border.network.exchanges == [], "what may not come in is not asked for"
        if row.target is not None:
            assert mark not in await border.held(plays[row.target]), (row.hook, flow)
    _, mark = await tried(border, row, "heron")
    if row.source is not None:
        assert mark in border.left(plays[row.source]), row.hook
    if row.target is not None:
        assert mark in await border.held(plays[row.target]), row.hook


async def tried(border: Border, row: Row, bird: str, *lacking: Flow) -> tuple[str, bytes]:
    """Try what a row says, with a word that nobody has used; how it was answered, and the bytes to look for."""
    border.tries += 1
    word = f"{bird}{border.tries:02}"
    border.forbid()
    await border.network.clock.advance(1)  # so that no transaction is the same as an earlier one
    async with aclosing(row.attempt(border, word)) as attempt:
        mark = await anext(attempt)
        await border.network.settle()
        border.forbid(*lacking)
        border.network.exchanges.clear()
        answer = await anext(attempt)
        await border.network.settle()
    assert isinstance(mark, bytes)
    assert isinstance(answer, str)
    return answer, mark


@aio
async def test_a_device_list_of_which_no_changes_may_come_in_is_shown_no_more(network: Network) -> None:
    border = await meet(network, "by name")
    alice, bob = Device(border.alice), Device(border.bob)
    await bob.publish()
    await border.network.settle()
    assert set((await alice.query(bob))["device_keys"][bob.user_id]) == {bob.device_id}
    border.forbid((IN, "keys"))
    laptop = await bob.another()
    await laptop.publish()
    await border.network.settle()
    answer = await alice.query(bob)
    assert (answer["device_keys"], failed(answer)) == ({}, FAILED)
    border.forbid()
    assert set((await alice.query(bob))["device_keys"][bob.user_id]) == {bob.device_id, laptop.device_id}


# whose events they are ----------------------------------------------------------------------


def from_france(*lacking: str) -> str:
    """A policy by which everything flows to and from the other server, but what is lacking from France."""
    classes = orjson.dumps([name for name in CLASSES if name not in lacking]).decode()
    return (
        policy("by name")
        + f'[[flows]]\nfrom = "FR"\nto = ["DE"]\nclasses = {classes}\nconsent = false\n'
        + '[[flows]]\nfrom = "DE"\nto = ["FR"]\nclasses = ["*"]\nconsent = false\n'
    )


async def with_france(network: Network) -> tuple[Border, User]:
    """The border, with Dora of here.test, at home in Paris, in the room that is at home in Tehran."""
    here, there = await network.found(HERE, policy=from_france()), await network.found(THERE)
    alice, dora, bob = await here.user("alice"), await here.user("dora", "paris"), await there.user("bob")
    room_id = await here.create(alice, preset="public_chat")
    await here.change(dora, room_id, "join")
    await enter(there, bob, room_id, HERE)
    await network.settle()
    return Border(network, "by name", here, there, alice, bob, room_id), dora


def change_policy(border: Border, text: str) -> None:
    border.here.server.policy.now = policy_from_text(text, "residency.toml", HERE)


@pytest.mark.parametrize("away", [False, True])
@aio
async def test_an_event_goes_where_its_author_s_node_may_send_it(network: Network, away: bool) -> None:
    border, dora = await with_france(network)
    if away:  # what is sent is read from the database then
        network.cut(HERE, THERE)
    change_policy(border, from_france("events"))
    await border.here.send(border.alice, border.room_id, "heron")
    await border.here.send(dora, border.room_id, "kestrel")
    await border.here.settle()
    if away:
        await network.settle()
        network.mend(HERE, THERE)
        await network.clock.advance(10)
    await network.settle()
    assert sealed("heron") in border.left(border.here)
    assert sealed("kestrel") not in border.left(border.here)
    assert await border.here.texts(border.alice, border.room_id) == ["heron", "kestrel"]
    assert border.here.server.telemetry.counter("domicile_federation_withheld", "", ["class"]).value("events") == 1
    change_policy(border, from_france())
    await border.here.send(dora, border.room_id, "osprey")
    await network.settle()
    assert sealed("osprey") in border.left(border.here)


@aio
async def test_what_an_author_s_node_may_not_send_is_not_given_either(network: Network) -> None:
    border, dora = await with_france(network)
    for user, word in ((border.alice, "heron"), (dora, "kestrel")):
        await border.here.send(user, border.room_id, word)
    await border.here.change(dora, border.room_id, "leave")
    await border.here.settle()
    last = await border.here.send(border.alice, border.room_id, "osprey")
    await network.settle()
    network.exchanges.clear()
    carols = [await border.there.user(f"carol{number}") for number in range(2)]
    room = quoted(border.room_id)
    between = {"earliest_events": [], "latest_events": [last], "limit": 50}

    async def tries() -> list[str]:
        asked: list[Awaitable[object]] = [
            asks(border.there, HERE, "GET", f"/backfill{room}", v=last, limit=100),
            asks(border.there, HERE, "POST", f"/get_missing_events{room}", between),
            asks(border.there, HERE, "GET", f"/state{room}", event_id=last),
            asks(border.there, HERE, "GET", f"/state_ids{room}", event_id=last),
            asks(border.there, HERE, "GET", f"/event_auth{room}{quoted(last)}"),
            asks(
                border.there, HERE, "GET", f"/make_join{quoted(border.room_id, border.bob.user_id)}", ver=list(VERSIONS)
            ),
        ]
        return [await outcome(each) for each in asked] + [await invited(border.alice, border.room_id, carols.pop())]

    change_policy(border, from_france("events"))
    assert await tries() == ["200", "200", DENIED, DENIED, DENIED, DENIED, DENIED]
    assert sealed("heron") in border.left(border.here)
    assert sealed("kestrel") not in border.left(border.here)
    assert dora.user_id.encode() not in network.bytes_out(HERE)
    change_policy(border, from_france())
    assert await tries() == ["200"] * 7
    assert sealed("kestrel") in border.left(border.here)
