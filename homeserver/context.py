"""What everything above storage is given: the server's resources, and who is calling.

`Server` holds resources and no services: resources are passed, services are imported.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol

from config.application_services import ApplicationService, ApplicationServices
from config.policy import Policy
from config.residency import NodePlace
from config.settings import Settings
from homeserver.protocol.errors import Forbidden, MissingParam
from homeserver.protocol.events import Event
from homeserver.protocol.move_receipts import key_name_of
from homeserver.protocol.policy_server import PolicyServer
from homeserver.protocol.signing import SigningKey
from homeserver.protocol.vrf import VrfKey
from homeserver.runtime.clock import Clock
from homeserver.runtime.doors import Doors
from homeserver.runtime.jobs import Jobs
from homeserver.runtime.outbound import Outbound
from homeserver.runtime.telemetry import Telemetry
from homeserver.runtime.wakeups import Wakeups
from homeserver.storage.device_keys import UserKeys
from homeserver.storage.nodes import Node, Nodes
from homeserver.storage.one_time_keys import Wanted


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated user behind a request. ``node`` is where all that they own rests.

    ``user_nid`` and ``device_nid`` are row ids on that node and mean nothing elsewhere. ``oauth``: a client signed the
    device in by the OAuth 2.0 API.
    """

    user_id: str
    localpart: str
    node: Node
    user_nid: int
    device_id: str
    device_nid: int
    admin: bool = False
    guest: bool = False
    suspended: bool = False
    oauth: bool = False
    epoch: int = 0
    """How often they have moved from another node."""
    came_pos: int = 0
    """The position of ``node`` at which they came: what is before it in a token of theirs is one of another node."""
    service: ApplicationService | None = None
    """The application service that acts as the user. Without a device, ``device_id`` is empty and ``device_nid`` 0."""
    token_hash: bytes | None = field(default=None, repr=False, compare=False)
    """That of their access token; None where they have none of their own."""

    @property
    def limited(self) -> bool:
        """Whether rate limits hold for them."""
        return self.service is None or self.service.limits(self.user_id)

    def must_have_device(self) -> None:
        """Refuse what only a device can do. Raises MissingParam for an application service that named none."""
        if not self.device_nid:
            raise MissingParam("This needs a device: name one of the user as device_id in the query")

    def must_be(self, user_id: str) -> None:
        """Refuse to act on somebody else. Raises Forbidden."""
        if user_id != self.user_id:
            raise Forbidden("You may do this for your own account only")


class CurrentPolicy:
    """The residency policy in force; replaced as a whole when a new one has been loaded without fault.

    ``isolated``: the jurisdictions that are isolated, whichever policy is in force. ``leaving``: the nodes that are
    about to be given up, on which nobody may come to rest any more; ``withdrawn`` are those of them that go because it
    was announced that the deployment leaves their jurisdiction.
    """

    def __init__(self, policy: Policy, isolated: Collection[str] = ()) -> None:
        self._isolated = frozenset(isolated)
        self._listed: Mapping[str, str] = {}
        self._listed_by: frozenset[str] = frozenset()
        self._now = policy.isolating(self._isolated)
        self.withdrawn: frozenset[str] = frozenset()
        self._emptied: frozenset[str] = frozenset()

    @property
    def leaving(self) -> frozenset[str]:
        """The nodes on which nobody may come to rest any more."""
        return self._emptied | self.withdrawn

    @leaving.setter
    def leaving(self, nodes: frozenset[str]) -> None:
        self._emptied = nodes

    @property
    def now(self) -> Policy:
        """The policy to ask."""
        return self._now

    @now.setter
    def now(self, policy: Policy) -> None:
        self._now = policy.isolating(self._isolated).listing(self.listed_for(policy))

    def put_list(self, signers: Collection[str], servers: Mapping[str, str]) -> None:
        """Let a federation list hold, which has been signed by these public keys and gives servers jurisdictions, for
        as long as the policy believes one of these keys."""
        self._listed_by, self._listed = frozenset(signers), servers
        self._now = self._now.listing(self.listed_for(self._now))

    def listed_for(self, policy: Policy) -> Mapping[str, str]:
        """What the federation list says, to a policy that believes one of those who signed it; else nothing."""
        believed = policy.federation_list
        return self._listed if believed is not None and self._listed_by.intersection(believed.keys) else {}

    @property
    def isolated(self) -> frozenset[str]:
        """The jurisdictions that are isolated."""
        return self._isolated

    @isolated.setter
    def isolated(self, jurisdictions: Collection[str]) -> None:
        self._isolated = frozenset(jurisdictions)
        self._now = self._now.isolating(self._isolated)


