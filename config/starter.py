"""The files that ``domicile init`` writes: short, commented, and valid as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from config.kinds import quoted
from config.residency import FLOWING, DataClass

ROOM_CLASSES = tuple(
    data_class for data_class in FLOWING if data_class not in (DataClass.PRESENCE, DataClass.NOTIFICATIONS)
)


def initial_files(
    server_name: str,
    jurisdictions: Sequence[str],
    *,
    names: Mapping[str, str] | None = None,
    languages: Mapping[str, Sequence[str]] | None = None,
    nodes: Mapping[str, str] | None = None,
    public_base_url: str | None = None,
    address: str = "127.0.0.1",
    port: int = 8008,
    registration: str = "closed",
    flows: bool = False,
) -> dict[str, str]:
    """The text of ``domicile.toml`` and ``residency.toml`` of a new deployment, by file name.

    Args:
        server_name: the part of user ids after the colon.
        jurisdictions: codes, at least one; each gets a node, and the first is where users rest by default.
        names: names of jurisdictions by code, as users read them.
        languages: languages of jurisdictions by code.
        nodes: names of nodes by jurisdiction; the code in small letters unless given.
        public_base_url: where clients reach the server; the listener's address unless given.
        address: address of the one listener.
        port: port of the one listener.
        registration: ``open``, ``token`` or ``closed``.
        flows: let all that rooms need flow between the jurisdictions; else nothing flows, and the file shows how.

    The values are checked by loading the files, not here.
    """
    if not jurisdictions:
        raise ValueError("a deployment needs at least one jurisdiction")
    host = f"[{address}]" if ":" in address else address
    base_url = public_base_url or f"http://{host}:{port}"
    placed = {code: (nodes or {}).get(code, code.lower()) for code in dict.fromkeys(jurisdictions)}
    return {
        "domicile.toml": _domicile(server_name, base_url, address, port, registration),
        "residency.toml": _residency(placed, names or {}, languages or {}, flows),
    }


def _domicile(server_name: str, base_url: str, address: str, port: int, registration: str) -> str:
    return f"""\
# How this server runs. Whose data rests where is said in residency.toml.
# All keys are in docs/configuration.md; `domicile check --config` this file after an edit.

# The part of user ids after the colon. It can never be changed.
server_name = {quoted(server_name)}
# Where clients reach this server.
public_base_url = {quoted(base_url)}

# Relative paths start from this file.
data_dir = "data"
residency = "residency.toml"
# Other servers know this one by its signing key. Keep a copy in a safe place.
signing_key = "signing.key"

# Who answers for this server; shown to users and to other operators.
[operator]
# legal_name = "Example Telecom"
# contact = "mailto:abuse@example.org"

[[listeners]]
address = {quoted(address)}
port = {port}
resources = ["client", "federation", "console", "metrics"]
# tls = {{ certificate = "tls.crt", key = "tls.key" }}

[registration]
# open: everyone; token: who has a registration token; closed: only you make accounts, by `domicile user add`.
mode = {quoted(registration)}
# Tools that know this secret can make accounts.
shared_secret_file = "registration.secret"

[log]
level = "info"
"""


def _residency(
    placed: Mapping[str, str], names: Mapping[str, str], languages: Mapping[str, Sequence[str]], flows: bool
) -> str:
    parts = [
        "# Whose data rests where, and what may leave. All keys are in docs/configuration.md. After an edit,\n"
        "# `domicile check` says what is wrong with it, and a running server reads it again on SIGHUP.\n\n"
        "format = 1\n# Grows by one with each change.\nserial = 1\n"
    ]
    for code in placed:
        spoken = f"languages = [{', '.join(map(quoted, languages[code]))}]\n" if code in languages else ""
        parts.append(f"[jurisdictions.{code}]\nname = {quoted(names.get(code, code))}\n{spoken}")
    parts.append("# A node is a place of storage: one database and one media store, under data_dir.\n" + _nodes(placed))
    parts.append(_pins(placed))
    parts.append(_flows(list(placed), flows))
    return "\n".join(parts)


def _nodes(placed: Mapping[str, str]) -> str:
    return "\n".join(
        f"[nodes.{node}]\n"
        f"jurisdiction = {quoted(code)}\n"
        f"database = {quoted(f'sqlite:{node}/node.db')}\n"
        f"media = {quoted(f'file:{node}/media')}\n"
        for code, node in placed.items()
    )


def _pins(placed: Mapping[str, str]) -> str:
    first = next(iter(placed.values()))
    default = f"# Where the data of users rests whom no rule above matches.\n[default]\nnode = {quoted(first)}\n"
    if len(placed) == 1:
        return default
    return (
        "# Where the data of a new user rests: the first rule that matches counts. Rules can look at the beginning\n"
        "# of a verified phone number too, or at the registration token:\n"
        f'#     [[pins]]\n#     phone_prefix = "+33"\n#     node = {quoted(first)}\n'
        "[[pins]]\n"
        "choice = true                    # the user chooses when registering\n"
        f"nodes = [{', '.join(map(quoted, placed.values()))}]\n\n" + default
    )


def _flows(codes: Sequence[str], flows: bool) -> str:
    head = "# What may leave one jurisdiction for another. What no flow names does not leave.\n"
    classes = f"[{', '.join(map(quoted, ROOM_CLASSES))}]"
    pairs = [(source, [code for code in codes if code != source]) for source in codes]
    written = [
        f"[[flows]]\nfrom = {quoted(source)}\nto = [{', '.join(map(quoted, targets))}]\nclasses = {classes}\n"
        for source, targets in pairs
        if targets
    ]
    if written and flows:
        return head + "\n".join(written)
    if written:
        why = "# Users of different jurisdictions can share rooms once events and keys flow both ways:\n#\n"
    else:
        why = "# Users can share rooms with those of other servers once this is let:\n#\n"
        to = 'to = ["unknown"]                 # servers that no [[peers]] entry names'
        written = [f"[[flows]]\nfrom = {quoted(codes[0])}\n{to}\nclasses = {classes}\n"]
    return head + why + "".join(f"# {line}".rstrip() + "\n" for line in "\n".join(written).splitlines())
