"""``domicile backup`` and ``restore``: archives of nodes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from config.load import load_apart
from homeserver import control_socket
from homeserver.command_line.answers import JSON, no, tell, write_new
from homeserver.command_line.asking import CONFIG, perform_long, quietly, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from config.policy import Policy
    from config.problems import Faults
    from config.settings import Settings
    from homeserver.archives.reading import Archive


@click.command(epilog="Example: domicile backup --node tehran --to /backup/tehran.domicile")
@click.option("--node", help="The node.")
@click.option("--directory", is_flag=True, help="The directory of users instead, without its key: deployment.secret.")
@click.option("--to", type=click.Path(path_type=Path, dir_okay=False), help="The file to write; it must not be there.")
@click.option("--to-key", help="A public key to which the archive is sealed, for it leaves the machine.")
@click.option(
    "--make-key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Make a pair of keys instead: the private one into this file, and the public one is shown.",
)
@CONFIG
@JSON
def backup(
    node: str | None,
    directory: bool,
    to: Path | None,
    to_key: str | None,
    make_key: Path | None,
    config: Path,
    as_json: bool,
) -> None:
    """Archive one node, its database as it is at one moment and its media, whether the server runs or not; or the
    directory of users."""
    if make_key is not None:
        _make_key(make_key, as_json)
        return
    if (node is None) is not directory or to is None:
        raise click.UsageError("--to is needed, and either --node or --directory")
    into = {"to": os.path.abspath(to), "key": to_key}
    command, arguments = ("backup-directory", into) if node is None else ("backup", {"node": node, **into})
    answer = perform_long(config, command, arguments, "backup-progress", _how_far)
    rows = sum(answer["rows"].values())
    what = "the directory" if node is None else f"node {node}"
    text = f"{to}: {what}, {rows} rows and {answer['files']} files, {answer['bytes']} bytes"
    if answer["files_gone"]:
        text += f"; {answer['files_gone']} files were not there: deleted meanwhile, or lost"
    tell(answer, as_json, text)


def _make_key(path: Path, as_json: bool) -> None:
    from homeserver.archives import sealing

    private, public = sealing.make_key()
    write_new(path, f"{private}\n".encode())
    words = f"Wrote {path}: keep it where the archives are not.\nSeal to it with --to-key {public}"
    tell({"file": str(path), "public_key": public}, as_json, words)


def _how_far(answer: dict[str, Any]) -> str:
    return f"{answer['rows']} rows, {answer['files']} files"


@click.command(epilog="Example: domicile restore --node tehran --from /backup/tehran.domicile")
@click.option("--node", help="The node.")
@click.option("--directory", is_flag=True, help="The directory of users instead.")
@click.option("--from", "source", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The archive.")
@click.option(
    "--key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The private key of an archive that is sealed.",
)
@click.option(
    "--keep-sessions",
    is_flag=True,
    help="Leave everybody signed in who was when the archive was made, also where a phone has been stolen since.",
)
@CONFIG
@JSON
def restore(
    node: str | None,
    directory: bool,
    source: Path,
    key_file: Path | None,
    keep_sessions: bool,
    config: Path,
    as_json: bool,
) -> None:
    """Put an archive of a node back, into an empty database and an empty media folder, while no server runs; or one of
    the directory, which then learns from the nodes that are up what came since.

    Everybody on the node has to sign in again, and keeps keys and messages: nobody can know which sessions were ended
    after the archive was made, by somebody whose phone was stolen, say."""
    if (node is None) is not directory or (directory and keep_sessions):
        raise click.UsageError("either --node or --directory is needed, and --keep-sessions is for nodes")
    settings, found = load_apart(config)
    quietly()
    if node is None:
        answer = run(_directory_restored(settings, found, _archive(source, key_file)))
        made = sum(answer["routes_made"].values())
        text = f"Restored the directory: {sum(answer['rows'].values())} rows, and {made} routes to what is on the nodes"
        down = f"\nDown, and not asked: {', '.join(answer['nodes_down'])}" if answer["nodes_down"] else ""
        tell(answer, as_json, text + down)
        return
    answer = run(_restored(settings, found, node, _archive(source, key_file), keep_sessions))
    tell(answer, as_json, "\n".join(_restored_lines(node, answer, keep_sessions)))


def _restored_lines(node: str, answer: dict[str, Any], keep_sessions: bool) -> Iterator[str]:
    rows = sum(answer["rows"].values())
    yield f"Restored node {node}: {rows} rows and {answer['files_restored']} files"
    if answer["erased"]:
        yield f"{answer['erased']} users who rest elsewhere by now were left out"
    if answer["closed_again"]:
        yield f"{answer['closed_again']} accounts that had been closed since are closed again"
    if answer["delayed_events_dropped"]:
        yield f"{answer['delayed_events_dropped']} events that were to be sent later will not be"
    if keep_sessions:
        yield "Sessions that were ended since are open again: have passwords of stolen devices reset, and log them out"
    else:
        yield f"{answer['sessions_ended']} devices have to sign in again; passwords changed since are the old ones"
    yield "When the server runs, the other nodes tell it what they know that is newer"


def _archive(source: Path, key_file: Path | None) -> Archive:
    from homeserver.archives import sealing
    from homeserver.archives.reading import Archive

    try:
        key = None if key_file is None else sealing.private_key(key_file.read_text(encoding="ascii"))
    except ValueError as error:
        no(f"domicile: {key_file} cannot be used: {error}")
    return Archive(source, key)


async def _restored(
    settings: Settings, found: Policy | Faults, name: str, archive: Archive, keep_sessions: bool
) -> dict[str, Any]:
    from homeserver import app, places
    from homeserver.archives import restoring
    from homeserver.protocol.errors import Conflict
    from homeserver.storage import directory
    from homeserver.storage.connect import engine_for

    with control_socket.exclusively(settings.data_dir):
        async with app.opened(settings, found) as server:
            if name not in server.policy.now.nodes:
                raise Conflict(f"There is no node {name}; there are {', '.join(server.policy.now.nodes)}")
            node, place = server.nodes[name], server.policy.now.nodes[name]
            await node.engine.close()  # which would look for the database all the while
            target = restoring.Place(
                server.name,
                name,
                place.jurisdiction,
                place.engine,
                node.media,
                lambda migrations: engine_for(
                    name, places.address_of(place), migrations, root=settings.data_dir, clock=server.clock
                ),
                [other for other in server.policy.now.nodes if other != name],
                keep_sessions,
            )
            answer = await restoring.restore(archive, target, server.nodes.directory, server.clock.now_ms())
            await server.nodes.directory.engine.write(directory.found, name)
            return answer


async def _directory_restored(settings: Settings, found: Policy | Faults, archive: Archive) -> dict[str, Any]:
    from homeserver import app, credentials
    from homeserver.archives import restoring_directory
    from homeserver.doctor import routes
    from homeserver.protocol.errors import Conflict

    with control_socket.exclusively(settings.data_dir):
        if credentials.known_secret(settings) is None:
            raise Conflict(
                f"put {settings.data_dir / credentials.SECRET_FILE} back first: without it no route leads anywhere"
            )
        manifest = await restoring_directory.restore(
            archive, settings.server_name, settings.data_dir / credentials.DIRECTORY
        )
        async with app.opened(settings, found) as server:
            made = await routes.rebuild(server)
            down = [node.name for node in server.nodes if not node.engine.health().up]
        return {**manifest, "routes_made": made, "nodes_down": down}
