"""Being a witness of the logs of others: their checkpoints are signed if they go on from what was signed last.

Invariant: what is signed was written down before, in one step with the comparison with what was signed last. So there
are no two signatures here that do not go on from each other, whoever asks at once and wherever this is cut off.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any, Final

from homeserver.protocol import checkpoints, signed_notes
from homeserver.protocol import witnessing as rules
from homeserver.protocol.branching import Fork
from homeserver.protocol.checkpoints import Head
from homeserver.protocol.errors import InvalidParam, NotFound
from homeserver.protocol.log_alarms import Side
from homeserver.protocol.merkle import EMPTY_ROOT
from homeserver.protocol.signed_notes import COSIGNATURE, ED25519, InvalidNote, NamedKey, Note
from homeserver.protocol.witnessing import Behind, Contradicted, Submission, Unbelieved, UnknownLog, Unproved
from homeserver.runtime.exchange import Unreachable
from homeserver.runtime.outbound import own_place
from homeserver.storage import refused_checkpoints, signed_checkpoints, witnessed_logs
from homeserver.transparency import alarms, heads, suspecting

if TYPE_CHECKING:
    from collections.abc import Iterable

    from homeserver.context import Server
    from homeserver.protocol.checkpoints import Checkpoint
    from homeserver.protocol.log_alarms import Link
    from homeserver.storage.engine import Transaction
    from homeserver.storage.witnessed_logs import Witnessed

PATH: Final = "/_domicile/v1/witness"
AGAIN: Final = 60
"""Seconds for which the same checkpoint is answered with the same signature."""
LARGEST: Final = 64 * 1024
"""Bytes of a checkpoint."""
SECONDS: Final = 10.0
"""How long a log is waited for."""
EMPTY: Final = Head(0, EMPTY_ROOT)


def name_of(server: Server) -> str:
    """What the deployment is called as a witness."""
    return f"{server.name}{PATH}"


def url_of(server: Server) -> str:
    """Where the deployment is asked as a witness."""
    return f"{(server.settings.public_base_url or '').rstrip('/')}{PATH}"


def public_key(server: Server) -> NamedKey:
    """What the deployment's signatures as a witness are believed by."""
    return signed_notes.public_key(name_of(server), server.identity.witness_key, COSIGNATURE)


async def sign(server: Server, raw: bytes) -> bytes:
    """The answer to a request for a signature. Raises InvalidNote for what is none, NotSigned, NodeUnavailable."""
    submission = rules.read(raw)
    origin = submission.note.text.partition("\n")[0]
    while True:
        held = await server.nodes.directory.engine.read(witnessed_logs.of, origin)
        if held is None or held.removed_ts is not None:
            raise UnknownLog("This log is not witnessed here")
        try:
            made = rules.judge(submission, NamedKey.read(held.key), held.head)
        except Contradicted as fault:
            assert held.note is not None  # nothing contradicts the log without leaves
            await _accuse(server, held, signed_notes.read(held.note), submission.note, fault.fork)
            raise
        except Behind:
            await look_back(server, held, submission.note)
            raise
        except Unproved as fault:
            if held.refusal is None:
                await server.nodes.directory.engine.write(
                    witnessed_logs.note_refusal, origin, server.clock.now_ms(), str(fault)
                )
            await suspecting.keep(server, held, submission.note)
            raise
        line = await _signed(server, held, submission, made)
        if line is not None:
            return line.encode()


async def _signed(server: Server, held: Witnessed, submission: Submission, made: Checkpoint) -> str | None:
    """The line that is answered, once it is written down; None when somebody was quicker."""
    now = server.clock.now_ms() // 1000
    if held.note is not None and made.head == held.head and 0 <= now - held.cosigned_at < AGAIN:
        same = signed_notes.read(held.note)
        if same.text == submission.note.text:
            return same.signatures[-1].write()
    seconds = max(now, held.cosigned_at)  # a clock that was set back does not show in a signature
    ours = checkpoints.cosigned(submission.note, name_of(server), server.identity.witness_key, seconds)
    note = Note(submission.note.text, (_by_log(submission.note, held), ours))
    written = await server.nodes.directory.engine.write(_note, held, made.head, note.write(), seconds)
    return ours.write() if written else None


def _by_log(note: Note, held: Witnessed) -> signed_notes.Signature:
    """The log's own signature: what else is under it was put there by who knows whom."""
    ((_, signature),) = signed_notes.believed(note, [NamedKey.read(held.key)])
    return signature


async def _note(tx: Transaction, held: Witnessed, head: Head, note: bytes, seconds: int) -> bool:
    if await alarms.about(tx, held.origin, Side.WITNESS) is not None:
        raise Unbelieved("This log has contradicted itself: nothing of it is signed until the operator here says so")
    if not await witnessed_logs.advance(tx, held, head, note, seconds):
        return False
    await signed_checkpoints.add(tx, held.origin, head.size, note)
    return True


async def look_back(server: Server, held: Witnessed, shown: Note, *, ask: bool = True) -> None:
    """Hold a checkpoint, which the log has signed, against what was signed here when the log had as many leaves. Where
    nothing was, the log is asked (later), unless ``ask`` is false. Raises NodeUnavailable."""
    made = checkpoints.read(shown.text).head
    note = await server.nodes.directory.engine.read(signed_checkpoints.up_to, held.origin, made.size)
    before = None if note is None else signed_notes.read(note)
    was = EMPTY if before is None else checkpoints.read(before.text).head
    if before is None or was.size < made.size:
        if ask:
            await suspecting.keep(server, held, shown)
    elif was.root != made.root:
        await _accuse(server, held, before, shown, Fork(made.root, ()))


