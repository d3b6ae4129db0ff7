"""Files that are either whole or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["check_folder", "replacing"]

STALE = 24 * 60 * 60
"""Seconds after which a temporary file is taken for the rest of a killed writer."""


def check_folder(folder: Path, advice: str = "choose a folder that you may write to") -> None:
    """Make a folder; say now, before anything is computed for it, if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise type(error)(
            error.errno, f"cannot write to the folder ({error.strerror}); {advice}", str(folder)
        ) from error


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary file in the folder of `path`, and rename it to `path` if all went well.

    Any number of threads, processes and machines may save to one path at a time: each writes a
    file of its own, and the last to finish wins. The content is on the disk before it gets its
    name, so that a power failure leaves the old file or the new one. Temporary files of the same
    path that killed writers have left are removed once they are a day old.

    Raises
    ------
    IsADirectoryError
        If `path` is a folder.
    OSError
        If the folder cannot be made or written to, before anything is computed for it.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    check_folder(path.parent)
    # Random, not the process number: containers that share a volume number their processes alike.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        # O_EXCL: the name is used by nobody else. The permissions are those of any new file;
        # tempfile.mkstemp would make one that nobody else can read.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        _remove_stale(path, temporary)
        yield temporary
        _flush(temporary, os.O_RDWR)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    # The new name is on the disk once the folder is. Windows opens no folders, and some network
    # file systems flush none: there the content is whole, and only the newest name may be lost.
    with contextlib.suppress(OSError):
        _flush(path.parent, os.O_RDONLY)


def _remove_stale(path: Path, new: Path) -> None:
    """Remove the temporary files of killed writers of the same path.

    Whether a writer lives cannot be told from here: it may be in another container or on another
    machine. So age decides, and a day is far beyond the time that any file takes to write. A writer
    that was suspended for longer fails when it renames, and leaves the file at `path` as it is. Age
    is counted from the modification time of the file just made: both times were set by the file
    system that holds the files, whose clock need not agree with this machine's.
    """
    leftover = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}\.tmp")
    now = new.stat().st_mtime
    with os.scandir(path.parent) as entries:
        for entry in entries:
            # Another writer may finish, or remove the same leftovers, at this moment.
            with contextlib.suppress(OSError):
                if leftover.fullmatch(entry.name) and now - entry.stat().st_mtime > STALE:
                    Path(entry.path).unlink()


def _flush(path: Path, flags: int) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
