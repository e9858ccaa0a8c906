"""Every error that Domicile answers with, as one tree.

    Refusal                        a Matrix error: errcode, HTTP status, fields
    ├── BadRequest … (one class per errcode of the specification)
    └── ResidencyRefusal …         ours: a Matrix errcode plus ``org.domicile.reason``

The errcode and status are class attributes; an instance adds the sentence a person reads and
the fields that explain it. Errors of *other servers* are not in this tree (see context.py), so
that they never reach a client by accident.

spec: client-server-api/#standard-error-response
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class Refusal(Exception):
    """A request that is answered with a Matrix error. ``fields`` are merged into the JSON answer."""

    errcode: ClassVar[str] = "M_UNKNOWN"
    status: ClassVar[int] = 400

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields

    def body(self) -> dict[str, Any]:
        """The JSON object of the answer."""
        return {"errcode": self.errcode, "error": self.message, **self.fields}


class Unknown(Refusal):
    errcode, status = "M_UNKNOWN", 400


class Unrecognized(Refusal):
    """No such endpoint."""

    errcode, status = "M_UNRECOGNIZED", 404


class MethodNotAllowed(Refusal):
    errcode, status = "M_UNRECOGNIZED", 405


class NotJson(Refusal):
    errcode, status = "M_NOT_JSON", 400


class BadJson(Refusal):
    errcode, status = "M_BAD_JSON", 400


class InvalidParam(Refusal):
    errcode, status = "M_INVALID_PARAM", 400


class MissingParam(Refusal):
    errcode, status = "M_MISSING_PARAM", 400


class ServerControlled(Refusal):
    """Account data that only the server sets. spec: client-server-api/#server-behaviour-13"""

    errcode, status = "M_BAD_JSON", 405


class ProfileTooLarge(Refusal):
    errcode, status = "M_PROFILE_TOO_LARGE", 400


class KeyTooLarge(Refusal):
    """The name of a profile field is too long."""

    errcode, status = "M_KEY_TOO_LARGE", 400


class TooLarge(Refusal):
    errcode, status = "M_TOO_LARGE", 413


class RemoteTooLarge(TooLarge):
    """What another server has is too large. spec: client-server-api/#content-repo-security-considerations"""

    status = 502


class UriTooLong(TooLarge):
    status = 414


class HeadersTooLarge(TooLarge):
    status = 431


class MalformedRequest(Unknown):
    """What arrived is not a request of HTTP/1.0 or HTTP/1.1."""


class RequestTimeout(Unknown):
    """The request did not arrive in time."""

    status = 408


class ExpectationFailed(Unknown):
    status = 417


class VersionNotSupported(Unknown):
    """A version of HTTP other than 1.0 and 1.1."""

    status = 505


class ServerUnreachable(Unknown):
    """Another server was needed for the answer, and gave none."""

    status = 502


class InternalError(Unknown):
    """A fault of ours. What went wrong stands in the log, never in the answer."""

    status = 500


class MissingToken(Refusal):
    errcode, status = "M_MISSING_TOKEN", 401


class UnknownToken(Refusal):
    """The access token is not valid; ``soft_logout=True`` when it merely expired."""

    errcode, status = "M_UNKNOWN_TOKEN", 401


class Unauthorized(Refusal):
    errcode, status = "M_UNAUTHORIZED", 401


class Forbidden(Refusal):
    errcode, status = "M_FORBIDDEN", 403


class RoleNeeded(Forbidden):
    """Only those may do this who have one of some roles, and the caller has none of them."""

    def __init__(self, roles: Sequence[str]) -> None:
        named = " or ".join(roles)
        super().__init__(
            f"This needs the role {named}", **{"org.domicile.reason": "role_needed", "org.domicile.roles": [*roles]}
        )


class NotRecommended(Forbidden):
    """A policy server does not recommend an event. spec: server-server-api/#post_matrixpolicyv1sign"""

    status = 400


class Unauthenticated(Refusal):
    """A user-interactive authentication that has not been completed: 401 whose body is not an error unless a
    stage failed.

    spec: client-server-api/#user-interactive-authentication-api
    """

    errcode, status = "M_FORBIDDEN", 401

    def __init__(self, challenge: dict[str, Any], failure: Refusal | None = None) -> None:
        super().__init__("Additional authentication is needed")
        self.challenge = challenge
        self.failure = failure

    def body(self) -> dict[str, Any]:
        return {**self.challenge, **(self.failure.body() if self.failure else {})}


class InviteBlocked(Refusal):
    """The invited wants no invitations. spec: client-server-api/#invite-permission"""

    errcode, status = "M_INVITE_BLOCKED", 403


class NotFound(Refusal):
    errcode, status = "M_NOT_FOUND", 404


