"""What a monitor keeps between two looks, and what it says of one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from homeserver.monitor.following import Followed


class Shown(NamedTuple):
    """A checkpoint that came with keys: of which log and size, its root (Base64), and when (seconds since 1970)."""

    origin: str
    size: int
    root: str
    since: int


@dataclass
class Seen:
    """What is kept between two looks. ``promised``: leaves that were told and were not in the tree: by log, index and
    digest, and when that was (seconds since 1970); ``shown``: checkpoints that came with keys and go further than what
    was served; ``ended``: logs that the deployment has said to have ended."""

    user_id: str
    opening: str
    logs: dict[str, Followed] = field(default_factory=dict)
    promised: list[tuple[str, int, str, int]] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def write(self) -> bytes:
        """As JSON."""
        logs = {origin: log.write() for origin, log in self.logs.items()}
        said = {"user_id": self.user_id, "opening": self.opening, "logs": logs}
        shown = [list(each) for each in self.shown]
        left = {"promised": self.promised, "shown": shown, "ended": self.ended}
        return orjson.dumps(said | left, option=orjson.OPT_INDENT_2)

    @classmethod
    def read(cls, raw: bytes) -> Seen:
        """What was written. Raises ValueError, KeyError, TypeError for what was not."""
        said = orjson.loads(raw)
        logs = {str(origin): Followed.read(log) for origin, log in said["logs"].items()}
        promised = [(str(log), int(index), str(digest), int(since)) for log, index, digest, since in said["promised"]]
        shown = [Shown(str(log), int(size), str(root), int(since)) for log, size, root, since in said.get("shown", [])]
        ended = [str(each) for each in said["ended"]]
        return cls(str(said["user_id"]), str(said["opening"]), logs, promised, shown, ended)


@dataclass
class Report:
    """What a look has found. ``changes``: of the user's keys, the oldest first; ``devices``: those of which the log
    speaks now, ``withheld`` those of them that others are not shown; ``faults``: what proves that something is wrong.
    ``stale``: keys changed between the questions, which are to be asked once more."""

    changes: list[dict[str, Any]] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)
    withheld: list[str] = field(default_factory=list)
    logs: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    stale: bool = False

    def as_json(self) -> dict[str, Any]:
        """The answer of the command."""
        return {
            "changes": self.changes,
            "devices": self.devices,
            "withheld": self.withheld,
            "logs": self.logs,
            "notes": self.notes,
            "faults": self.faults,
        }
