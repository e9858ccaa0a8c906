"""Two homeservers that know each other by a private authority: a Domicile of two nodes, and a Synapse.

Three people live here and two there. All use clients that encrypt; whose name begins with N uses matrix-nio, with J
matrix-js-sdk.
"""

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.federation.authority import Authority
from tests.interop.cast import Wardrobe, device_name
from tests.interop.client import Client
from tests.interop.deployment import Deployment
from tests.interop.synapse import Synapse


@dataclass(frozen=True)
class Neighbours:
    """``nasrin`` (Iran), ``noemie``, ``jules`` (France) live on ``domicile``; ``nils`` and ``jana`` on ``synapse``."""

    domicile: Deployment
    synapse: Synapse
    wardrobe: Wardrobe
    nasrin: Client
    noemie: Client
    jules: Client
    nils: Client
    jana: Client

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Cut the links both ways for a while."""
        links = [server.link for server in (self.domicile, self.synapse) if server.link is not None]
        for link in links:
            link.cut()
        try:
            yield
        finally:
            for link in links:
                link.mend()


@contextlib.contextmanager
def neighbours(folder: Path) -> Iterator[Neighbours]:
    """Both servers, and the people, logged in."""
    (folder / "authority").mkdir()
    authority = Authority(folder / "authority")
    wardrobe = Wardrobe(folder)
    with Deployment(folder, authority=authority) as domicile, Synapse(folder, authority) as synapse:
        try:
            people = {}
            for name, kind, token in (
                ("nasrin", "nio", domicile.registration_token("IR")),
                ("noemie", "nio", domicile.registration_token("FR")),
                ("jules", "js", domicile.registration_token("FR")),
                ("nils", "nio", None),
                ("jana", "js", None),
            ):
                house = synapse if token is None else domicile
                people[name] = wardrobe.client("js" if kind == "js" else "nio", name, house.base_url)
                localpart = f"{name}-{secrets.token_hex(4)}"
                people[name].register(localpart, secrets.token_urlsafe(12), device_name(name), token)
                people[name].sets_up_cross_signing()
            yield Neighbours(domicile, synapse, wardrobe, **people)
        finally:
            wardrobe.close()