class LimitExceeded(Refusal):
    """spec: client-server-api/#rate-limiting"""

    errcode, status = "M_LIMIT_EXCEEDED", 429

    def __init__(self, retry_after_ms: int) -> None:
        super().__init__("Too many requests; try again later", retry_after_ms=retry_after_ms)
        self.retry_after_ms = retry_after_ms


class UserInUse(Refusal):
    errcode, status = "M_USER_IN_USE", 400


class InvalidUsername(Refusal):
    errcode, status = "M_INVALID_USERNAME", 400


class RoomInUse(Refusal):
    errcode, status = "M_ROOM_IN_USE", 400


class AliasInUse(Refusal):
    """Not an errcode of its own in the specification: 409 M_UNKNOWN."""

    errcode, status = "M_UNKNOWN", 409


class InvalidRoomState(Refusal):
    errcode, status = "M_INVALID_ROOM_STATE", 400


class UnsupportedRoomVersion(Refusal):
    errcode, status = "M_UNSUPPORTED_ROOM_VERSION", 400


class IncompatibleRoomVersion(Refusal):
    errcode, status = "M_INCOMPATIBLE_ROOM_VERSION", 400


class BadAlias(Refusal):
    errcode, status = "M_BAD_ALIAS", 400


class UserLocked(Refusal):
    """The account is locked; its sessions stay. spec: client-server-api/#account-locking"""

    errcode, status = "M_USER_LOCKED", 401

    def __init__(self) -> None:
        super().__init__("This account has been locked", soft_logout=True)


class UserSuspended(Refusal):
    errcode, status = "M_USER_SUSPENDED", 403


class WeakPassword(Refusal):
    errcode, status = "M_WEAK_PASSWORD", 400


class ThreepidInUse(Refusal):
    errcode, status = "M_THREEPID_IN_USE", 400


class ThreepidDenied(Refusal):
    """An identifier that the operator does not take."""

    errcode, status = "M_THREEPID_DENIED", 403


class ThreepidAuthFailed(Refusal):
    """The ownership of an identifier has not been proved."""

    errcode, status = "M_THREEPID_AUTH_FAILED", 403


class MediumNotSupported(Refusal):
    errcode, status = "M_THREEPID_MEDIUM_NOT_SUPPORTED", 400


class ServerNotTrusted(Refusal):
    """An identity server was named that this server does not ask."""

    errcode, status = "M_SERVER_NOT_TRUSTED", 400


class TokenIncorrect(Refusal):
    errcode, status = "M_TOKEN_INCORRECT", 400


class SessionExpired(Refusal):
    errcode, status = "M_SESSION_EXPIRED", 400


class NotDelivered(Refusal):
    """A message could not be handed over to the mail server or the gateway of text messages."""

    errcode, status = "M_UNKNOWN", 502


class GuestAccessForbidden(Refusal):
    errcode, status = "M_GUEST_ACCESS_FORBIDDEN", 403


class WrongRoomKeysVersion(Refusal):
    """The answer carries ``current_version``."""

    errcode, status = "M_WRONG_ROOM_KEYS_VERSION", 403


class Exclusive(Refusal):
    errcode, status = "M_EXCLUSIVE", 400


class UnknownDevice(Refusal):
    """The device that an application service wants to act as. spec: application-service-api/#identity-assertion"""

    errcode, status = "M_UNKNOWN_DEVICE", 400


class UrlNotSet(Refusal):
    """An application service has no address. spec: application-service-api/#pinging-1"""

    errcode, status = "M_URL_NOT_SET", 400


class BadStatus(Refusal):
    """An application service answered with an error: the fields ``status`` and ``body`` are what it said."""

    errcode, status = "M_BAD_STATUS", 502


class ConnectionFailed(Refusal):
    """An application service could not be reached."""

    errcode, status = "M_CONNECTION_FAILED", 502


class ConnectionTimeout(Refusal):
    """An application service did not answer in time."""

    errcode, status = "M_CONNECTION_TIMEOUT", 504


class QueryTimeout(Unknown):
    """An application service was asked whether something exists, and did not say.

    spec: application-service-api/#querying
    """

    status = 408


class NotYetUploaded(Refusal):
    errcode, status = "M_NOT_YET_UPLOADED", 504


class CannotOverwriteMedia(Refusal):
    errcode, status = "M_CANNOT_OVERWRITE_MEDIA", 409


class NotInThread(Refusal):
    """Not specified yet (MSC4306)."""

    errcode, status = "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD", 400


class ConflictingUnsubscription(Refusal):
    """Not specified yet (MSC4306)."""

    errcode, status = "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION", 409


class DelayedEventOver(Refusal):
    """The opposite of what is asked has been done. Not an errcode of its own: 409 M_UNKNOWN."""

    errcode, status = "M_UNKNOWN", 409


