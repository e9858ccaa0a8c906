"""Where the application services' registrations are, and where their users rest."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from config.forms import PLACE
from config.kinds import FilePath
from config.tables import Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationServicePlace:
    """An application service (a bridge, or a bot): it acts for its users, and is sent what happens in their rooms.

    Its users rest on one node. What it is sent goes to the jurisdiction where it runs, if the residency policy lets it.
    """

    registration: Annotated[
        Path,
        Setting(FilePath(), "The registration file (YAML) that the service made.", Path("bridges/telegram.yaml")),
    ]
    node: Annotated[
        str | None, Setting(PLACE, "Where its users rest; may be left out where there is one node only.", "paris")
    ] = None
    jurisdiction: Annotated[
        str | None, Setting(PLACE, "Where the service runs, if not in the jurisdiction of that node.", "FR")
    ] = None
