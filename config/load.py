"""Reads the configuration files. Every mistake of every file is reported at once, as a Problem with its line.

The only file of this package that touches the machine: it reads the files it is given and, for secrets, the
environment.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import config.residency
import config.settings
from config import application_services
from config.application_services import ApplicationService, ApplicationServices
from config.kinds import Reading, Secret, Spot, line_of
from config.policy import Policy
from config.positions import locate
from config.problems import Fault, Faults, KeyPath, Problem, dotted
from config.residency import Residency
from config.settings import Settings
from config.tables import bind

T = TypeVar("T")
DEFAULT_RESIDENCY = "residency.toml"
CrossCheck = Callable[[Any], Iterable[Fault]]
StrPath = str | os.PathLike[str]


def load_settings(path: StrPath, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of a ``domicile.toml``. ``environ`` is the process's environment unless given.

    Raises:
        Faults: it cannot be used; all mistakes are in it.
    """
    settings, problems = _read(Settings, config.settings.faults, path, environ)
    return _unless(problems, settings)


def load_policy(path: StrPath, server_name: str = "", environ: Mapping[str, str] | None = None) -> Policy:
    """The policy of a ``residency.toml``, for the deployment with this server name.

    Raises:
        Faults: it cannot be used; all mistakes are in it.
    """
    text, problems = _text_of(path)
    if problems:
        raise Faults(problems)
    environ = os.environ if environ is None else environ
    return policy_from_text(text, os.fspath(path), server_name, environ=environ)


def load(path: StrPath, environ: Mapping[str, str] | None = None) -> tuple[Settings, Policy]:
    """The settings of a ``domicile.toml`` and the policy of the residency file that it names.

    Raises:
        Faults: one of them cannot be used; the mistakes of both are in it.
    """
    settings, policy = load_apart(path, environ)
    if isinstance(policy, Faults):
        raise policy
    return settings, policy


def load_apart(path: StrPath, environ: Mapping[str, str] | None = None) -> tuple[Settings, Policy | Faults]:
    """The settings of a ``domicile.toml``, and the policy of the residency file that it names, or what is wrong with
    that: a deployment that has a policy in force can do without the file.

    Raises:
        Faults: the settings cannot be used; the mistakes of both are in it.
    """
    settings, problems = _read(Settings, config.settings.faults, path, environ)
    found = settings or Settings(server_name="", residency=Path(os.path.abspath(path)).parent / DEFAULT_RESIDENCY)
    file = shown_beside(path, found.residency)
    guessed = settings is None or any(problem.key == "residency" for problem in problems)
    if guessed and not file.exists():
        raise Faults(problems)
    policy: Policy | Faults
    try:
        policy = load_policy(file, found.server_name, environ)
    except Faults as faults:
        policy = faults
    if problems:
        raise Faults([*problems, *(policy.problems if isinstance(policy, Faults) else ())])
    return found, policy


def policy_from_text(
    text: str,
    file: str = "residency.toml",
    server_name: str = "",
    *,
    environ: Mapping[str, str] | None = None,
    beside: StrPath | None = None,
) -> Policy:
    """The policy of a text that need not be in a file: an edit in the console, a stored version.

    ``beside``: the file from whose directory relative paths start, when that is not ``file``. The environment counts
    only when it is given.

    Raises:
        Faults: it cannot be used; all mistakes are in it, as mistakes of ``file``.
    """
    place = Path(file if beside is None else beside)
    residency, problems = _parse(Residency, _residency_check(server_name), text, place, file, environ or {})
    return Policy(_unless(problems, residency), file, server_name, text=text)


