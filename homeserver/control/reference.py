"""Renders docs/admin-api.md from the declarations of commands, so that it cannot say anything else.

``python -m homeserver.control.reference`` writes it; with ``--check`` it only says whether it is stale.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from homeserver.control.declarations import argument_of
from homeserver.control.declared import DECLARED
from homeserver.control.describing import FOR_USERS, PREFIX
from homeserver.protocol.roles import Role

if TYPE_CHECKING:
    from homeserver.control.declarations import Argument, Declared

PAGE: Final = Path(__file__).resolve().parent.parent.parent / "docs" / "admin-api.md"

_HEAD: Final = f"""# The admin API

Made from the declarations in `homeserver/control/declared/` by `python -m homeserver.control.reference`: do not edit.

Every address is under `{PREFIX}`, on listeners with the resource `console`, and asks for the access token of a user
who has one of the roles named with it; [Administrators](operations.md#administrators) says who gets these, and what is
written down. Arguments are parameters of the address for `GET` and `DELETE`, and fields of a JSON object otherwise;
those in **bold** must be given, and one that there is not is refused. A user is named by a localpart or a user id. What
is answered, exactly, stands in the OpenAPI document that a server has at `/_domicile/openapi.json`. Errors are those of
the Matrix specification.

What takes long answers with `"done": false` and how far it has come, and is asked for again by `GET`. A policy is
changed in three steps: `POST /residency/edit`, or a text that somebody has written, gives a plan; approvers say yes to
its digest; `POST /residency/apply` takes the text and the digest.
"""


def page() -> str:
    """The page."""
    parts = [_HEAD]
    parts += [_section(command, declared) for command, declared in DECLARED.items() if declared.door is not None]
    parts.append(
        _listed("For users, or anybody", [f"`{' '.join(at)}`: {says}." for at, (says, _) in FOR_USERS.items()])
    )
    closed = [
        f"`{command}`: {declared.says}; {declared.why}."
        for command, declared in DECLARED.items()
        if declared.door is None
    ]
    if closed:
        parts.append(_listed("At the machine only", closed))
    return "\n".join(parts)


def _listed(title: str, lines: list[str]) -> str:
    return "\n".join([f"## {title}", "", *(f"- {line}" for line in lines), ""])


def _section(command: str, declared: Declared) -> str:
    method, path = declared.door or ("", "")
    roles = ", ".join(f"`{role}`" for role in Role if role in declared.roles)
    in_path = {argument_of(segment) for segment in declared.segments}
    lines = [f"## `{method} {path}`", "", f"{declared.says}. `{command}`; for {roles}."]
    given = [_line(each) for each in declared.arguments if each.name not in in_path]
    return "\n".join([*lines, *(["", *given] if given else []), ""])


def _line(argument: Argument) -> str:
    name = f"**`{argument.name}`**" if argument.needed else f"`{argument.name}`"
    return f"- {name} ({_kind(argument.schema)}): {argument.says}"


def _kind(schema: Any) -> str:
    return {"array": "list"}.get(str(schema.get("type")), str(schema.get("type")))


def main(arguments: list[str]) -> int:
    """Write the page, or look whether it is as it should be."""
    text = page()
    if arguments == ["--check"]:
        stale = not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text
        if stale:
            print(f"{PAGE.name} is stale: run python -m homeserver.control.reference", file=sys.stderr)  # noqa: T201
        return int(stale)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
