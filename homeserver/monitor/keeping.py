"""Watching over the keys of one user: all changes of them in all logs of a deployment, and whether what is shown now is
what the logs say.

What was seen is kept between two looks, so that a history that is exchanged meanwhile shows: what a log has signed once
it can never take back.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from hashlib import sha256
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from homeserver.monitor import following
from homeserver.monitor.following import Contradiction, Fetch, Followed, Own
from homeserver.monitor.seen import Report, Seen, Shown
from homeserver.protocol import canonical, key_log, merkle, vrf
from homeserver.protocol.key_log import Leaf, NoLeaf, Reason
from homeserver.protocol.merkle import InvalidProof, leaf_hash
from homeserver.protocol.signed_notes import InvalidNote, NamedKey
from homeserver.protocol.signing import encode_base64
from homeserver.protocol.vrf import InvalidVrfProof

LOGS: Final = "/_domicile/v1/key-log"
FIELD: Final = "org.domicile.key_log"
MOST_JSON: Final = 16 * 2**20
PATIENCE: Final = 3600
"""Seconds in which a leaf that was told has to be in the tree, and a checkpoint that was shown with keys be reached by
the one that everybody is served: that may be an older one for a moment, which more witnesses have signed."""


def look(seen: Seen, fetch: Fetch, answer: dict[str, Any], now: int, witnesses: tuple[NamedKey, ...] = ()) -> Report:
    """Read all logs from where they were read last, and compare what is shown of the user with them.

    ``answer``: of `/keys/query`, or of the address for proofs: asked for just now. ``seen`` is brought up to date, but
    for logs that contradict themselves: those are compared with the same again. Raises what ``fetch`` raises.
    """
    report = Report()
    try:
        about = orjson.loads(fetch(LOGS, MOST_JSON))
        listed = {str(each["origin"]): each for each in about["logs"]}
        ended = {str(each["origin"]): each for each in about["ended"]}
    except (ValueError, KeyError, TypeError):
        report.faults.append("what is said of the logs cannot be read")
        return report
    _compare_list(seen, report, listed, ended)
    _name_alarms(report, about)
    told = answer.get(FIELD)
    told = told if isinstance(told, dict) else {}
    for origin, each in listed.items():
        _follow(seen, report, fetch, each, told.get(origin), now, witnesses)
    _check_now(seen, report, answer, told, now)
    for origin, log in seen.logs.items():
        head = {"origin": origin, "size": log.tree.size, "witnesses": list(log.witnesses)}
        report.logs.append(head)
        report.changes += [_change(origin, own) for own in log.mine]
    report.changes.sort(key=lambda change: (change["time"], change["log"], change["index"]))
    return report


def _compare_list(seen: Seen, report: Report, listed: dict[str, Any], ended: dict[str, Any]) -> None:
    """That no log is gone or has another key since the last look."""
    for origin, log in list(seen.logs.items()):
        if origin in listed:
            if (listed[origin].get("key"), listed[origin].get("vrf")) != (log.key, log.vrf):
                report.faults.append(f"{origin}: its keys are others than before")
        elif origin not in ended:
            report.faults.append(f"{origin}: the log is gone")
        elif origin not in seen.ended:
            last = ended[origin]
            report.faults.append(
                f"{origin}: the log was ended at {last.get('size')} leaves, and had {log.tree.size} when it was seen"
                f" last; what is said of that: {last.get('reason')}"
            )
            seen.ended.append(origin)
        else:
            report.notes.append(f"{origin} has ended: {ended[origin].get('reason')}")


def _name_alarms(report: Report, about: dict[str, Any]) -> None:
    """What witnesses have caught of these logs, as far as the deployment says it itself."""
    for each in about.get("alarms") or []:
        if not isinstance(each, dict) or each.get("side") != "log":
            continue
        said = f"alarm {each.get('number')} about {each.get('origin')}: {each.get('kind')}"
        ended = each.get("ended")
        if isinstance(ended, dict):
            report.notes.append(f"{said}; ended: {ended.get('reason')}")
        else:
            report.faults.append(said)
    report.faults += [str(each) for each in about.get("alarm_faults") or []]


def _follow(
    seen: Seen,
    report: Report,
    fetch: Fetch,
    each: dict[str, Any],
    told: Any,
    now: int,
    witnesses: tuple[NamedKey, ...],
) -> None:
    origin = str(each["origin"])
    try:
        log = seen.logs.get(origin) or Followed(str(each["key"]), str(each["vrf"]))
        if log.origin != origin:
            raise Contradiction("its key is called otherwise")
        tag = key_log.tag_of(vrf.output(b64decode(log.vrf), seen.user_id.encode(), b64decode(seen.opening)))
        shown = [each for each in seen.shown if each.origin == origin]
        if (checkpoint := _checkpoint(told, seen.user_id)) is not None:
            size, root = following.believed(log, checkpoint)
            shown.append(Shown(origin, size, encode_base64(root), now))
        roots = {each.size: b"" for each in shown}
        path = urlsplit(str(each["url"])).path
        read = following.advance(log, path, fetch, tag, witnesses=witnesses, roots=roots)
        if any(size < log.tree.size for size in roots):  # an older one, as copies on other nodes have
            following.advance(Followed(log.key, log.vrf), path, fetch, tag, roots=roots)
        left = _compare_shown(read, shown, roots, now)
        _check_promised(seen, report, read, now)
    except (Contradiction, InvalidVrfProof, InvalidNote, KeyError, ValueError) as fault:
        report.faults.append(f"{origin}: {fault}")
    else:
        seen.logs[origin] = read
        seen.shown = [each for each in seen.shown if each.origin != origin] + left


def _checkpoint(told: Any, user_id: str) -> bytes | None:
    """The checkpoint by which the user's keys are proved: an own one, where the proof came with a copy of the keys."""
    if not isinstance(told, dict):
        return None
    own = told["users"][user_id].get("checkpoint") if _is_about(told, user_id) else None
    found = own or told.get("checkpoint")
    return None if found is None else str(found).encode()


