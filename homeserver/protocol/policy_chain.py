"""The chain of a residency policy's versions: what a record says, how it is signed, and what is wrong with a chain.

A record is canonical JSON, signed, and names the hash of the record before it; so whoever changes, drops or puts in
one makes a fault that everybody with the public key can see. What was cut off at the end, it cannot show.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

from homeserver.protocol import canonical
from homeserver.protocol.errors import BadJson, InvalidSignature, NotJson
from homeserver.protocol.signing import SigningKey, VerifyKey, decode_base64, sign_json, verify_json

APPROVAL: Final = "org.domicile.policy_approval"
"""What an approver's signature is for, so that none given for something else can pass for one."""


class How(StrEnum):
    """How a version came into force."""

    FIRST = "first"
    READ = "read"
    APPLIED = "applied"
    ROLLED_BACK = "rolled-back"


class Approval(NamedTuple):
    """Somebody's yes to a plan: their public key and signature, both in unpadded Base64."""

    name: str
    key: str
    signature: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """What the record of a version says. ``previous`` and ``text_sha256`` are hexadecimal, ``time`` milliseconds since
    1970; ``plan``: the digest of the plan that was applied; ``restores``: the serial of the version whose text it is.
    """

    server_name: str
    serial: int
    text_sha256: str
    previous: str | None
    time: int
    how: How
    plan: str | None = None
    restores: int | None = None
    approvals: tuple[Approval, ...] = ()


class Link(NamedTuple):
    """A version as it is kept: the signed record, and the text of the policy beside it."""

    serial: int
    record: bytes
    text: str


_FIELDS: Final = frozenset(
    (
        *("server_name", "serial", "text_sha256", "previous", "time", "how"),
        *("plan", "restores", "approvals", "signatures"),
    )
)


def digest(content: bytes | str) -> str:
    """SHA-256 in hexadecimal, of a record or of the text of a policy."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def signed(version: Version, key: SigningKey) -> bytes:
    """The record of a version: canonical JSON with the deployment's signature."""
    said: dict[str, Any] = {
        "server_name": version.server_name,
        "serial": version.serial,
        "text_sha256": version.text_sha256,
        "previous": version.previous,
        "time": version.time,
        "how": version.how.value,
        "plan": version.plan,
        "restores": version.restores,
        "approvals": [approval._asdict() for approval in version.approvals],
    }
    return canonical.encode(sign_json(said, version.server_name, key))


