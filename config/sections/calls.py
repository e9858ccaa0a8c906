"""What relays calls."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from config.forms import HOUR, WEB_ADDRESS
from config.kinds import Duration, ListOf, Secret, SecretFile, Span, Text
from config.tables import Setting

TURN_URI = Text(
    'the address of a TURN server such as "turn:turn.example.org:3478?transport=udp"',
    r"turns?:[A-Za-z0-9.\[\]:_-]{1,255}(?:\?transport=(?:udp|tcp))?",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The TURN server that relays calls between clients that cannot reach each other. It sees their addresses, and that
    they speak: choose it as you choose your nodes.
    """

    uris: Annotated[
        tuple[str, ...],
        Setting(ListOf(TURN_URI, least=1), "Where it is reached.", ("turn:turn.example.org:3478?transport=udp",)),
    ]
    secret: Annotated[
        Secret,
        Setting(
            SecretFile("DOMICILE_TURN_SECRET"),
            "The secret that it shares with this server (coturn: `static-auth-secret`), from which clients get "
            "passwords that hold for a while.",
            Secret(file=Path("turn.secret")),
        ),
    ]
    lifetime: Annotated[Duration, Setting(Span(), "How long such a password holds.")] = HOUR


@dataclass(frozen=True, slots=True, kw_only=True)
class Rtc:
    """Calls of many (MatrixRTC): the services through which clients reach a media server."""

    livekit: Annotated[
        tuple[str, ...],
        Setting(
            ListOf(WEB_ADDRESS),
            "Addresses of services that give out tokens for a LiveKit server, the preferred one first.",
            ("https://livekit.example.org",),
        ),
    ] = ()
