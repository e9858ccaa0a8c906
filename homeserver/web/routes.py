"""Routes are values: what answers which address, to whom, how often, under which page of the specification.

`route` declares, `Table` finds. A literal segment wins over a named one, a named segment is never
empty, and an encoded slash stays inside its segment.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from types import ModuleType
from typing import Any, Generic, TypeVar

from homeserver.protocol.errors import MethodNotAllowed, Refusal, Unrecognized
from homeserver.web.limits import Limit
from homeserver.web.messages import Request, Response, percent_decoded

S = TypeVar("S")
F = TypeVar("F", bound=Callable[..., Awaitable[Response | dict[str, Any]]])

SMALL_BODY = 64 * 1024
"""Bytes that somebody may send whom nobody has authenticated."""


class Auth(Enum):
    """Who may call."""

    NONE = "none"  # anybody; a token is not looked at
    OPTIONAL = "optional"  # anybody; a token, if there is one, must be good
    USER = "user"  # a user, but no guest
    GUEST = "guest"  # a user or a guest
    ADMIN = "admin"  # a user who administers this server
    SIGNED = "signed"  # another server, by the signature of its request


class Resource(Enum):
    """What a listener can be told to serve."""

    CLIENT = "client"
    FEDERATION = "federation"
    CONSOLE = "console"
    METRICS = "metrics"
    HEALTH = "health"  # on every listener
    CONTROL = "control"  # the command line, on the socket of the data directory

    @property
    def shared(self) -> bool:
        """Whether web pages from elsewhere may read the answers: what Matrix serves, yes; what operators see, no."""
        return self in (Resource.CLIENT, Resource.FEDERATION)


_RESOURCES = (
    ("/.well-known/matrix/server", Resource.FEDERATION),
    ("/.well-known/", Resource.CLIENT),
    ("/_matrix/federation/", Resource.FEDERATION),
    ("/_matrix/key/", Resource.FEDERATION),
    ("/_matrix/policy/", Resource.FEDERATION),
    ("/_matrix/", Resource.CLIENT),
    ("/_synapse/", Resource.CLIENT),
    ("/metrics", Resource.METRICS),
    ("/health", Resource.HEALTH),
)


def resource_of(path: str) -> Resource:
    """Where a path belongs, unless its route says otherwise."""
    return next((resource for prefix, resource in _RESOURCES if path.startswith(prefix)), Resource.CONSOLE)


@dataclass(frozen=True, slots=True)
class Route(Generic[S]):
    """One endpoint and what was declared about it. ``body`` is the most bytes its request may bring; None
    leaves that to the settings.

    ``stream``: the endpoint reads the body itself, from ``request.incoming``.
    ``long_poll``: the endpoint only waits, so that it is cancelled when the client goes away.
    ``unless_suspended``: nothing for a user whose account is suspended.
    ``refuse`` makes the answer to a refusal, where it is not the specification's: a page, for people.
    """

    method: str
    path: str
    endpoint: Callable[[S, Request], Awaitable[Response | dict[str, Any]]]
    auth: Auth
    limit: Limit
    spec: str
    body: int | None
    stream: bool
    long_poll: bool
    resource: Resource
    also: tuple[str, ...] = ()
    unless_suspended: bool = False
    refuse: Callable[[S, Request, Refusal], Response] | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """The path and its other forms."""
        return (self.path, *self.also)


_declared: dict[Callable[..., Any], tuple[Route[Any], ...]] = {}  # filled while modules are imported, then read


def route(
    method: str,
    path: str,
    *,
    auth: Auth,
    limit: Limit | None = None,
    spec: str = "",
    body: int | None = None,
    stream: bool = False,
    long_poll: bool = False,
    resource: Resource | None = None,
    also: Iterable[str] = (),
    unless_suspended: bool = False,
    refuse: Callable[[Any, Request, Refusal], Response] | None = None,
) -> Callable[[F], F]:
    """Declare ``async def endpoint(server, request) -> Response | dict``; the function itself stays as it is.

    ``path`` has named segments, ``/rooms/{roomId}/state``, which ``request.args`` holds decoded. ``also`` are
    other forms of it: a path, or a word such as ``r0`` that stands in the place of the version, in those paths of the
    same version, too. ``limit`` is
    REQUEST unless given (FEDERATION for signed requests); ``body`` is at most 64 KiB where nobody authenticates,
    and what the settings say elsewhere. ``unless_suspended`` refuses a suspended user: for what others would notice.
    ``refuse``: see `Route`.
    """
    if limit is None:
        limit = Limit.FEDERATION if auth is Auth.SIGNED else Limit.REQUEST
    if body is None and auth in (Auth.NONE, Auth.OPTIONAL):
        body = SMALL_BODY
    forms = tuple(_forms(path, tuple(also)))

    def declare(endpoint: F) -> F:
        made: Route[Any] = Route(
            method,
            path,
            endpoint,
            auth,
            limit,
            spec,
            body,
            stream,
            long_poll,
            resource or resource_of(path),
            forms,
            unless_suspended,
            refuse,
        )
        _declared[endpoint] = (*_declared.get(endpoint, ()), made)
        return endpoint

    return declare


def declared(*endpoints: Callable[..., Any]) -> list[Route[Any]]:
    """The routes that were declared on these functions."""
    return [made for endpoint in endpoints for made in _declared.get(endpoint, ())]


def _forms(path: str, also: Sequence[str]) -> Iterator[str]:
    """The other paths of a route."""
    version = "/".join(path.split("/")[:4]) + "/"
    alike = [path, *(form for form in also if form.startswith(version))]
    for form in also:
        if form.startswith("/"):
            yield form
        else:
            yield from (_versioned(each, form) for each in alike)


def _versioned(path: str, version: str) -> str:
    segments = path.split("/")
    if len(segments) < 4 or segments[1] != "_matrix":
        raise ValueError(f"{path} has no version that {version} could replace")
    return "/".join((*segments[:3], version, *segments[4:]))


class _Branch(Generic[S]):
    """A place in the tree of segments. ``methods`` has the routes that end here, with the names of their segments."""

    __slots__ = ("literals", "methods", "named")

    def __init__(self) -> None:
        self.literals: dict[str, _Branch[S]] = {}
        self.named: _Branch[S] | None = None
        self.methods: dict[str, tuple[Route[S], tuple[str, ...]]] = {}


class Table(Generic[S]):
    """All routes of a server, or those of one listener."""

    def __init__(self, routes: Iterable[Route[S]]) -> None:
        self.routes = tuple(routes)
        self._literal: dict[str, dict[str, Route[S]]] = {}  # by whole path
        self._root: _Branch[S] = _Branch()
        for made in self.routes:
            for path in made.paths:
                self._add(made, path)

    @classmethod
    def of(cls, *modules: ModuleType) -> Table[S]:
        """The routes that are declared in these modules."""
        return cls(
            made
            for module in modules
            for value in vars(module).values()
            if callable(value) and getattr(value, "__module__", None) == module.__name__
            for made in declared(value)
        )

    def serving(self, resources: Iterable[Resource]) -> Table[S]:
        """The part of the table that a listener for these resources serves."""
        wanted = {*resources, Resource.HEALTH}
        return Table(made for made in self.routes if made.resource in wanted)

    def match(self, method: str, path: str) -> tuple[Route[S], dict[str, str]]:
        """The route for a path as it came, and its named segments decoded. HEAD finds the route for GET.

        Raises Unrecognized (404), MethodNotAllowed (405), and InvalidParam when the path is not UTF-8.
        """
        if method == "HEAD":
            method = "GET"
        whole = self._literal.get(path)
        if whole is not None and method in whole:
            return whole[method], {}
        segments = _segments(path)
        values: list[str] = []
        found = _find(self._root, segments, 1, values, method)
        if found is None:
            if self.methods(path):
                raise MethodNotAllowed("This address has no such method")
            raise Unrecognized("This address is not known here")
        return found[0], dict(zip(found[1], values, strict=True))

    def methods(self, path: str) -> set[str]:
        """The methods that a path has; none when nothing is there."""
        found: set[str] = set()
        _collect(self._root, _segments(path), 1, found)
        return found | {"HEAD"} if "GET" in found else found

    def _add(self, made: Route[S], path: str) -> None:
        if not path.startswith("/"):
            raise ValueError(f"{path} does not start with a slash")
        branch = self._root
        names: list[str] = []
        for segment in path.split("/")[1:]:
            if segment.startswith("{") and segment.endswith("}"):
                names.append(segment[1:-1])
                branch.named = branch.named or _Branch()
                branch = branch.named
            else:
                branch = branch.literals.setdefault(segment, _Branch())
        if made.method in branch.methods:
            raise ValueError(f"{made.method} {path} is declared twice")
        if len(set(names)) != len(names):
            raise ValueError(f"{path} names a segment twice")
        branch.methods[made.method] = (made, tuple(names))
        if not names:
            self._literal.setdefault(path, {})[made.method] = made


def _segments(path: str) -> list[str]:
    segments = path.split("/")
    if "%" in path:
        return [percent_decoded(segment) if "%" in segment else segment for segment in segments]
    return segments


def _find(
    branch: _Branch[S], segments: list[str], at: int, values: list[str], method: str
) -> tuple[Route[S], tuple[str, ...]] | None:
    if at == len(segments):
        return branch.methods.get(method)
    segment = segments[at]
    literal = branch.literals.get(segment)
    if literal is not None:
        found = _find(literal, segments, at + 1, values, method)
        if found is not None:
            return found
    if branch.named is not None and segment:
        values.append(segment)
        found = _find(branch.named, segments, at + 1, values, method)
        if found is not None:
            return found
        values.pop()
    return None


def _collect(branch: _Branch[S], segments: list[str], at: int, found: set[str]) -> None:
    if at == len(segments):
        found.update(branch.methods)
        return
    segment = segments[at]
    if segment in branch.literals:
        _collect(branch.literals[segment], segments, at + 1, found)
    if branch.named is not None and segment:
        _collect(branch.named, segments, at + 1, found)
