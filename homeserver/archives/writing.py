"""The file of an archive as it is written: a tar of parts, their digests, and a manifest.

It comes to its name only when it is whole and on the disk.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import tarfile
import tempfile
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, cast

import orjson

from homeserver.archives.sealing import CHUNK, Plain, Sealing
from homeserver.runtime import durable

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from nacl.public import PublicKey

    from homeserver.archives.sealing import Out

SUMS: Final = "SHA256SUMS"
MANIFEST: Final = "manifest.json"
FORMAT: Final = 1


def digest_of(manifest: dict[str, Any]) -> str:
    """The digest of a manifest that it carries itself."""
    return sha256(orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS)).hexdigest()


class _Digesting:
    """A file, and the digest of what has been read of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = sha256()

    def read(self, size: int = -1) -> bytes:
        found = self._file.read(size)
        self.digest.update(found)
        return found


class Writer:
    """An archive that is being written beside its name; `finish` or `give_up` ends it. Raises OSError."""

    def __init__(self, path: Path, key: PublicKey | None) -> None:
        self._path = path
        self._draft = path.with_name(f"{path.name}.part")
        if path.exists():
            raise FileExistsError(f"{path} is there already: name another file")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._file = open(os.open(self._draft, flags, 0o600), "wb")  # noqa: SIM115 - closed at the end
        self._out: Out = Plain(self._file) if key is None else Sealing(self._file, key)
        self._tar = tarfile.open(fileobj=cast("BinaryIO", self._out), mode="w|", bufsize=CHUNK)  # noqa: SIM115
        self._sums = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115

    def rows(self, name: str, rows: bytes) -> None:
        """A part of rows, which is compressed."""
        packed = gzip.compress(rows, 1, mtime=0)
        self._add(name, len(packed), io.BytesIO(packed))

    def copy(self, name: str, path: Path) -> bool:
        """A part that is a file; False: it has gone meanwhile."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return False
        with file:
            self._add(name, os.fstat(file.fileno()).st_size, file)
        return True

    def _add(self, name: str, size: int, file: BinaryIO, *, listed: bool = True) -> str:
        part = tarfile.TarInfo(name)
        part.size = size
        part.mode = 0o600
        read = _Digesting(file)
        self._tar.addfile(part, cast("BinaryIO", read))
        digest = read.digest.hexdigest()
        if listed:
            self._sums.write(f"{digest}  {name}\n".encode())
        return digest

    def finish(self, manifest: dict[str, Any]) -> int:
        """Write the digests and the manifest, and give the archive its name. Returns its size in bytes."""
        size = self._sums.tell()
        self._sums.seek(0)
        digest = self._add(SUMS, size, cast("BinaryIO", self._sums), listed=False)
        whole = {"format": FORMAT, **manifest, "sums": digest}
        text = orjson.dumps({**whole, "sha256": digest_of(whole)}, option=orjson.OPT_INDENT_2)
        self._add(MANIFEST, len(text), io.BytesIO(text), listed=False)
        self._tar.close()
        self._out.finish()
        self._file.flush()
        os.fsync(self._file.fileno())
        written = self._file.tell()
        self._file.close()
        self._sums.close()
        self._draft.rename(self._path)
        durable.sync_folder(self._path.parent)
        return written

    def give_up(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(OSError, ValueError):
            self._tar.close()
        with contextlib.suppress(OSError):
            self._file.close()
        self._sums.close()
        self._draft.unlink(missing_ok=True)
