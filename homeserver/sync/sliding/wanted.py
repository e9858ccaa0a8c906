"""Which state of a room a client wants: what `required_state` says, in either form of the request.

A clause names entries of the state by type and state key, each of which may be anything; several clauses together want
what any of them does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeVar

from homeserver.protocol.event_view import MEMBER, StateKey
from homeserver.runtime.lru import Lru

V = TypeVar("V")
Pair = tuple[str | None, str | None]
"""Type and state key; None: whatever it is."""


@dataclass(frozen=True)
class Clause:
    """Entries that are wanted, and of these those that are not."""

    include: frozenset[Pair]
    exclude: frozenset[Pair] = frozenset()

    def takes(self, key: StateKey) -> bool:
        """Whether an entry of the state is wanted."""
        return _names(self.include, key) and not (self.exclude and _names(self.exclude, key))

    @cached_property
    def exact(self) -> bool:
        """Whether it says the entries one by one."""
        return len(self.named) == len(self.include)

    @cached_property
    def named(self) -> frozenset[StateKey]:
        """The entries that it says one by one."""
        return frozenset((kind, key) for kind, key in self.include if kind is not None and key is not None)


def _names(pairs: frozenset[Pair], key: StateKey) -> bool:
    return key in pairs or (None, None) in pairs or (key[0], None) in pairs or (None, key[1]) in pairs


@dataclass(frozen=True)
class Wanted:
    """What is wanted of the state; ``lazy``: of the members, those whom the timeline is about."""

    clauses: frozenset[Clause] = frozenset()
    lazy: bool = False

    def takes(self, key: StateKey) -> bool:
        """Whether an entry of the state is wanted, apart from what ``lazy`` asks."""
        return any(clause.takes(key) for clause in self.clauses)

    def chosen(self, state: Mapping[StateKey, V]) -> dict[StateKey, V]:
        """The entries of a state that are wanted, apart from what ``lazy`` asks, with what the state has of each."""
        found: dict[StateKey, V] = {}
        for clause in self.clauses:
            if not clause.exact:
                found.update((key, entry) for key, entry in state.items() if clause.takes(key))
                continue
            for key in clause.named:
                entry = state.get(key)
                if entry is not None and (not clause.exclude or clause.takes(key)):
                    found[key] = entry
        return found

    def covers(self, other: Wanted) -> bool:
        """Whether all is wanted that the other wants, as far as can be seen from what they say."""
        return self == other or ((self.lazy or not other.lazy) and all(self._covers(each) for each in other.clauses))

    def _covers(self, clause: Clause) -> bool:
        return any(mine.include >= clause.include and mine.exclude <= clause.exclude for mine in self.clauses)

    @cached_property
    def size(self) -> int:
        """How many pairs it names."""
        return sum(len(clause.include) + len(clause.exclude) for clause in self.clauses)

    def as_json(self) -> list[Any]:
        """For `from_json`."""
        return [int(self.lazy), [[list(clause.include), list(clause.exclude)] for clause in self.clauses]]


NOTHING = Wanted()

_known: Lru[Wanted, Wanted] = Lru(2000)


def only(wanted: Wanted) -> Wanted:
    """The one object for all that are equal: comparing it is then comparing addresses."""
    found = _known.get(wanted)
    if found is None:
        found = _known[wanted] = wanted
    return found


@lru_cache(maxsize=2000)
def parted(wanted: Wanted, user_id: str) -> tuple[Wanted, Wanted]:
    """What is wanted whoever asks, and what is because it is this user: entries of which they are the state key. What
    somebody wants of whom it matters what they do not want is theirs alone.
    """
    if any(key == user_id for clause in wanted.clauses for _, key in clause.exclude):
        return only(Wanted(lazy=wanted.lazy)), wanted
    common, own = set(), set()
    for clause in wanted.clauses:
        mine = frozenset(pair for pair in clause.include if pair[1] == user_id)
        if mine:
            own.add(Clause(mine, clause.exclude))
        if mine != clause.include:
            common.add(Clause(clause.include - mine, clause.exclude))
    return only(Wanted(frozenset(common), wanted.lazy)), only(Wanted(frozenset(own)))


def from_json(value: list[Any]) -> Wanted:
    """What `Wanted.as_json` gave."""
    lazy, clauses = value
    read = (Clause(_pairs(include), _pairs(exclude)) for include, exclude in clauses)
    return only(Wanted(frozenset(read), bool(lazy)))


def _pairs(values: list[list[str | None]]) -> frozenset[Pair]:
    return frozenset((kind, state_key) for kind, state_key in values)


def together(several: Iterable[Wanted]) -> Wanted:
    """What is wanted by any of several."""
    plain: set[Pair] = set()
    others: set[Clause] = set()
    lazy = False
    for wanted in several:
        lazy = lazy or wanted.lazy
        for clause in wanted.clauses:
            if clause.exclude:
                others.add(clause)
            else:
                plain |= clause.include
    if plain:
        others.add(Clause(frozenset(plain)))
    return only(Wanted(frozenset(others), lazy))


def of_pairs(pairs: Iterable[tuple[str, str]], user_id: str) -> Wanted:
    """What pairs of type and state key ask: ``*`` is whatever, ``$ME`` the user, ``$LAZY`` of members the lazy ones.

    Beside lazy members, a pair for any type does not ask for all of the others.
    """
    pairs = list(pairs)
    lazy = (MEMBER, "$LAZY") in pairs
    plain: set[Pair] = set()
    wild: set[Pair] = set()
    for kind, state_key in pairs:
        if state_key == "$LAZY":
            continue
        key = None if state_key == "*" else user_id if state_key == "$ME" else state_key
        if kind == "*":
            (wild if lazy else plain).add((None, key))
        else:
            plain.add((kind, key))
    clauses = [Clause(frozenset(plain))] if plain else []
    if wild:
        clauses.append(Clause(frozenset(wild), frozenset([(MEMBER, None)])))
    return only(Wanted(frozenset(clauses), lazy))


def of_elements(
    include: Iterable[tuple[str | None, str | None]],
    exclude: Iterable[tuple[str | None, str | None]],
    lazy: bool,
    user_id: str,
) -> Wanted:
    """What elements of type and state key ask, None in which is whatever; ``$ME`` is the user."""
    chosen = frozenset(_of_user(include, user_id))
    clauses = frozenset([Clause(chosen, frozenset(_of_user(exclude, user_id)))]) if chosen else frozenset()
    return only(Wanted(clauses, lazy))


def _of_user(pairs: Iterable[tuple[str | None, str | None]], user_id: str) -> Iterable[Pair]:
    return ((kind, user_id if state_key == "$ME" else state_key) for kind, state_key in pairs)
