"""Renders docs/configuration.md and the example files from the dataclasses, so that they cannot say anything else.

``python -m config.reference`` writes them; with ``--check`` it writes nothing and exits with 1 if one is stale.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from config.disclosure import Disclosure
from config.federation_list import FederationList
from config.forms import DAY, HOUR
from config.kinds import Kind, Secret, SecretFile
from config.policy_changes import Approver, Changes
from config.residency import (
    DataClass,
    Default,
    Flow,
    Jurisdiction,
    NodePlace,
    Peer,
    Pin,
    Residency,
    Retention,
)
from config.sections.application_services import ApplicationServicePlace
from config.sections.calls import Turn
from config.sections.federation import Federation, OldKey
from config.sections.registration import Email, Sms
from config.sections.serving import Representative
from config.sections.signing_in import IdentityProvider
from config.settings import Settings
from config.tables import TableField, TableMap, TableOf, TablesOf, shape
from config.witnesses import Witness, Witnessing

ROOT = Path(__file__).resolve().parent.parent

EXAMPLE_SETTINGS = Settings(
    server_name="example.org",
    public_base_url="https://matrix.example.org",
    representatives={
        "FR": Representative(
            jurisdiction="FR", name="Example Representation SAS", contact="mailto:representation@example.org"
        )
    },
    email=Email(server="mail.example.org", sender="noreply@example.org"),
    sms=Sms(url="https://sms.example.org/v1/messages"),
    turn=Turn(uris=("turn:turn.example.org:3478?transport=udp",), secret=Secret(file=Path("turn.secret"))),
    identity_providers=(
        IdentityProvider(
            id="university", name="Example University", issuer="https://id.example.org", client_id="domicile"
        ),
    ),
    application_services=(ApplicationServicePlace(registration=Path("bridges/telegram.yaml"), node="paris"),),
    federation=Federation(
        old_keys=(
            OldKey(id="ed25519:a_1", key="Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw", expired_ts=1576767829750),
        )
    ),
)

EXAMPLE_RESIDENCY = Residency(
    format=1,
    serial=1,
    jurisdictions={
        "IR": Jurisdiction(code="IR", name="Iran", languages=("fa",)),
        "FR": Jurisdiction(code="FR", name="France", languages=("fr",), law="Regulation (EU) 2016/679"),
    },
    nodes={
        "tehran": NodePlace(
            name="tehran", jurisdiction="IR", database="sqlite:tehran/node.db", media="file:tehran/media"
        ),
        "paris": NodePlace(name="paris", jurisdiction="FR", database="sqlite:paris/node.db", media="file:paris/media"),
    },
    pins=(
        Pin(phone_prefix="+98", node="tehran"),
        Pin(token="fr-*", node="paris"),  # noqa: S106 -- a pattern, no secret
        Pin(choice=True, nodes=("tehran", "paris")),
    ),
    default=Default(node="paris"),
    peers=(Peer(server="matrix.gov.example", jurisdiction="FR"), Peer(server="*.ir.example", jurisdiction="IR")),
    federation_list=FederationList(
        keys=("Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw",),
        url="https://lists.example.org/servers.json",
        refresh=2 * HOUR,
    ),
    flows=(
        Flow(from_="IR", to=("FR",), classes=("events", "keys", "media", "profile", "receipts")),
        Flow(from_="FR", to=("IR", "unknown"), classes=("*",), consent=False),
    ),
    retention={"IR": Retention(sessions=60 * DAY, media_cache=14 * DAY)},
    disclosure={
        "IR": Disclosure(
            fields=("ip_addresses", "phone_number"),
            approvals=3,
            approvers={
                "parisa": "Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw",
                "reza": "qODq0U/MPWBVq+GqdKclKiUlfV1Yiy1cd1gYczwlZvo",
                "shirin": "2sj0K/eckm8CKLJI6+VmZRa9Cefz/QhzO/yMCkRmQsc",
            },
            custodians={
                "leila": "9+sGivN6AzRrLHWVgW7CX7dYCcLyFKyCSa8H2mDM3jQ",
                "babak": "+1SvP7Dne0ed+/rxCQrfzUJuvPAKYET9sigFx9ouO1k",
                "shirin": "IVyWtw85cQxUqne2O7ClDFqIP1BAjpbzsbxBkUfVNlI",
                "navid": "CiETwvUtwlYfrCRSoMPGoSPlAH+CEuMZC6zZHsDosik",
            },
            threshold=3,
            epoch=3 * DAY,
        )
    },
    witnesses={
        "zurich": Witness(
            name="zurich",
            key="matrix.example.net/_domicile/v1/witness+781780cc+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X",
            url="https://matrix.example.net/_domicile/v1/witness",
            jurisdiction="FR",
        )
    },
    witnessing=Witnessing(quorum=1),
    changes=Changes(
        plan=True,
        approvals=1,
        approvers=(Approver(name="parisa", key="Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw"),),
    ),
)


def documents() -> dict[str, str]:
    """The generated files: path from the project's root -> text."""
    return {
        "docs/configuration.md": reference(),
        "docs/examples/domicile.toml": example(EXAMPLE_SETTINGS, "domicile.toml", everything=True),
        "docs/examples/residency.toml": example(EXAMPLE_RESIDENCY, "residency.toml", everything=False),
    }


