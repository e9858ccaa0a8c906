"""A listener with TLS: a client that verifies talks to it, and a certificate that was replaced is used after SIGHUP."""

from __future__ import annotations

import datetime
import http.client
import ipaddress
import json
import shutil
import signal
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.operation.product import Product

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """A private certificate authority."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @staticmethod
    def new() -> Authority:
        """One that nobody trusts yet."""
        key, name = ec.generate_private_key(ec.SECP256R1()), named("A private authority")
        builder = signed_soon(name, name, key).add_extension(x509.BasicConstraints(True, None), critical=True)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        return Authority(key, builder.add_extension(own, critical=False).sign(key, hashes.SHA256()))

    def write(self, folder: Path, host: str = "127.0.0.1") -> None:
        """Write a certificate for a host, and its key, as the deployment's `tls.crt` and `tls.key`."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = signed_soon(named(host), self.certificate.subject, key)
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
        builder = builder.add_extension(names, critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
        made = builder.sign(self.key, hashes.SHA256())
        (folder / "tls.crt").write_bytes(made.public_bytes(Encoding.PEM) + self.certificate.public_bytes(Encoding.PEM))
        (folder / "tls.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    @property
    def trusted(self) -> ssl.SSLContext:
        """A client that trusts this authority only, and verifies."""
        return ssl.create_default_context(cadata=self.certificate.public_bytes(Encoding.PEM).decode())


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def signed_soon(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
    return builder.not_valid_before(now - DAY).not_valid_after(now + DAY)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Shop:
    """A deployment with a second listener, which speaks TLS."""

    def __init__(self, folder: Path) -> None:
        self.product = Product(folder)
        self.port = free_port()
        self.product.add(
            f'\n[[listeners]]\naddress = "127.0.0.1"\nport = {self.port}\nresources = ["client"]\n'
            'tls = { certificate = "tls.crt", key = "tls.key" }\n'
        )

    def health(self, context: ssl.SSLContext) -> dict[str, object]:
        """What `/health` says over TLS. Raises SSLError for a certificate that is not trusted."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=context)
        try:
            connection.request("GET", "/health")
            answer: dict[str, object] = json.loads(connection.getresponse().read())
            return answer
        finally:
            connection.close()

    def serial(self, authority: Authority) -> int:
        """The number of the certificate that a new connection is shown."""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=30) as plain,
            authority.trusted.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            shown = connection.getpeercert(binary_form=True)
            assert shown
            return x509.load_der_x509_certificate(shown).serial_number


def test_clients_verify_and_a_replaced_certificate_is_used(tmp_path: Path) -> None:
    shop, ours, others = Shop(tmp_path), Authority.new(), Authority.new()
    folder = shop.product.folder
    ours.write(folder)
    assert shop.product.run("check").status == 0
    with shop.product:
        assert shop.health(ours.trusted) == {"status": "ok", "nodes_down": []}
        with pytest.raises(ssl.SSLCertVerificationError):
            shop.health(others.trusted)
        plain = http.client.HTTPConnection("127.0.0.1", shop.port, timeout=30)
        plain.request("GET", "/health")
        with pytest.raises((http.client.HTTPException, OSError)):
            plain.getresponse()
        plain.close()
        first = shop.serial(ours)
        before = shop.product.lines
        (folder / "tls.crt").write_text("-----BEGIN CERTIFICATE-----\nhalf written")
        shop.product.send(signal.SIGHUP)
        shop.product.logged(r"a certificate was not reloaded; the one before stays in use.*tls\.crt", after=before)
        assert "Traceback" not in shop.product.since(before)
        assert shop.serial(ours) == first
        others.write(folder)
        before = shop.product.lines
        shop.product.send(signal.SIGHUP)
        shop.product.logged("certificates in use", after=before)
        assert shop.health(others.trusted)["status"] == "ok"
        with pytest.raises(ssl.SSLCertVerificationError):
            shop.health(ours.trusted)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("no certificate", "tls.crt cannot be read: No such file or directory"),
        ("junk", "no start line"),
        ("no key", "tls.key cannot be read: No such file or directory"),
        ("another key", "key values mismatch"),
    ],
)
def test_a_certificate_that_cannot_be_used(tmp_path: Path, fault: str, said: str) -> None:
    shop, authority = Shop(tmp_path), Authority.new()
    folder = shop.product.folder
    authority.write(folder)
    if fault == "no certificate":
        (folder / "tls.crt").unlink()
    elif fault == "junk":
        (folder / "tls.crt").write_text("junk")
    elif fault == "no key":
        (folder / "tls.key").unlink()
    else:
        shutil.copy(folder / "tls.crt", tmp_path / "kept")
        authority.write(folder)
        shutil.copy(tmp_path / "kept", folder / "tls.crt")
    for command in ("check", "serve"):
        done = shop.product.run(command)
        assert done.status == 1
        assert f"{folder / 'tls.crt'} and {folder / 'tls.key'} are no certificate" in done.complaint
        assert said in done.complaint
        assert "system lib" not in done.complaint
