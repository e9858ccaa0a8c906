"""What the errors of PostgreSQL mean to a caller. The detail of the server's texts quotes values, so it is left out."""

from __future__ import annotations

import psycopg

from homeserver.protocol.errors import InvalidParam, ResidencyViolation
from homeserver.storage.engine import ConstraintViolation, DatabaseFault, UniqueViolation, log
from homeserver.storage.setbacks import Conflict, InDoubt, Lost, Pressed

_LOST_STATES = ("08", "26000", "57P", "58", "XX001", "XX002")
"""Beginnings of SQLSTATE after which the connections are made anew. 26000: the server has forgotten what was prepared
on this one, as it does when something between the two gives out another session."""
_PRESSED_STATES = ("53", "57014", "55P03", "25P03")
_CONFLICT_STATES = ("40001", "40P01")
_PARAM_STATES = {
    "22021": "Text must not contain NUL characters",
    "22P05": "Text must be valid Unicode",
    "22003": "Integers must have at most 64 bits",
    "54000": "The value is too long to be looked up",
}


def meaning(fault: BaseException, node: str) -> BaseException:
    """What an error of the driver means to the caller."""
    state = getattr(fault, "sqlstate", None) or ""
    text = str(fault).strip()
    if isinstance(fault, psycopg.Error) and fault.diag.message_primary:  # without the detail, which quotes values
        text = fault.diag.message_primary
    if isinstance(fault, UnicodeEncodeError):
        return InvalidParam("Text must be valid Unicode")
    if isinstance(fault, OverflowError):
        return InvalidParam("Integers must have at most 64 bits")
    if state.startswith(_CONFLICT_STATES):
        return Conflict(text)
    if state.startswith(_PRESSED_STATES):
        return Pressed(text)
    if state.startswith(_LOST_STATES) or (not state and isinstance(fault, psycopg.OperationalError)):
        return Lost(text)
    if state in _PARAM_STATES:
        return InvalidParam(_PARAM_STATES[state])
    if isinstance(fault, psycopg.DataError) and not state and "NUL" in text:
        return InvalidParam("Text must not contain NUL characters")
    return _refusal(fault, state, text, node)


def meaning_of_commit(fault: BaseException, node: str) -> BaseException:
    """What it means when the trip fails that carries COMMIT.

    A server that answers ERROR has undone the transaction. With FATAL it ends the session, perhaps while it waits for
    a standby with the commit done; no answer says nothing.
    """
    found = meaning(fault, node)
    answered = isinstance(fault, psycopg.Error) and fault.diag.severity_nonlocalized == "ERROR"
    return InDoubt(str(found)) if isinstance(found, Lost) and not answered else found


def _refusal(fault: BaseException, state: str, text: str, node: str) -> BaseException:
    if state == "23503" and isinstance(fault, psycopg.Error) and '"residents"' in (fault.diag.message_detail or ""):
        log.error("residency violation", node=node, table=fault.diag.table_name)
        return ResidencyViolation(f"A row was refused: its owner does not reside on {node}")
    if state == "23505":
        return UniqueViolation(text)
    if state.startswith("23"):
        return ConstraintViolation(text)
    return DatabaseFault(text)
