"""What ``[federation_list]`` of ``residency.toml`` may say: whose list of servers is believed, and where it is."""

from dataclasses import dataclass
from typing import Annotated

from config.forms import HOUR
from config.kinds import Duration, ListOf, Span, Text, is_web_address
from config.public_keys import ED25519
from config.tables import Setting

FILE = "file:"


def _is_source(text: str) -> bool:
    if text.startswith(FILE):
        return len(text) > len(FILE) and "\0" not in text
    return is_web_address(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationList:
    """A list that says in which jurisdictions other servers are, signed by a key that several deployments accept.

    Entries of `[[peers]]` come before it. Whoever holds the key can place any server that no such entry places.
    """

    keys: Annotated[
        tuple[str, ...],
        Setting(
            ListOf(ED25519, least=1),
            "The public keys of which one must have signed the list; two while one takes the place of the other.",
            ("Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw",),
        ),
    ]
    url: Annotated[
        str,
        Setting(
            Text('a web address, or "file:" and a path', accepts=_is_source),
            "Where the list is: a web address, or a file, whose path starts from `data_dir` when relative.",
            "https://lists.example.org/servers.json",
        ),
    ]
    refresh: Annotated[
        Duration,
        Setting(Span(), "How often it is fetched. It is fetched also when a server appears that nothing places."),
    ] = HOUR
