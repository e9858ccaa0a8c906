"""The vectors in tests/vectors: JSON that any implementation could run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).resolve().parent.parent / "vectors"


def read(name: str) -> dict[str, Any]:
    """The vector file of this name."""
    vectors: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    return vectors
