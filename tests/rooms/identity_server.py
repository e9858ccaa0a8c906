"""An identity server, small and real: it looks addresses up by their hashes, keeps invitations, and signs for those who
have proved an address. What it is asked is held against the specification.

spec: identity-service-api/
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson

from homeserver.protocol.signing import SigningKey, encode_base64_url, sign_json
from tests import openapi
from tests.federation.authority import Asked

NAME = "id.example.net"
TOKEN = "token-of-alice"
API = "/_matrix/identity/v2"


@dataclass
class IdentityServer:
    """``bound``: addresses, and whose they are. ``asked``: method, path and body of each request. ``faults``: what of
    these is not as specified. ``instead``: what it says at a path, in place of the truth."""

    bound: dict[tuple[str, str], str] = field(default_factory=dict)
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    instead: dict[str, tuple[int, Any]] = field(default_factory=dict)
    peppers: list[str] = field(default_factory=lambda: ["matrixrocks"])
    revoked: bool = False
    key: SigningKey = field(default_factory=lambda: SigningKey("0", b"i" * 32))

    async def serve(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        """The script of a `Stranger`."""
        method, target, _ = asked.line.split()
        headers = {"Authorization": asked.header("Authorization") or ""}
        status, body = self.answer(method, target, headers, asked.body)
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        """Answer a request."""
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        told = orjson.loads(body) if body else None
        self.asked.append((method, path, told))
        operation = openapi.operation(method, path)
        if operation is None:
            return 404, b'{"errcode":"M_UNRECOGNIZED","error":"what?"}'
        if operation.body is not None:
            self.faults += openapi.schema_faults(f"{operation.pointer}/body/application~1json", told)
        if path in self.instead:
            status, answer = self.instead[path]
        elif path == f"{API}/pubkey/isvalid":
            answer = {"valid": query.get("public_key") == [self.key.verify_key.base64] and not self.revoked}
            status = 200
        elif headers.get("Authorization") != f"Bearer {TOKEN}":
            status, answer = 401, {"errcode": "M_UNAUTHORIZED", "error": "who are you?"}
        else:
            status, answer = self._known(path, told)
        self.faults += [] if path in self.instead else operation.answer_faults(status, answer)
        return status, answer if isinstance(answer, bytes) else orjson.dumps(answer)

    def _known(self, path: str, told: Any) -> tuple[int, Any]:
        pepper = self.peppers[0]
        if path == f"{API}/hash_details":
            if len(self.peppers) > 1:  # it changes right after it was told
                self.peppers.pop(0)
            return 200, {"lookup_pepper": pepper, "algorithms": ["none", "sha256"]}
        if path == f"{API}/lookup":
            if told["pepper"] != pepper:
                return 400, {"errcode": "M_INVALID_PEPPER", "error": "another by now"}
            assert told["algorithm"] == "sha256"
            users = {_hashed(f"{name} {kind} {pepper}"): user_id for (kind, name), user_id in self.bound.items()}
            return 200, {"mappings": {each: users[each] for each in told["addresses"] if each in users}}
        assert path == f"{API}/store-invite"
        if told["medium"] != "email":
            return 400, {"errcode": "M_UNRECOGNIZED", "error": "e-mail only"}
        user_id = self.bound.get((told["medium"], told["address"]))
        if user_id is not None:
            return 400, {"errcode": "M_THREEPID_IN_USE", "error": "known", "mxid": user_id}
        token = f"token{len(self.kept)}"
        self.kept[token] = told
        url = f"https://{NAME}{API}/pubkey/isvalid"
        keys = [{"public_key": self.key.verify_key.base64, "key_validity_url": url}]
        return 200, {"token": token, "public_keys": keys, "display_name": "b…@e…"}

    def bind(self, address: str, user_id: str) -> dict[str, Any]:
        """Somebody proves that an e-mail address is theirs; what their server is told then."""
        self.bound["email", address] = user_id
        about = {"medium": "email", "address": address, "mxid": user_id}
        invites = [
            {**about, "room_id": kept["room_id"], "sender": kept["sender"], "signed": self.signed(token, user_id)}
            for token, kept in self.kept.items()
            if kept["address"] == address
        ]
        return {**about, "invites": invites}

    def signed(self, token: str, user_id: str) -> dict[str, Any]:
        """That a user has the address for which an invitation was kept."""
        return sign_json({"mxid": user_id, "token": token}, NAME, self.key)

    def paths(self) -> list[str]:
        """Where it was asked, in order."""
        return [path.removeprefix(API) for _, path, _ in self.asked]


def _hashed(text: str) -> str:
    return encode_base64_url(sha256(text.encode()).digest())