# --- examples


def example(document: Any, file: str, everything: bool) -> str:
    """A document as a commented TOML file. ``everything`` includes the keys that have their default value."""
    head = [f"# {file}: an example in which every key is explained. docs/configuration.md has the same as a table."]
    if everything:
        head.append("# Values are the defaults; keys behind # have none.")
    seen: set[tuple[type, str]] = set()
    lines = [*head, "", *_keys(document, everything, seen)]
    for field in shape(type(document)).fields.values():
        lines += _sections(field, getattr(document, field.attribute), everything, seen)
    return "\n".join(lines).rstrip() + "\n"


def _sections(field: TableField, value: Any, everything: bool, seen: set[tuple[type, str]]) -> Iterator[str]:
    """The tables of one key of the document."""
    kind = field.setting.kind
    titled: list[tuple[str, Any]] = []
    if isinstance(kind, TableOf):
        titled = [(f"[{field.key}]", value)] if value is not None else []
    elif isinstance(kind, TablesOf):
        titled = [(f"[[{field.key}]]", element) for element in value]
    elif isinstance(kind, TableMap):
        titled = [(f"[{field.key}.{name}]", element) for name, element in value.items()]
    for title, table in titled:
        yield ""
        if (type(table), "") not in seen:
            seen.add((type(table), ""))
            yield from _comment(_doc(type(table)))
        yield title
        yield from _keys(table, everything, seen)


def _keys(table: Any, everything: bool, seen: set[tuple[type, str]]) -> Iterator[str]:
    """The keys of a table that are not tables of their own, each explained where it first stands."""
    nested = isinstance(table, Settings | Residency)
    for field in shape(type(table)).fields.values():
        value = getattr(table, field.attribute)
        if nested and isinstance(field.setting.kind, TableOf | TablesOf | TableMap):
            continue
        if not everything and value == field.default:
            continue
        if (type(table), field.key) not in seen:
            seen.add((type(table), field.key))
            yield from _comment(_meaning(field))
        yield from _assignment(field, value)


def _assignment(field: TableField, value: Any) -> list[str]:
    kind = field.setting.kind
    if value is None and not _writes_none(kind):
        return [f"# {field.key} = {kind.write(field.setting.example)}"]
    return f"{field.key} = {kind.write(value)}".split("\n")


def _writes_none(kind: Kind) -> bool:
    return bool(getattr(kind, "never", False))


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text.replace("`", '"'), 110)]


# --- reference


