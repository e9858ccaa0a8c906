"""The file of an archive as it is read: part by part, and never believed before its digests have been compared.

Names in it are only ever looked up, or matched against what a media folder has: none leads out of a folder.
"""

from __future__ import annotations

import contextlib
import gzip
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

import orjson

from homeserver.archives.sealing import CHUNK, MAGIC, Damaged, Opening
from homeserver.archives.writing import FORMAT, MANIFEST, SUMS, digest_of

if TYPE_CHECKING:
    from pathlib import Path

    from nacl.public import PrivateKey

_FAULTS = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile)


class _Part:
    """A part, whose faults are those of the archive."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        try:
            return self._file.read(size)
        except _FAULTS as fault:
            raise Damaged(f"it is damaged: {fault}") from None


@dataclass(frozen=True, slots=True)
class Archive:
    """A file, and the key with which it is opened if it is sealed."""

    path: Path
    key: PrivateKey | None = None

    def parts(self) -> Iterator[tuple[str, BinaryIO]]:
        """Its parts with their names, one after the other. Raises Damaged, OSError."""
        with self._opened() as source:
            try:
                with tarfile.open(fileobj=source, mode="r|", bufsize=CHUNK) as tar:
                    for member in tar:
                        part = tar.extractfile(member) if member.isreg() else None
                        if part is None:
                            raise Damaged(f"{member.name} is no file")
                        yield member.name, cast("BinaryIO", _Part(part))
                    source.read(1)  # of what is sealed: that it ends where it was ended
            except _FAULTS as fault:
                raise Damaged(f"it is no archive, or damaged: {fault}") from None

    @contextlib.contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        with self.path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                file.seek(0)
                yield file
            elif self.key is None:
                raise Damaged("it is sealed: name the file of the private key with --key-file")
            else:
                yield cast("BinaryIO", Opening(file, self.key))

    def verified(self) -> dict[str, Any]:
        """Compare all digests; returns the manifest. Raises Damaged, OSError."""
        sums = sha256()
        listed: str | None = None
        manifest: dict[str, Any] | None = None
        for name, part in self.parts():
            if manifest is not None:
                raise Damaged("something follows its manifest")
            if name == MANIFEST:
                manifest = _manifest(part)
            elif name == SUMS:
                listed = _digest(part)
            else:
                sums.update(f"{_digest(part)}  {name}\n".encode())
        if manifest is None or listed is None:
            raise Damaged("it is cut off")
        if listed != sums.hexdigest() or listed != manifest["sums"]:
            raise Damaged("a part of it is not what was written")
        return manifest

    def rows(self) -> Iterator[tuple[str, bytes]]:
        """The tables that its parts of rows are of, with those rows."""
        for name, part in self.parts():
            if name.startswith("rows/"):
                try:
                    yield name.split("/")[1], gzip.decompress(part.read())
                except _FAULTS as fault:
                    raise Damaged(f"{name} is damaged: {fault}") from None


def _digest(part: BinaryIO) -> str:
    digest = sha256()
    while chunk := part.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _manifest(part: BinaryIO) -> dict[str, Any]:
    try:
        found = orjson.loads(part.read())
    except orjson.JSONDecodeError:
        raise Damaged("its manifest is no JSON") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise Damaged("its format is another: read it with the version of Domicile that wrote it")
    if found.pop("sha256", None) != digest_of(found):
        raise Damaged("its manifest is not what was written")
    return found
