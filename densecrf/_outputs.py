"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO


class FileError(Exception):
    """A file cannot be read, understood or written; the text is one line that begins with its path."""


class Outputs:
    """A folder's new files, which appear together when the block ends well and not at all when it does not.

    Each file is written under a temporary name in the folder and synced; the last step renames all of them.
    Files that they replace are put back if that step fails.  Folders made for nothing are removed again.

    >>> with Outputs("out") as outputs:                 # doctest: +SKIP
    ...     with outputs.open("labels.png") as file:
    ...         write_labels(file, labels)

    Raises
    ------
    FileError
        The folder cannot be made or written to, or the disk is full.

    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Name the folder; it is made when the block begins."""
        self.folder = Path(folder)
        self._made: list[Path] = []
        self._staged: list[tuple[Path, Path]] = []  # (final name, temporary name)

    def __enter__(self) -> Outputs:
        """Make the folder and try it, so that no hours of work end at a folder that was never writable."""
        with _writing(self.folder):
            try:
                self._make(self.folder)
                trial = _temporary(self.folder / "trial")
                _create(trial).close()
                trial.unlink()
            except BaseException:
                self._unmake()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Rename what was written, or remove it where an error came."""
        try:
            if error is None:
                self._commit()
                self._made.clear()
        finally:
            for _, staged in self._staged:
                staged.unlink(missing_ok=True)
            self._unmake()

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Give a binary file to write to, which will be called `name`."""
        target = self.folder / name
        with _writing(target):
            staged = _temporary(target)
            self._staged.append((target, staged))
            with _create(staged) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())

    @property
    def names(self) -> list[str]:
        """Names of the files written so far."""
        return [target.name for target, _ in self._staged]

    def _commit(self) -> None:
        done: list[tuple[Path, Path | None]] = []
        try:
            for target, staged in self._staged:
                with _writing(target):
                    backup = _temporary(target) if target.is_file() else None
                    done.append((target, backup))
                    if backup:
                        os.replace(target, backup)
                    os.replace(staged, target)
        except BaseException:
            _undo(done)
            raise
        for _, backup in done:
            if backup:
                backup.unlink(missing_ok=True)

    def _make(self, folder: Path) -> None:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            self._made.append(path)
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "is a file, not a folder")

    def _unmake(self) -> None:
        for path in reversed(self._made):
            try:
                path.rmdir()
            except OSError:  # someone else put something there
                break
        self._made.clear()


def _undo(done: list[tuple[Path, Path | None]]) -> None:
    for target, backup in reversed(done):
        if backup is None:
            if target.is_file():
                target.unlink()
        elif backup.exists():
            os.replace(backup, target)


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")


def _create(path: Path) -> BinaryIO:
    return open(path, "xb")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileError(f"{path}: cannot write: {error.strerror or error}") from error