def reference() -> str:
    """docs/configuration.md."""
    lines = [
        "# Configuration",
        "",
        "<!-- Written by `python -m config.reference` from config/{settings,sections,residency}. -->",
        "",
        "A deployment reads two files: `domicile.toml` says how the server runs, `residency.toml` says whose data "
        "rests where and what may leave. `domicile check --config FILE` reads both and names every mistake with its "
        "file, line and key. A key that is not listed here is a mistake. Whole examples: "
        "[domicile.toml](examples/domicile.toml), [residency.toml](examples/residency.toml).",
        "",
        'Sizes are written as `"100 MiB"` (B, kB, MB, GB, KiB, MiB, GiB, TiB), durations as `"90d"` '
        "(ms, s, m, h, d, w). Relative paths start from the directory of the file in which they stand. Secrets do not "
        "stand in the files: a key that ends in `_file` names the file that holds one, and the environment variable "
        "named with it, if set, holds it instead.",
        "",
        "## domicile.toml",
        *_document(Settings),
        "",
        "## residency.toml",
        *_document(Residency),
        "",
        "## Data classes",
        "",
        "| class | may it leave its jurisdiction |",
        "|---|---|",
        *(f"| `{data_class}` | {data_class.leaves.value} |" for data_class in DataClass),
        "",
        "## Environment variables",
        "",
        "| variable | stands for |",
        "|---|---|",
        *(f"| `{variable}` | the secret of `{key}` |" for variable, key in _variables(Settings)),
        *(f"| `{variable}` | the secret of `{key}`, for all nodes |" for variable, key in _variables(Residency)),
    ]
    return "\n".join(lines) + "\n"


def _document(document: type) -> Iterator[str]:
    yield from _table("Top of the file", document)
    for field in shape(document).fields.values():
        kind = field.setting.kind
        if isinstance(kind, TableOf):
            yield from _table(f"`[{field.key}]`", kind.table)
        elif isinstance(kind, TablesOf):
            yield from _table(f"`[[{field.key}]]`", kind.table)
        elif isinstance(kind, TableMap):
            yield from _table(f"`[{kind.example}]`", kind.table)


def _table(title: str, table: type) -> Iterator[str]:
    yield from ("", f"### {title}", "", _doc(table), "", "| key | takes | default | meaning |", "|---|---|---|---|")
    below: dict[type, list[str]] = {}
    for field in shape(table).fields.values():
        if not field.setting.doc:  # has a section of its own
            continue
        yield _row(field)
        if isinstance(field.setting.kind, TableOf | TablesOf):
            below.setdefault(field.setting.kind.table, []).append(f"`{field.key}`")
    for inner, keys in below.items():
        yield from ("", f"Keys of {', '.join(keys)}: {_doc(inner)}", "", "| key | takes | default | meaning |")
        yield from ("|---|---|---|---|", *(_row(field) for field in shape(inner).fields.values()))


def _row(field: TableField) -> str:
    cells = (f"`{field.key}`", _takes(field.setting.kind), _default(field), _meaning(field))
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def _takes(kind: Kind) -> str:
    if isinstance(kind, TableOf | TablesOf):
        keys = ", ".join(f"`{key}`" for key in shape(kind.table).fields)
        return f"{kind.wanted} with {keys}"
    return kind.wanted


def _default(field: TableField) -> str:
    if field.required:
        return "required"
    if field.default is None and not _writes_none(field.setting.kind):
        return ""
    written = field.setting.kind.write(field.default)
    return "" if written in ('""', "[]", "{}") else f"`{written}`"


def _meaning(field: TableField) -> str:
    kind = field.setting.kind
    variable = f" Or set the environment variable `{kind.variable}`." if isinstance(kind, SecretFile) else ""
    return field.setting.doc + variable


def _doc(table: type) -> str:
    return " ".join(inspect.cleandoc(table.__doc__ or "").split())


def _variables(table: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The environment variables that a document knows, with the keys that they stand for."""
    for field in shape(table).fields.values():
        kind = field.setting.kind
        if isinstance(kind, SecretFile):
            yield kind.variable, f"{prefix}{field.key}"
        elif isinstance(kind, TableOf | TablesOf | TableMap):
            yield from _variables(kind.table, f"{prefix}{field.key}.")


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Write the generated files, or with ``--check`` say which are stale; the exit status."""
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python -m config.reference [--check]\n")
        return 2
    stale = 0
    for name, text in documents().items():
        path = root / name
        if path.exists() and path.read_text("utf-8") == text:
            continue
        stale += 1
        if arguments:
            sys.stdout.write(f"{name} is stale: run python -m config.reference\n")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
            sys.stdout.write(f"{name} written\n")
    return 1 if stale and arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