async def _accuse(server: Server, held: Witnessed, before: Note, shown: Note, fork: Fork) -> None:
    """Keep both checkpoints, which the log has signed, and of which one is a lie."""
    engine = server.nodes.directory.engine
    if await engine.read(alarms.about, held.origin, Side.WITNESS) is not None:
        return  # anybody may say it again, as often as they like
    alarm = alarms.against(held.key, before, Note(shown.text, (_by_log(shown, held),)), fork)
    if await engine.write(_sound, server, alarm):
        heads.stir(server)


async def _sound(tx: Transaction, server: Server, alarm: Link) -> bool:
    if not await alarms.sound(tx, server, alarm):
        return False
    said = "The log has signed two checkpoints that cannot both be true"
    await witnessed_logs.note_refusal(tx, alarm.origin, server.clock.now_ms(), said)
    return True


async def checkpoint(server: Server, place: str) -> bytes:
    """The newest checkpoint of a log that was signed here, with our signature; also of one that is witnessed no more.

    Raises NotFound.
    """
    found = await server.nodes.directory.engine.read(witnessed_logs.at, place)
    if found is None or found.note is None:
        raise NotFound("No checkpoint of that log was signed here")
    return found.note


# which logs ---------------------------------------------------------------------------------


async def add(server: Server, log: str, key: str) -> str:
    """Witness the log that signs with this key, from now on; returns what it is called. Raises InvalidParam.

    ``log``: what it is called, or the address at which it is served, whose checkpoint is looked at then, and where it
    is looked at later what became of it: without one, beside another log of that deployment. One that was witnessed
    before goes on from what was signed then.
    """
    try:
        named = NamedKey.read(key)
    except InvalidNote as fault:
        raise InvalidParam(str(fault)) from None
    if named.kind != ED25519:
        raise InvalidParam("That is the key of a witness, not of a log")
    origin = named.name
    url = log.rstrip("/") if "://" in log else None
    if url is not None:
        await _look(server, url, named)
    elif log != origin:
        raise InvalidParam(f"That is the key of the log {origin}")
    if origin.partition("/")[0] == server.name:
        raise InvalidParam("Nobody is a witness of their own logs")
    directory = server.nodes.directory.engine
    held = await directory.read(witnessed_logs.of, origin)
    if held is not None and held.key != named.write():
        raise InvalidParam(f"{origin} was witnessed with another key, and has to go on with that: {held.key}")
    if url is None and (held is None or held.url is None):
        url = _beside(await directory.read(witnessed_logs.all_of_them), origin)
    place = rules.place_of(origin)
    await directory.write(witnessed_logs.add, origin, place, named.write(), EMPTY, server.clock.now_ms(), url)
    return origin


def _beside(logs: Iterable[Witnessed], origin: str) -> str | None:
    """Where a log is read, if another is known whose name, and address, differ in the last part alone."""
    site, _, label = origin.rpartition("/")
    for each in logs:
        other, _, last = each.origin.rpartition("/")
        if other == site and each.url is not None and each.url.endswith(f"/{last}"):
            return each.url.removesuffix(last) + label
    return None


async def _look(server: Server, url: str, key: NamedKey) -> None:
    """Raise InvalidParam unless a log with this key is served there."""
    try:
        place, target = own_place(f"{url}/checkpoint")
        answer = await server.outbound.request("GET", place, target, most=LARGEST, seconds=SECONDS)
        if answer.status != 200:
            raise InvalidParam(f"There is no checkpoint at {url}: status {answer.status}")
        checkpoints.opened(signed_notes.read(answer.body), key)
    except Unreachable as fault:
        raise InvalidParam(f"{url} cannot be reached: {fault}") from None
    except InvalidNote as fault:
        raise InvalidParam(f"The log at {url} has another key: {fault}") from None


async def remove(server: Server, origin: str) -> None:
    """Sign nothing more of a log. What was signed stays, and alarms about it. Raises InvalidParam."""
    if not await server.nodes.directory.engine.write(witnessed_logs.remove, origin, server.clock.now_ms()):
        raise InvalidParam(f"{origin} is not witnessed here; see `domicile log witness list`")


async def logs(server: Server) -> list[dict[str, Any]]:
    """The logs that are or were witnessed, how far each was signed, and what it has signed besides that is not
    explained."""
    directory = server.nodes.directory.engine
    unexplained = await directory.read(refused_checkpoints.counts)
    return [
        {
            "origin": each.origin,
            "key": each.key,
            "size": each.head.size,
            "root": b64encode(each.head.root).decode(),
            "cosigned_at": each.cosigned_at if each.note is not None else None,
            "witnessed": each.removed_ts is None,
            "refused_since": None if each.refused_ts is None else each.refused_ts // 1000,
            "refusal": each.refusal,
            "unexplained": unexplained.get(each.origin, 0),
        }
        for each in await directory.read(witnessed_logs.all_of_them)
    ]


async def overview(server: Server) -> dict[str, Any]:
    """What the deployment is as a witness, for everybody."""
    return {"key": public_key(server).write(), "url": url_of(server), "logs": await logs(server)}