class DuplicateAnnotation(Refusal):
    """The user has annotated the event so already. spec: client-server-api/#avoiding-duplicate-annotations"""

    errcode, status = "M_DUPLICATE_ANNOTATION", 400


class InvalidSignature(Refusal):
    errcode, status = "M_INVALID_SIGNATURE", 400


class UnableToAuthoriseJoin(Refusal):
    errcode, status = "M_UNABLE_TO_AUTHORISE_JOIN", 400


class UnableToGrantJoin(Refusal):
    errcode, status = "M_UNABLE_TO_GRANT_JOIN", 400


class UnknownPos(Refusal):
    errcode, status = "M_UNKNOWN_POS", 400


class PlaintextRefused(Refusal):
    """An event that would be readable by the server. ``org.domicile.plaintext_refused`` is always true."""

    errcode, status = "M_FORBIDDEN", 403

    def __init__(self, message: str) -> None:
        super().__init__(
            message, **{"org.domicile.reason": "plaintext_refused", "org.domicile.plaintext_refused": True}
        )


class OAuthRefusal(Refusal):
    """An error of OAuth 2.0, which has a form of its own: ``code`` is one of RFC 6749, 7009, 7591 or 8628."""

    def __init__(self, code: str, message: str, status: int = 400, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.code = code
        self.status = status  # type: ignore[misc]  # of the class elsewhere, for each errcode has one

    def body(self) -> dict[str, Any]:
        """See `Refusal.body`. spec: client-server-api/#oauth-20-api"""
        return {"error": self.code, "error_description": self.message, **self.fields}


class Conflict(Refusal):
    """What an operator wants done is done already, or something else has been done meanwhile."""

    errcode, status = "M_UNKNOWN", 409


class FlowDenied(Refusal):
    """A relation for which the residency policy names no flow, or whose border is closed by an isolation for now."""

    errcode, status = "M_FORBIDDEN", 403

    def __init__(self, message: str, *, source: str, destination: str, data_class: str, isolated: bool = False) -> None:
        super().__init__(
            message,
            **{
                "org.domicile.reason": "isolated" if isolated else "flow_denied",
                "org.domicile.flow": {"from": source, "to": destination, "class": data_class},
            },
        )


class ConsentNotGiven(Refusal):
    """A relation by which rooms of the user would cross a border that they have not agreed to.

    Clients show the page at ``consent_uri``. Not an errcode of the specification, but one that clients know.
    """

    errcode, status = "M_CONSENT_NOT_GIVEN", 403

    def __init__(self, message: str, *, consent_uri: str, source: str, targets: Sequence[str]) -> None:
        super().__init__(
            message,
            consent_uri=consent_uri,
            **{"org.domicile.reason": "consent_needed", "org.domicile.consent": {"from": source, "to": list(targets)}},
        )


class NodeUnavailable(Refusal):
    """The node that holds the data cannot be reached; nothing is answered from elsewhere in its place."""

    errcode, status = "M_UNKNOWN", 503

    def __init__(self, node: str) -> None:
        super().__init__(
            "The storage of this account is unreachable at the moment. Nothing is lost; try again later.",
            **{"org.domicile.reason": "node_unavailable", "org.domicile.node": node},
        )
        self.node = node


class LogSetBack(Refusal):
    """The key log of a node is older than what was shown of it, or another: nothing of it is shown."""

    errcode, status = "M_UNKNOWN", 503

    def __init__(self, node: str) -> None:
        super().__init__(
            "The key log of this node has been set back behind what was shown of it, and says nothing any more.",
            **{"org.domicile.reason": "log_set_back", "org.domicile.node": node},
        )


class DisclosureRefused(Refusal):
    """An order is not carried out; ``why`` is a word for it, which stands in the register of disclosures too."""

    errcode, status = "M_FORBIDDEN", 403

    def __init__(self, message: str, why: str) -> None:
        super().__init__(
            message, **{"org.domicile.reason": "disclosure_refused", "org.domicile.disclosure_refused": why}
        )
        self.why = why


class RegisterDamaged(Refusal):
    """The register of disclosures of a node is not what was written: nothing is disclosed there any more."""

    errcode, status = "M_UNKNOWN", 503

    def __init__(self, node: str, fault: str) -> None:
        super().__init__(
            f"The register of disclosures of {node} is not what was written: {fault}. Nothing is disclosed there until"
            " the node has been restored from a backup that has it whole.",
            **{"org.domicile.reason": "register_damaged", "org.domicile.node": node},
        )


class CommitUnknown(NodeUnavailable):
    """The node was lost while it committed: whether it did can be told only when it is back."""


class ResidencyViolation(Refusal):
    """A row was about to rest where its owner is not pinned. Always a fault of ours: logged, counted, refused."""

    errcode, status = "M_UNKNOWN", 500

    def __init__(self, message: str) -> None:
        super().__init__(message, **{"org.domicile.reason": "pin_mismatch"})
