"""The house that the plays are given in: a deployment of our own, or any homeserver at INTEROP_BASE_URL.

A server named by the environment must let everybody register; INTEROP_RESTART is a shell command that restarts it.
What is about nodes and their files needs the fixture `deployment`, which is always one of ours.
"""

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.interop.cast import Cast, Country, House, Wardrobe, gathered
from tests.interop.deployment import Deployment


class Elsewhere:
    """Somebody else's server."""

    base_url = os.environ.get("INTEROP_BASE_URL", "").rstrip("/")

    def registration_token(self, country: Country) -> str | None:
        """Nobody asks for one."""
        return None

    def restart(self) -> None:
        """Run the command that restarts it."""
        subprocess.run(os.environ["INTEROP_RESTART"], shell=True, check=True)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Domicile with a node in Iran and one in France, between which everything may flow."""
    with Deployment(tmp_path_factory.mktemp("deployment")) as running:
        yield running


@pytest.fixture(scope="module")
def house(request: pytest.FixtureRequest) -> House:
    """The server of the plays."""
    if Elsewhere.base_url:
        return Elsewhere()
    own: Deployment = request.getfixturevalue("deployment")
    return own


@pytest.fixture(scope="module")
def _gathered(house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cast, Wardrobe]]:
    with gathered(house, tmp_path_factory.mktemp("clients")) as made:
        yield made


@pytest.fixture(scope="module")
def cast(_gathered: tuple[Cast, Wardrobe]) -> Cast:
    """The four people; what they did in an earlier play of the module stays."""
    return _gathered[0]


@pytest.fixture(scope="module")
def wardrobe(_gathered: tuple[Cast, Wardrobe]) -> Wardrobe:
    """Makes more clients, which end with the module."""
    return _gathered[1]