def read(record: bytes) -> Version:
    """What a record says, whether it is true or not. Raises BadJson."""
    try:
        said = canonical.parse_object(record)
    except NotJson:
        raise BadJson("That is no record of a policy version") from None
    if said.keys() != _FIELDS or canonical.encode(said) != record:
        raise BadJson("That is no record of a policy version")
    approvals = said["approvals"]
    texts = [said["server_name"], said["text_sha256"], said["how"]]
    if not (
        all(isinstance(text, str) for text in texts)
        and all(text is None or isinstance(text, str) for text in (said["previous"], said["plan"]))
        and all(_is_number(number) for number in (said["serial"], said["time"]))
        and (said["restores"] is None or _is_number(said["restores"]))
        and said["how"] in How.__members__.values()
        and isinstance(approvals, list)
        and all(_is_approval(each) for each in approvals)
    ):
        raise BadJson("That is no record of a policy version")
    return Version(
        server_name=said["server_name"],
        serial=said["serial"],
        text_sha256=said["text_sha256"],
        previous=said["previous"],
        time=said["time"],
        how=How(said["how"]),
        plan=said["plan"],
        restores=said["restores"],
        approvals=tuple(Approval(**each) for each in approvals),
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_approval(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == set(Approval._fields)
        and all(isinstance(text, str) for text in value.values())
    )


# -- approvals


def approval_bytes(server_name: str, plan: str, name: str) -> bytes:
    """What an approver signs: which plan, of which deployment, as whom."""
    return canonical.encode({"purpose": APPROVAL, "server_name": server_name, "plan": plan, "name": name})


def approve(server_name: str, plan: str, name: str, key: SigningKey) -> Approval:
    """Somebody's yes to a plan."""
    return Approval(name, key.verify_key.base64, key.sign(approval_bytes(server_name, plan, name)))


def approves(approval: Approval, server_name: str, plan: str) -> bool:
    """Whether this is a yes to that plan by the key that it names."""
    try:
        key = VerifyKey.from_base64("ed25519:approver", approval.key)
        signature = decode_base64(approval.signature)
    except BadJson:
        return False
    return key.verifies(approval_bytes(server_name, plan, approval.name), signature)


# -- the chain


def link_faults(link: Link, server_name: str, key: VerifyKey) -> Iterator[str]:
    """What is wrong with one version by itself, one sentence each; after a fault of form there is nothing more."""
    try:
        version = read(link.record)
        said = canonical.parse_object(link.record)
        verify_json(said, server_name, {key.key_id: key})
    except BadJson:
        yield "its record is malformed"
        return
    except InvalidSignature:
        yield "its record is not signed by this deployment's key"
        return
    if version.server_name != server_name:
        yield f"its record is of another deployment, {version.server_name}"
    if version.serial != link.serial:
        yield f"its record is that of version {version.serial}"
    if version.text_sha256 != digest(link.text):
        yield "its text is not the one that was signed"
    if version.plan is None and version.approvals:
        yield "it names approvals, and no plan"
    for field in ("name", "key"):
        if len({getattr(approval, field) for approval in version.approvals}) < len(version.approvals):
            yield "one approver counts twice in its record"
    for approval in version.approvals:
        if version.plan is not None and not approves(approval, server_name, version.plan):
            yield f"the approval of {approval.name} in its record is not valid"


def chain_faults(
    links: Sequence[Link], server_name: str, key: VerifyKey, before: Link | None = None
) -> dict[int, list[str]]:
    """What is wrong with a chain, in order of serials: sentences by serial, nothing when it holds. ``before``: the
    version before the first of these, unless that is the first of all."""
    found: dict[int, list[str]] = {}
    for link in links:
        faults = list(link_faults(link, server_name, key))
        with suppress(BadJson):  # which is said already
            faults += _joint_faults(before, read(link.record))
        if faults:
            found[link.serial] = faults
        before = link
    return found


def _joint_faults(before: Link | None, version: Version) -> Iterator[str]:
    """What is wrong between a version and the one before it."""
    if before is None:
        if version.how is not How.FIRST or version.previous is not None:
            yield "the versions before it are gone"
        return
    if version.how is How.FIRST:
        yield "it says that it is the first, and is not"
    if version.serial != before.serial + 1:
        yield f"it does not follow on version {before.serial}"
    if version.previous != digest(before.record):
        yield "the version before it is not the one that it followed"
    asked = _demands(before.text)
    if asked.get("plan") is True and version.how is How.READ:
        yield f"version {before.serial} asked for a plan, and it came without one"
    approvers = asked.get("approvers")
    keys = {each.get("key") for each in approvers if isinstance(each, dict)} if isinstance(approvers, list) else set()
    needed = asked.get("approvals", 0)
    if isinstance(needed, int) and len({each.key for each in version.approvals} & keys) < needed:
        yield f"it has fewer approvals than version {before.serial} asked for"


def _demands(text: str) -> dict[str, Any]:
    """What the text of a policy says in `[changes]`; nothing where it cannot be read, which is another fault."""
    if "changes" not in text:
        return {}
    try:
        said = tomllib.loads(text).get("changes")
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def shown(version: Version, record: bytes) -> Mapping[str, Any]:
    """A version as operators see it: what the record says, and its hash; never the text."""
    return {
        "serial": version.serial,
        "time": version.time,
        "how": version.how.value,
        "text_sha256": version.text_sha256,
        "record_sha256": digest(record),
        "previous": version.previous,
        "plan": version.plan,
        "restores": version.restores,
        "approvals": [approval.name for approval in version.approvals],
    }