@dataclass(frozen=True, slots=True)
class Identity:
    """The deployment's name and keys: it signs with ``key`` and publishes ``further_keys`` as its own too; ``secret``
    keys every hash that must not be guessed. ``policy_key``: what it signs with as a policy server, if it is one."""

    server_name: str
    key: SigningKey
    secret: bytes
    further_keys: tuple[SigningKey, ...] = ()
    policy_key: SigningKey | None = None

    @property
    def keys(self) -> tuple[SigningKey, ...]:
        """All keys that are in use."""
        return self.key, *self.further_keys

    @property
    def residency_key(self) -> SigningKey:
        """What the deployment signs the versions of its residency policy with; it follows from the secret."""
        return SigningKey("residency", blake2b(self.secret, digest_size=32, person=b"residency").digest())

    def node_key(self, node: str) -> SigningKey:
        """What a node signs with that users move to or from; it follows from the secret and the node's name."""
        seed = blake2b(node.encode(), key=self.secret, digest_size=32, person=b"node").digest()
        return SigningKey(key_name_of(node), seed)

    def log_key(self, node: str) -> SigningKey:
        """What the key log of a node is signed with; it follows from the secret and the node's name."""
        seed = blake2b(node.encode(), key=self.secret, digest_size=32, person=b"key log").digest()
        return SigningKey("log", seed)

    @property
    def witness_key(self) -> SigningKey:
        """What the deployment signs as a witness of the logs of others; it follows from the secret."""
        return SigningKey("witness", blake2b(self.secret, digest_size=32, person=b"witness").digest())

    @property
    def log_vrf(self) -> VrfKey:
        """What names people in the key logs; it follows from the secret. To be kept: making it takes a while."""
        return VrfKey(blake2b(self.secret, digest_size=32, person=b"key log names").digest())

    def tag(self, purpose: str, *parts: str) -> bytes:
        """A keyed 16-byte digest of ``parts``, which are told apart by their lengths."""
        digest = blake2b(digest_size=16, key=self.secret, person=purpose.encode()[:16])
        for part in parts:
            encoded = part.encode()
            digest.update(len(encoded).to_bytes(4, "big") + encoded)
        return digest.digest()


class FoundRoom(NamedTuple):
    """What an alias stands for: a room, and servers that are in it."""

    room_id: str
    servers: list[str]


class Asked(NamedTuple):
    """A member event that another server put into a room for us, and the room as the invited or knocking see it."""

    event: Event
    preview: bytes
    """A JSON array of stripped state."""


class MediaHead(NamedTuple):
    """What a server says of a file, as it says it: its type, and what it is called."""

    content_type: str | None
    filename: str | None


class Past(NamedTuple):
    """An event of a room's history that other servers gave, checked; ``rejected``: what it cites does not allow it."""

    event: Event
    rejected: bool


class FoundSpace(NamedTuple):
    """What another server says of a room (as in an answer of ``/hierarchy``, with its ``children_state``), of the rooms
    in it by room id, and which of these nobody of ours can get into."""

    room: dict[str, Any]
    children: dict[str, dict[str, Any]]
    inaccessible: frozenset[str]


class Remote(Protocol):
    """Other servers, as the services below federation see them: what one may ask of them.

    `federation.port` implements it. Its functions take the `Server`, raise refusals that a client may read (NotFound,
    Forbidden, FlowDenied, ServerUnreachable), and have asked the residency policy before anything left.
    """

    async def resolve_alias(self, server: Server, node: Node, alias: str) -> FoundRoom:
        """Ask the server of a room alias what it stands for, on behalf of a user of ``node``."""
        ...

    async def fetch_history(
        self, server: Server, node: Node, room_id: str, before: Collection[str], hashes: Mapping[str, Collection[str]]
    ) -> list[Past]:
        """Ask servers in a room for the events ``before`` and what precedes them; the newest first, and none where
        nobody gives any. ``hashes``: one of which such an event must have, where its id is none. What they cite is kept
        on ``node``, as state or authority."""
        ...

    async def fetch_nearest(
        self, server: Server, node: Node, room_id: str, moment: int, limit: int | None, *, backwards: bool
    ) -> Past | None:
        """Ask servers in a room for the event nearest to a moment (milliseconds since 1970), that or earlier, or else
        that or later; one that is as far away as ``limit``, or farther, does not count."""
        ...

    async def query_keys(
        self, server: Server, node: Node, destination: str, user_ids: Sequence[str], seconds: float
    ) -> dict[str, UserKeys]:
        """Ask a server for the public keys of users of its own; what is malformed or unknown is left out."""
        ...

    async def device_list(self, server: Server, node: Node, user_id: str) -> tuple[int, UserKeys]:
        """Ask a user's server for their whole device list, and its version by that server's count."""
        ...

    async def claim_keys(
        self, server: Server, node: Node, destination: str, wanted: Sequence[Wanted], seconds: float
    ) -> dict[str, dict[str, dict[str, Any]]]:
        """Claim one-time keys of users of a server: by user, device, and the key's name."""
        ...

    async def recommend(self, server: Server, node: Node, event: Event, policy: PolicyServer) -> Event:
        """Have the policy server of a room sign an event of it; returns the event with that signature."""
        ...

    async def profile(self, server: Server, node: Node, user_id: str) -> dict[str, Any]:
        """Ask a user's server for their profile, unless that was done a short while ago."""
        ...

    async def public_rooms(
        self, server: Server, node: Node, destination: str, chosen: Mapping[str, Any], limit: int, since: str | None
    ) -> dict[str, Any]:
        """Ask a server for a page of its room directory, of at most ``limit`` rooms; ``chosen``: what is looked for."""
        ...

    async def hierarchy(
        self, server: Server, node: Node, destination: str, room_id: str, suggested_only: bool
    ) -> FoundSpace:
        """Ask a server for what it says of a room and, if that is a space, of the rooms in it; it is remembered for a
        while. Raises NotFound."""
        ...

    async def fetch_media(
        self,
        server: Server,
        node: Node,
        server_name: str,
        media_id: str,
        wait_ms: int,
        take: Callable[[bytes], Awaitable[None]],
    ) -> MediaHead:
        """Fetch a medium from its server, which may wait so long for an upload; ``take`` is given the content piece by
        piece. Raises NotYetUploaded and RemoteTooLarge besides."""
        ...

    async def join(
        self, server: Server, node: Node, room_id: str, user_id: str, content: Mapping[str, Any], via: Sequence[str]
    ) -> None:
        """Bring a user of ``node`` into a room through one of the servers ``via``, when nobody here is in it, or nobody
        here can vouch for them.

        ``content`` is that of the member event. Afterwards the room is here, whole; ``node`` is its home, if it was not
        here. Raises PlaintextRefused for a room that is not encrypted.
        """
        ...

    async def knock(
        self, server: Server, node: Node, room_id: str, user_id: str, content: Mapping[str, Any], via: Sequence[str]
    ) -> Asked:
        """Knock at a room that nobody here is in; returns the knock, which is in the room."""
        ...

    async def leave(
        self, server: Server, node: Node, room_id: str, user_id: str, content: Mapping[str, Any], via: Sequence[str]
    ) -> Asked:
        """Refuse an invitation, or take back a knock, of a room that nobody here is in; returns the leaving."""
        ...

    async def invite(self, server: Server, node: Node, event: Event, preview: Sequence[bytes]) -> Event:
        """Have the server of somebody who is invited sign the invitation; returns it with that signature.

        ``preview`` is what they may see of the room: state events in federation format.
        """
        ...

    async def exchange_invite(
        self, server: Server, node: Node, room_id: str, sender: str, user_id: str, signed: Mapping[str, Any]
    ) -> None:
        """Have a user of ``node`` invited by the server of ``sender``, who left an invitation for an address with an
        identity server; ``signed`` is what that says about whose the address is. Raises Forbidden when it is not."""
        ...


