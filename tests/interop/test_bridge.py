"""A play with a real bridge: a mautrix application service with encryption, which never logs in and never syncs."""

import contextlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.cast import Wardrobe, device_name
from tests.interop.client import CallError, Client
from tests.interop.deployment import Deployment, free_port

REGISTRATION = {
    "id": "telegram",
    "sender_localpart": "telegram_bot",
    "namespaces": {"users": [{"exclusive": True, "regex": "^@telegram_.*"}]},
    "rate_limited": False,
    "receive_ephemeral": True,
    "de.sorunome.msc2409.push_ephemeral": True,
    "org.matrix.msc3202": True,
    "io.element.msc4190": True,
}


class House(Deployment):
    """A deployment with a bridge registered, which may be on either node."""

    def __init__(self, folder: Path, node: str) -> None:
        super().__init__(folder)
        self.bridge_port = free_port()
        tokens = {"as_token": secrets.token_hex(16), "hs_token": secrets.token_hex(16)}
        self.registration: dict[str, Any] = {**REGISTRATION, **tokens, "url": f"http://127.0.0.1:{self.bridge_port}"}
        (self.folder / "telegram.yaml").write_text(json.dumps(self.registration))
        named = f'\n[[application_services]]\nregistration = "telegram.yaml"\nnode = "{node}"\n'
        with (self.folder / "domicile.toml").open("a") as settings:
            settings.write(named)


@contextlib.contextmanager
def bridged(folder: Path, node: str) -> Iterator[tuple[House, Client, Client]]:
    """A deployment, somebody in Iran, and the bridge."""
    with House(folder, node) as house, contextlib.closing(Wardrobe(folder / "clients")) as wardrobe:
        person = wardrobe.client("nio", "nasrin", house.base_url)
        person.register("nasrin", secrets.token_urlsafe(12), device_name("nasrin"), house.registration_token("IR"))
        bridge = wardrobe.client("mautrix", "telegram", house.base_url)
        bridge.user_id = f"@telegram_bot:{house.server_name}"
        served: dict[str, Any] = {
            "registration": house.registration,
            "server_name": house.server_name,
            "port": house.bridge_port,
        }
        bridge.device_id = bridge.call("serves", **served)
        yield house, person, bridge


def words() -> str:
    """Something that has never been said."""
    return f"nobody but the addressee reads {secrets.token_hex(8)}"


@pytest.mark.parametrize("node", ["tehran", "paris"])
def test_a_bridge_with_encryption(tmp_path: Path, node: str) -> None:
    with bridged(tmp_path, node) as (house, nasrin, bridge):
        room = nasrin.creates_room("portal", bridge)
        nasrin.sees_members(room, nasrin, bridge)
        for _ in range(2):
            said = words()
            nasrin.sends(room, said)
            heard = bridge.call("hears", text=said)
            assert (heard["room"], heard["sender"]) == (room, nasrin.user_id)
            answer = words()
            event_id = bridge.call("says", room=room, text=answer)
            assert nasrin.sees(room, bridge, answer) == event_id
        ghost = bridge.call("is_joined_by", room=room, name="joe")
        nasrin.call("wait_for_members", room=room, members={ghost: "join"})
        with pytest.raises(CallError) as refused:
            bridge.call("says_in_the_clear", room=room, text=words())
        assert (refused.value.status, refused.value.errcode) == (403, "M_FORBIDDEN")
        house.kill9()
        house.start()
        said = words()
        nasrin.sends(room, said)
        assert bridge.call("hears", text=said)["sender"] == nasrin.user_id