def settings_from_text(text: str, file: str = "domicile.toml", environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of a text that is not in a file; relative paths stay as if ``file`` held it.

    Raises:
        Faults: it cannot be used; all mistakes are in it, as mistakes of ``file``.
    """
    settings, problems = _parse(Settings, config.settings.faults, text, Path(file), file, environ or {})
    return _unless(problems, settings)


def read_secret(secret: Secret) -> str:
    """The text of a secret, without white space around it.

    Raises:
        Faults: its file cannot be read, or is empty.
    """
    if secret.text is not None:
        return secret.text.strip()
    if secret.file is None:
        raise ValueError("this secret has neither a file nor a text")
    text, problems = _text_of(secret.file)
    if not problems and not text.strip():
        problems = [Problem(str(secret.file), 0, "", "is empty; it should hold a secret")]
    return _unless(problems, text.strip())


def read_tokens(secret: Secret) -> tuple[str, ...]:
    """Registration tokens from their file or variable: separated by white space, ``#`` begins a comment.

    Raises:
        Faults: the file cannot be read.
    """
    lines = [line.partition("#")[0] for line in read_secret(secret).splitlines()]
    return tuple(dict.fromkeys(token for line in lines for token in line.split()))


def load_application_services(settings: Settings, policy: Policy) -> ApplicationServices:
    """The application services that the settings name, each on its node and in its jurisdiction.

    Raises:
        Faults: a registration, or what the settings say of it, cannot be used; the mistakes of all are in it.
    """
    problems: list[Problem] = []
    found: list[tuple[str, ApplicationService]] = []
    for index, place in enumerate(settings.application_services):
        key: KeyPath = ("application_services", index)
        node = place.node or (next(iter(policy.nodes)) if len(policy.nodes) == 1 else "")
        if node not in policy.nodes:
            known = ", ".join(policy.nodes)
            message = f"{policy.file} has no such node" if node else "is missing; wanted the node of its users"
            problems.append(Problem("domicile.toml", 0, dotted((*key, "node")), f"{message}: there are {known}"))
            continue
        jurisdiction = place.jurisdiction or policy.jurisdiction_of_node(node)
        if not policy.knows(jurisdiction):
            message = f"{policy.file} declares no such jurisdiction; where it does not matter, say unknown"
            problems.append(Problem("domicile.toml", 0, dotted((*key, "jurisdiction")), message))
            continue
        file = os.fspath(place.registration)
        text, more = _text_of(place.registration)
        service = None
        if not more:
            service, more = application_services.read(
                text, file, server_name=settings.server_name, node=node, jurisdiction=jurisdiction
            )
        problems += more
        found += [] if service is None else [(file, service)]
    problems += application_services.clashes(found)
    return _unless(problems, ApplicationServices(service for _, service in found))


def shown_beside(path: StrPath, other: Path) -> Path:
    """A file's path in the form in which the operator named the one that leads to it: relative if that was."""
    directory = Path(path).parent
    if Path(path).is_absolute():
        return other
    relative = os.path.relpath(other, Path(os.path.abspath(path)).parent)
    return other if relative.startswith("..") else directory / relative


def _unless(problems: list[Problem], value: T | None) -> T:
    if problems or value is None:
        raise Faults(problems)
    return value


def _residency_check(server_name: str) -> CrossCheck:
    def check(residency: Residency) -> Iterable[Fault]:
        yield from config.residency.faults(residency)
        for index, peer in enumerate(residency.peers):
            if server_name and peer.server == server_name.lower():
                yield Fault(
                    ("peers", index, "server"), "is this server itself; its jurisdictions are those of its nodes"
                )

    return check


def _read(
    table: type[T], check: CrossCheck, path: StrPath, environ: Mapping[str, str] | None
) -> tuple[T | None, list[Problem]]:
    text, problems = _text_of(path)
    if problems:
        return None, problems
    environ = os.environ if environ is None else environ
    return _parse(table, check, text, Path(path), os.fspath(path), environ)


def _text_of(path: StrPath) -> tuple[str, list[Problem]]:
    """A file's text, or why there is none."""
    file = os.fspath(path)
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        return "", [Problem(file, 0, "", f"cannot be read: {error.strerror}")]
    try:
        return raw.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return "", [Problem(file, line, "", f"is not UTF-8: byte 0x{raw[error.start]:02x}")]


def _parse(
    table: type[T], check: CrossCheck, text: str, path: Path, file: str, environ: Mapping[str, str]
) -> tuple[T | None, list[Problem]]:
    """A table from a TOML text, with everything that is wrong with it; None when it is not TOML."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        return None, [_syntax_problem(error, text, file)]
    lines = locate(text)
    reading = Reading(table, Path(os.path.abspath(path)).parent, environ, lines)
    value = bind(table, document, Spot(reading))
    faults = [*reading.faults, *_new_faults(check(value), [fault.path for fault in reading.faults])]
    problems = [Problem(file, line_of(f.path, lines), dotted(f.path), f.message) for f in faults]
    return value, sorted(problems, key=lambda problem: problem.line)


def _new_faults(faults: Iterable[Fault], known: list[KeyPath]) -> list[Fault]:
    """Those faults that cannot be the mere consequence of one that is known: not on its way, above or below."""
    return [
        fault
        for fault in faults
        if not any(fault.path == path[: len(fault.path)] or path == fault.path[: len(path)] for path in known)
    ]


def _syntax_problem(error: Exception, text: str, file: str) -> Problem:
    """Why a text is not TOML."""
    if isinstance(error, RecursionError):
        return Problem(file, 0, "", "is not a usable TOML file: its brackets are nested too deep")
    parts = re.fullmatch(r"(?s)(.*?) ?\(at (?:line (\d+), column (\d+)|end of document)\)", str(error))
    if parts is None:  # a number too long to be one
        return Problem(file, 0, "", f"is not a usable TOML file: {error}")
    line = int(parts[2]) if parts[2] else len(text.rstrip().splitlines()) or 1
    column = f", at column {parts[3]}" if parts[3] else ""
    return Problem(file, line, "", f"is not TOML: {parts[1][:1].lower()}{parts[1][1:]}{column}")
