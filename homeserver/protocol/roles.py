"""The roles of those who administer a deployment."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What somebody may do. An operator keeps the deployment running and its accounts in order; that is the
    administrator of other documents, and has the rights of one in the client API."""

    OPERATOR = "operator"
    RESIDENCY_EDITOR = "residency-editor"
    APPROVER = "approver"
    AUDITOR = "auditor"