def _compare_shown(read: Followed, shown: list[Shown], roots: dict[int, bytes], now: int) -> list[Shown]:
    """That the checkpoints that came with the keys are of the history that everybody is served; those that go further,
    which has to show yet."""
    left: dict[tuple[int, str], Shown] = {}
    for each in shown:
        if each.size > read.tree.size:
            if now - each.since > PATIENCE:
                raise Contradiction(
                    f"{each.size} leaves were shown with the keys {now - each.since} seconds ago, and {read.tree.size}"
                    " are served"
                )
            left.setdefault((each.size, each.root), each)
        elif encode_base64(roots[each.size]) != each.root:
            raise Contradiction("the history that was shown with the keys is another than the one that is served")
    return list(left.values())


def _check_promised(seen: Seen, report: Report, read: Followed, now: int) -> None:
    mine = {own.place: encode_base64(leaf_hash(own.leaf.write())) for own in read.mine}
    left = []
    for origin, index, digest, since in seen.promised:
        if origin != read.origin:
            left.append((origin, index, digest, since))
        elif index < read.tree.size:
            if mine.get(index) != digest:
                raise Contradiction(f"leaf {index} was told of the user, and is another")
        elif now - since > PATIENCE:
            raise Contradiction(f"leaf {index} was told of the user {now - since} seconds ago, and is not in the tree")
        else:
            left.append((origin, index, digest, since))
    seen.promised = left


