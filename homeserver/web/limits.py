"""Rate limits: a token bucket for each class of requests and each user or address.

Memory is bounded: what is full again is forgotten, and beyond the capacity the buckets that were used
least are. An address is held as a tag under a key that dies with the process, never as itself.

spec: client-server-api/#rate-limiting
"""

from __future__ import annotations

import heapq
import ipaddress
import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b

from homeserver.protocol.errors import LimitExceeded


class Limit(StrEnum):
    """What a request counts as: the names of the buckets in the settings. What has no bucket is not limited."""

    NONE = "none"
    REQUEST = "request"
    MESSAGE = "message"
    LOGIN = "login"
    LOGIN_FAILURE = "login_failure"
    LOGIN_TOKEN = "login_token"  # noqa: S105
    REGISTRATION = "registration"
    VERIFICATION = "verification"
    VERIFICATION_OF_ONE = "verification_of_one"
    ROOM_CREATION = "room_creation"
    JOIN = "join"
    INVITE = "invite"
    INVITE_FROM_SERVER = "invite_from_server"
    INVITE_FROM_USER = "invite_from_user"
    INVITED = "invited"
    MEDIA = "media"
    KEYS = "keys"
    TO_DEVICE = "to_device"
    EPHEMERAL = "ephemeral"
    PROFILE = "profile"
    REPORT = "report"
    DIRECTORY = "directory"
    ADMINISTRATION = "administration"
    FEDERATION = "federation"


@dataclass(frozen=True, slots=True)
class Bucket:
    """``burst`` requests at once, and ``per_second`` in the long run."""

    per_second: float
    burst: int

    def __post_init__(self) -> None:
        if not self.per_second > 0 or self.burst < 1:
            raise ValueError("a bucket needs a rate above zero and room for at least one request")


class Limits:
    """The buckets in use. ``seconds`` is a monotonic clock.

    A bucket is kept as the moment at which it will be full again; what is absent is full.
    """

    def __init__(self, buckets: Mapping[str, Bucket], seconds: Callable[[], float], *, capacity: int = 100_000) -> None:
        self._buckets = {Limit(name): bucket for name, bucket in buckets.items()}
        self._seconds = seconds
        self._capacity = capacity
        self._full_at: dict[tuple[Limit, bytes | str], float] = {}
        self._key = secrets.token_bytes(32)

    def __len__(self) -> int:
        return len(self._full_at)

    def charge(self, limit: Limit, who: bytes | str) -> None:
        """Count one request of ``who`` (a user id, or what `tag` gives). Raises LimitExceeded."""
        bucket = self._buckets.get(limit)
        if bucket is None:
            return
        now = self._seconds()
        full_at = self._full_at.get((limit, who), now)
        if full_at < now:
            full_at = now
        wait = full_at - now - (bucket.burst - 1) / bucket.per_second
        if wait > 1e-9:  # smaller is rounding
            raise LimitExceeded(math.ceil(wait * 1000))
        self._full_at[limit, who] = full_at + 1 / bucket.per_second
        if len(self._full_at) > self._capacity:
            self._forget(now)

    def tag(self, address: str) -> bytes:
        """What stands for an address: 8 bytes that cannot be traced back. IPv6 counts by network (/64)."""
        if ":" in address:
            try:
                packed = ipaddress.IPv6Address(address.partition("%")[0])
                address = str(packed.ipv4_mapped or packed.packed[:8].hex())
            except ValueError:
                pass  # not an address, and told apart as the text it is
        return blake2b(address.encode(errors="replace"), digest_size=8, key=self._key).digest()

    def _forget(self, now: float) -> None:
        self._full_at = {key: full_at for key, full_at in self._full_at.items() if full_at > now}
        if len(self._full_at) > self._capacity:
            kept = heapq.nlargest(self._capacity // 2, self._full_at.items(), key=lambda entry: entry[1])
            self._full_at = dict(kept)