class Mover(Protocol):
    """What moves a user to another node, with all that they own."""

    async def move(self, server: Server, user_id: str, destination: Node) -> None:
        """Move a user to the end; goes on with a move that was begun, and does nothing for who rests there already.

        Raises refusals that say why it cannot be done.
        """
        ...


class Places(Protocol):
    """Where nodes come from while the server runs, and go."""

    @property
    def serving(self) -> bool:
        """Whether requests are answered meanwhile."""
        ...

    def faults(self, policy: Policy) -> list[str]:
        """What would keep a policy from being served, beyond what it says itself: one sentence each."""
        ...

    def address(self, place: NodePlace) -> str:
        """The address of a node's database, with its password."""
        ...

    async def open(self, server: Server, place: NodePlace) -> Node:
        """The node of a place, which is made if it never was there, and is one of the server's from then on.

        Raises NodeUnavailable when its database cannot be reached, SchemaMismatch, OSError, Faults.
        """
        ...

    async def close(self, server: Server, name: str) -> None:
        """Let a node go: nothing is asked of it any more. What it holds stays where it is."""
        ...


def resident_key(node: Node, user_nid: int) -> tuple[str, int]:
    """What waits in ``server.wakeups`` for something that is told to a resident."""
    return (node.name, user_nid)


def outbox_key(node: Node) -> tuple[str, str]:
    """What waits in ``server.wakeups`` for something to take from a node to others."""
    return ("outbox", node.name)


@dataclass(frozen=True, slots=True)
class Server:
    """The resources of one running deployment."""

    settings: Settings
    policy: CurrentPolicy
    identity: Identity
    nodes: Nodes
    clock: Clock
    wakeups: Wakeups
    jobs: Jobs
    telemetry: Telemetry
    outbound: Outbound
    remote: Remote
    services: ApplicationServices = field(default_factory=ApplicationServices)
    places: Places | None = None
    mover: Mover | None = None

    @property
    def name(self) -> str:
        """The deployment's server_name."""
        return self.identity.server_name

    def wants_alone(self, user_id: str) -> bool:
        """Whether the user's requests should come to their end soon, since the user is about to be moved."""
        return self.nodes.directory.memory(Doors).is_closed(user_id)

    def wake_residents(self, node: Node, user_nids: Iterable[int]) -> None:
        """Have whoever waits for something that is told to these residents of a node look: there may be some."""
        name, wake = node.name, self.wakeups.wake
        for user_nid in user_nids:
            wake((name, user_nid))  # `resident_key`, without a call for each of thousands

    def wake_outbox(self, node: Node) -> None:
        """Have what rests in a node's outbox taken to the other nodes."""
        self.wakeups.wake(outbox_key(node))

    async def whose(self, user_id: str) -> Node | None:
        """The node of a local user."""
        return await self.nodes.of_user(user_id)