def _check_now(seen: Seen, report: Report, answer: dict[str, Any], told: dict[str, Any], now: int) -> None:
    """That what is shown of the user is what the newest leaf says."""
    newest = [
        (origin, log.mine[-1])
        for origin, log in seen.logs.items()
        if log.mine and log.mine[-1].leaf.reason is not Reason.LEFT and origin not in seen.ended
    ]
    shown = {origin: said["users"][seen.user_id] for origin, said in told.items() if _is_about(said, seen.user_id)}
    if not shown:
        keys = answer.get("device_keys", {}).get(seen.user_id) or answer.get("master_keys", {}).get(seen.user_id)
        if keys or any(own.leaf.digest != key_log.digest(key_log.NO_KEYS) for _, own in newest):
            report.faults.append("nothing is told that would prove the keys which are shown now")
        return
    for origin, said in shown.items():
        try:
            own = _proved(seen, origin, said, told[origin], now)
            if any(log != origin or last.place > own.place for log, last in newest):
                report.stale = True
                raise Contradiction("the leaf that is told of the user is not the newest one")
            digests = _digests(own.leaf, str(said["keys"]))
            report.devices, report.withheld = (
                sorted(digests["devices"]),
                [str(each) for each in said.get("withheld", [])],
            )
            if "device_keys" in answer:
                _compare_keys(answer, seen.user_id, digests, set(report.withheld))
        except (Contradiction, InvalidProof, NoLeaf, InvalidNote, KeyError, ValueError, TypeError) as fault:
            report.faults.append(f"{origin}: {fault}")


def _is_about(said: Any, user_id: str) -> bool:
    return isinstance(said, dict) and user_id in (said.get("users") or {})


def _proved(seen: Seen, origin: str, said: dict[str, Any], told: dict[str, Any], now: int) -> Own:
    """The leaf that is told of the user. It is in the tree, or it is noted that it has to come into it."""
    raw, index = str(said["leaf"]).encode(), int(said["index"])
    leaf, log = Leaf.read(raw), seen.logs.get(origin)
    if log is None:
        raise Contradiction("that is a log of which nothing is known")
    name = key_log.tag_of(vrf.output(b64decode(log.vrf), seen.user_id.encode(), b64decode(seen.opening)))
    if leaf.tag != name:
        raise Contradiction("the leaf that is told is about somebody else")
    if "inclusion" in said:
        head = following.believed(log, _checkpoint(told, seen.user_id) or b"")
        proof = [b64decode(each) for each in said["inclusion"]]
        merkle.check_inclusion(index, head.size, leaf_hash(raw), proof, head.root)
    elif index >= log.tree.size:
        digest = encode_base64(leaf_hash(raw))
        if (origin, index, digest) not in [each[:3] for each in seen.promised]:
            seen.promised.append((origin, index, digest, now))
    elif Own(index, leaf) not in log.mine:
        raise Contradiction(f"leaf {index} is another than is told")
    return Own(index, leaf)


def _digests(leaf: Leaf, keys: str) -> dict[str, Any]:
    if sha256(keys.encode()).digest() != leaf.digest:
        raise Contradiction("the keys that are there now are not those of the newest leaf")
    digests: dict[str, Any] = orjson.loads(keys)
    return digests


def _compare_keys(answer: dict[str, Any], user_id: str, digests: dict[str, Any], withheld: set[str]) -> None:
    """That all that is shown is in the log; and that all that is in the log is shown, or said to be withheld."""
    devices = {name: _digest(keys) for name, keys in (answer["device_keys"].get(user_id) or {}).items()}
    for name in sorted(devices):
        if devices[name] != digests["devices"].get(name):
            raise Contradiction(f"the device {name} is shown, and the log does not speak of it as it is shown")
    missing = sorted(digests["devices"].keys() - devices.keys() - withheld)
    if missing:
        raise Contradiction(f"the log speaks of the device {missing[0]}, which is not shown")
    for usage in ("master", "self_signing"):
        key = answer.get(f"{usage}_keys", {}).get(user_id)
        if (None if key is None else _digest(key)) != digests["signing"].get(usage):
            raise Contradiction(f"the {usage} key is not the one of the log")


def _digest(key: dict[str, Any]) -> str:
    plain = {name: value for name, value in key.items() if name not in ("signatures", "unsigned")}
    return encode_base64(sha256(canonical.encode(plain)).digest())


def _change(origin: str, own: Own) -> dict[str, Any]:
    leaf = own.leaf
    return {
        "log": origin,
        "index": own.place,
        "time": leaf.time,
        "reason": leaf.reason.value,
        "digest": b64encode(leaf.digest).decode(),
    }
