"""Telling people that something has come."""

from dataclasses import dataclass
from typing import Annotated

from config.forms import DAY, HOUR, MINUTE, SECOND
from config.kinds import Duration, Flag, Span
from config.tables import Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """Telling devices, by push gateways, and people, by e-mail, that something has come. Never what it says.

    A gateway, or the domain of an e-mail address, stands where residency.toml says that a server of its name does; the
    class `notifications` must be let flow there.
    """

    details: Annotated[
        bool,
        Setting(
            Flag(),
            "Whether a gateway is told who sent which kind of event in which room, where a client does not ask for less"
            " (`event_id_only`) and the policy lets `events` flow there. Content is never told.",
        ),
    ] = True
    request_timeout: Annotated[Duration, Setting(Span(), "How long a gateway may take to answer.")] = 20 * SECOND
    longest_backoff: Annotated[
        Duration, Setting(Span(), "The longest pause before a gateway that takes no notifications is tried again.")
    ] = 30 * MINUTE
    give_up_after: Annotated[
        Duration, Setting(Span(), "What a gateway has not taken for so long is dropped, and so is what is older.")
    ] = DAY
    letter_after: Annotated[
        Duration, Setting(Span(), "How long something is unread until a letter says so to who asked for letters.")
    ] = 10 * MINUTE
    letter_every: Annotated[Duration, Setting(Span(), "The least time between two such letters.")] = 12 * HOUR
