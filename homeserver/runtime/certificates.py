"""Whom an outgoing connection must turn out to lead to: TLS whose certificate is for the name that was asked for."""

from __future__ import annotations

from pathlib import Path

from OpenSSL import SSL, crypto
from service_identity import VerificationError
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from service_identity.pyopenssl import extract_patterns
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from homeserver.runtime.addresses import address_of


class Trust:
    """The authorities that are believed: the system's, and those of one more PEM file.

    Raises OpenSSL.SSL.Error when the file cannot be read, or holds no certificate.
    """

    def __init__(self, ca_file: Path | None = None, *, verify: bool = True) -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
        context.set_alpn_protos([b"http/1.1"])
        context.set_default_verify_paths()
        if ca_file is not None:
            context.load_verify_locations(str(ca_file))
        self._context = context
        self._verify = verify

    def expecting(self, name: str) -> Expected:
        """What makes connections to ``name``: a host, or an address without brackets. Raises ValueError for neither."""
        return Expected(self._context, name, self._verify)


@implementer(IOpenSSLClientConnectionCreator)
class Expected:
    """The TLS of connections to one name. spec: server-server-api/#tls"""

    def __init__(self, context: SSL.Context, name: str, verify: bool) -> None:
        self._context = context
        self._name = name if address_of(name) is None else None  # an address has no place in SNI
        self._service = DNS_ID(name) if self._name is not None else IPAddress_ID(name)
        self._verify = verify

    def clientConnectionForTLS(self, tls: TLSMemoryBIOProtocol) -> SSL.Connection:  # noqa: N802
        """Called by Twisted for each new connection."""
        connection = SSL.Connection(self._context, None)
        if self._name is not None:
            connection.set_tlsext_host_name(self._name.encode("ascii"))
        if self._verify:
            connection.set_verify(SSL.VERIFY_PEER, self._judge)
        return connection

    def _judge(self, _: SSL.Connection, certificate: crypto.X509, fault: int, depth: int, good: int) -> bool:
        """Called by OpenSSL for each certificate of the chain; it must not raise."""
        if not good or depth:
            return bool(good)
        try:
            verify_service_identity(extract_patterns(certificate), [self._service], [])
        except (VerificationError, ValueError, TypeError):
            return False
        return True
