"""Whatever is sent to whatever route: an error that the specification knows, and nobody else notices.

Each route of the table gets its own requests, so a new route is attacked as soon as it is declared. The requests are
the same in every run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from homeserver.endpoints.administration import administer
from homeserver.web.routes import Route, Table
from tests.conformance import endpoint_modules
from tests.deployment import FLOWING, POLICY
from tests.garbage.requests import make, one_fault, spares_others
from tests.garbage.world import World
from tests.support import POSTGRES, Databases, finish, waits

ROUTES: tuple[Route[Any], ...] = tuple(
    sorted(Table.of(*endpoint_modules()).routes, key=lambda route: (route.method == "GET", route.path, route.method))
)
"""Those that write first, so that the others read what garbage has left."""
ADMINISTRATION = tuple(route for route in ROUTES if route.endpoint is administer)
"""Where administrators ask what the command line asks through a route of its own, which is attacked in every place."""
PUBLIC = tuple(route for route in ROUTES if route not in ADMINISTRATION)

PLACES = {"sqlite": ("sqlite", FLOWING, 24), "postgres": ("postgres", FLOWING, 8), "no-flows": ("sqlite", POLICY, 8)}
"""Kind of database, policy, and how many requests of either test each route gets."""
SCALE = float(os.environ.get("DOMICILE_TEST_GARBAGE", "1"))
"""By how much to multiply them: for a long hunt."""


class Place:
    """Where garbage is thrown: the present world, and a new one after a test has found something."""

    def __init__(self, name: str, folders: pytest.TempPathFactory) -> None:
        self._kind, self._policy, requests = PLACES[name]
        self._folders = folders
        self._databases: Databases | None = None
        self.requests = max(1, round(requests * SCALE))
        self.world: World | None = None

    def begin(self) -> World:
        """The world; its people come to be with it."""
        if self.world is None:
            url = os.environ.get(POSTGRES, "")
            if self._kind == "postgres" and not url:
                pytest.skip(f"{POSTGRES} is not set")
            self._databases = Databases(self._kind, self._folders.mktemp("garbage"), url)
            self.world = finish(World.begin(self._databases, self._policy))
        return self.world

    @contextmanager
    def occupied(self) -> Iterator[World]:
        """The world, which is not used again when something is found."""
        try:
            yield self.begin()
        except Exception:
            self.end()
            raise

    def end(self) -> None:
        """Let the world go."""
        if self.world is not None and self._databases is not None:
            finish(self.world.end())
            finish(self._databases.close())
            self.world = None


@pytest.fixture(scope="module", params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One deployment for everything that is thrown at it."""
    made = Place(request.param, tmp_path_factory)
    yield made
    made.end()


@pytest.mark.parametrize(
    "route", [each for each in ROUTES if each not in ADMINISTRATION], ids=lambda route: f"{route.method} {route.path}"
)
@waits
def test_garbage_is_refused(place: Place, route: Route[Any]) -> None:
    """By hypothesis, with several things wrong at once, and then with one, at each place in turn."""
    thrown(place, route, place.requests)


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
@pytest.mark.parametrize("route", ADMINISTRATION, ids=lambda route: f"{route.method} {route.path}")
@waits
def test_garbage_of_administrators_is_refused(place: Place, route: Route[Any]) -> None:
    """Of those who have every role."""
    thrown(place, route, max(1, place.requests // 3))


def thrown(place: Place, route: Route[Any], requests: int) -> None:
    """Throw garbage at a route: by hypothesis with several things wrong at once, and then with one."""
    with place.occupied() as world:

        @settings(
            max_examples=max(1, requests // 4),
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(random=st.randoms(use_true_random=True))
        def attempt(random: Random) -> None:
            ask = make(random, route, world.known)
            note(repr(ask))
            if route.endpoint is not administer or spares_others(ask, world.known):
                assert finish(world.attack(ask)) == []

        attempt()
        seed = f"{route.method} {route.path}"
        known = world.known
        asks = one_fault(Random(seed), route, known)
        for number in Random(seed).sample(range(len(asks)), min(len(asks), requests)):
            if known is not world.known:  # the attackers are others since the last request
                known = world.known
                asks = one_fault(Random(seed), route, known)
            if route.endpoint is not administer or spares_others(asks[number], known):
                assert finish(world.attack(asks[number])) == [], asks[number]
        finish(world.open_borders())
        finish(world.still_works())
