"""What an examination of a deployment finds, and what there is to be done about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be: ``count`` of ``what``, on a node or in the directory. ``remedy``: what can
    be done, in words."""

    node: str | None
    what: str
    count: int
    remedy: str

    def shown(self) -> dict[str, Any]:
        """As JSON."""
        return {"node": self.node, "what": self.what, "count": self.count, "remedy": self.remedy}
