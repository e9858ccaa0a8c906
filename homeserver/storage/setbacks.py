"""Why a database could not do what it was asked: between an engine and its connections only, callers see Matrix errors.

The invariant: `InDoubt` is raised for a COMMIT that may have happened, and for nothing else.
"""

from __future__ import annotations


class Setback(Exception):
    """The transaction came to nothing, and not by a fault of its statements. The text is for the operator."""


class Pressed(Setback):
    """The database cannot do it now: busy, full, short of memory. The connection stays."""


class Conflict(Setback):
    """Another transaction was in the way: this one must be run again from its start."""


class Lost(Setback):
    """The connection, the server or the file is of no more use."""


class InDoubt(Lost):
    """Lost in the COMMIT: only the database, once it is back, can tell whether it happened."""
