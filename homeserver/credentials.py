"""The deployment's own secrets, keys and certificates: made once, read, and told what is wrong with them."""

from __future__ import annotations

import secrets
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from config.load import read_secret
from config.problems import Faults, Problem
from homeserver import places
from homeserver.context import Identity
from homeserver.protocol.signing import SigningKey, read_keys
from homeserver.runtime import durable
from homeserver.runtime.certificates import Trust
from homeserver.web.server import ServerCertificate

if TYPE_CHECKING:
    from pathlib import Path

    from config.policy import Policy
    from config.settings import Settings

SECRET_FILE: Final = "deployment.secret"  # noqa: S105 - its name
DIRECTORY: Final = "directory.db"


class StartError(Exception):
    """The deployment cannot be started; the message says what to do."""


def known_secret(settings: Settings) -> bytes | None:
    """The deployment secret, if there is one already. Raises Faults, OSError."""
    if settings.deployment_secret is not None:
        return read_secret(settings.deployment_secret).encode()
    path = settings.data_dir / SECRET_FILE
    return path.read_bytes().strip() if path.exists() else None


def lost_secret(settings: Settings) -> str:
    """What to say when the deployment secret was made once and is gone; empty when it is not so."""
    path = settings.data_dir / SECRET_FILE
    if settings.deployment_secret is not None or path.exists() or not (settings.data_dir / DIRECTORY).exists():
        return ""
    return f"{path} is gone, and without it nobody's data can be found: restore it from a backup"


def deployment_secret(settings: Settings) -> tuple[bytes, bool]:
    """The secret from which keys of hashes come, and whether it was made just now."""
    known = known_secret(settings)
    if known is not None:
        return known, False
    path = settings.data_dir / SECRET_FILE
    if lost := lost_secret(settings):
        raise StartError(lost)
    secret = secrets.token_urlsafe(32).encode()
    durable.put(path, secret + b"\n", draft=path.with_suffix(".new"))
    return secret, True


def identity_of(settings: Settings, secret: bytes, key: SigningKey, *further_keys: SigningKey) -> Identity:
    """The deployment's name and keys. Raises StartError, and Faults for the policy server's key."""
    recommends = policy_key(settings, secret)
    return Identity(settings.server_name, key, derived(secret, "identity"), further_keys, recommends)


def derived(secret: bytes, purpose: str) -> bytes:
    """A key of its own for each purpose."""
    return blake2b(secret, digest_size=32, person=purpose.encode()).digest()


def signing_keys(settings: Settings) -> list[SigningKey]:
    """The deployment's keys that are in use; it signs with the first. Raises StartError, and Faults when their file
    cannot be read."""
    text = read_secret(settings.signing_key)
    try:
        keys = read_keys(text)
    except ValueError as error:
        raise StartError(f"the signing key is none: {error}; restore it from a backup") from None
    if not keys:
        raise StartError("the file of the signing key holds none; restore it from a backup")
    ids = [key.key_id for key in keys] + [old.id for old in settings.federation.old_keys]
    if twice := next((key_id for key_id in ids if ids.count(key_id) > 1), None):
        raise StartError(f"there are two signing keys {twice}: another server could not tell which is meant")
    return keys


def policy_key(settings: Settings, secret: bytes) -> SigningKey | None:
    """The key with which the deployment recommends events as a policy server; None when it is none. It follows from the
    deployment secret unless the settings name another.

    Raises StartError, and Faults when its file cannot be read.
    """
    table = settings.policy_server
    if not table.enabled:
        return None
    if table.signing_key is None:
        return SigningKey("policy_server", derived(secret, "policy server"))
    try:
        keys = read_keys(read_secret(table.signing_key))
    except ValueError as error:
        raise StartError(f"the key of the policy server is none: {error}") from None
    if len(keys) != 1:
        raise StartError(f"the file of the policy server's key holds {len(keys)}: it signs with one")
    if keys[0].verify_key.raw in [key.verify_key.raw for key in signing_keys(settings)]:
        raise StartError("the key of the policy server is a signing key of this server: it needs one of its own")
    return keys[0]


def trusted(settings: Settings) -> Trust:
    """The authorities whose certificates of other servers are believed. Raises StartError."""
    federation = settings.federation
    try:
        return Trust(federation.ca_file, verify=federation.verify_certificates)
    except Exception as error:
        raise StartError(
            f"{federation.ca_file} is no file of certificates that can be used: "
            + reason_of(error, *filter(None, [federation.ca_file]))
        ) from None


def unreadable_secrets(settings: Settings, *policies: Policy) -> list[Problem]:
    """What is wrong with the files of secrets that the configuration names."""
    registration = settings.registration
    named = [settings.signing_key, settings.deployment_secret, registration.shared_secret, registration.tokens]
    named.append(settings.policy_server.signing_key)
    named.append(None if settings.email is None else settings.email.password)
    named.append(None if settings.sms is None else settings.sms.secret)
    named += [provider.client_secret for provider in settings.identity_providers]
    named.append(None if settings.turn is None else settings.turn.secret)
    found: list[Problem] = []
    for secret in named:
        if secret is not None:
            try:
                read_secret(secret)
            except Faults as faults:
                found += faults.problems
    for policy in policies:
        found += places.unreadable_passwords(policy)
    return found


def unusable_certificates(settings: Settings) -> list[str]:
    """What is wrong with the certificates of the listeners, one sentence each."""
    found = []
    for listener in settings.listeners:
        if listener.tls is not None:
            try:
                ServerCertificate(listener.tls.certificate, listener.tls.key)
            except Exception as error:
                certificate, key = listener.tls.certificate, listener.tls.key
                reason = reason_of(error, certificate, key)
                found.append(f"{certificate} and {key} are no certificate with its key that can be used: {reason}")
    return found


def reason_of(error: Exception, *paths: Path) -> str:
    """Why a certificate cannot be used: the file that cannot be read, or what OpenSSL says, as a person says it."""
    for path in paths:
        try:
            path.read_bytes()
        except OSError as unreadable:
            return f"{path.name} cannot be read: {unreadable.strerror}"
    stack = error.args[0] if error.args else ()
    if not isinstance(stack, list | tuple):
        return str(error)
    said = [str(entry[-1]) for entry in stack if isinstance(entry, tuple) and entry]
    return ", ".join(words for words in said if words and words != "system lib") or "it cannot be read"
