"""Files and folders that are whole or not there, and locks on folders."""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


def writable_folder(path: Path, flag: str) -> None:
    """Make a folder and prove that a file can be written there.

    Raises: ValueError naming the flag, the path and the reason.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):  # it has no name on Linux, so that nothing is left by a kill
            pass
    except OSError as error:
        raise ValueError(f"{flag} {path}: cannot write there ({error.strerror}); choose another folder") from None


def replaceable_folder(path: Path, flag: str, ours: Collection[str], maker: str) -> None:
    """Prove that `atomic_folder` may put a new folder in the place of this one.

    A file can be written beside it, and it holds no files but `ours`.
    Raises: ValueError naming the flag, the path and what is there of which `maker` ("no conversion") wrote nothing.
    """
    writable_folder(Path(os.path.realpath(path)).parent, flag)
    if not path.exists():
        return
    if not path.is_dir():
        raise ValueError(f"{flag} {path}: a file is there; give a folder")
    if others := sorted({entry.name for entry in path.iterdir()}.difference(ours)):
        names = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        raise ValueError(
            f"{flag} {path}: the folder is replaced as a whole, and {maker} wrote {names}; give another folder"
        )


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """A block that writes `path`, in which the error of a full disk and the like names the path.

    Python leaves it out where the file was open already.
    """
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"{error}: {str(path)!r}") from None
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that takes the place of `path` when the block ends, and vanishes if it fails.

    Its name is always the same, so that the next one takes the place of what a killed process left. Of two processes
    that write `path` one waits.
    Raises: OSError that names the path.
    """
    part = path.with_name(f".{path.name}.part")
    with naming(path), _held(part):
        try:
            yield part
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def _held(part: Path) -> Iterator[None]:
    """Hold a file against other processes that ask for it here; it is made if it is not there."""
    while True:
        handle = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_at(handle, part):
                yield
                return
        finally:
            os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file still has this path: who held it before may have renamed it."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files of `replacing` in a folder that killed processes left, not those of living ones."""
    for part in folder.glob("*.part"):
        with contextlib.suppress(OSError):  # another process holds it, or has just removed it
            handle = os.open(part, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(handle, part):
                    part.unlink()
            finally:
                os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is the old one or the whole new one, never a part. Raises: OSError that names it."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON as `write_text` does."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, remedy: str, keys: Collection[str] = ()) -> Any:
    """The content of a JSON file that this project wrote.

    Args:
        remedy: the end of the message, what to do about a damaged file.
        keys: what an object must have; none: it may be anything.
    Raises: ValueError that names the file and what is wrong with it; OSError if it cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"{path}: not there; {remedy}")
    return parse_json(path.read_bytes(), str(path), remedy, keys)


def parse_json(raw: bytes | str, title: str, remedy: str, keys: Collection[str] = ()) -> Any:
    """JSON as `read_json` reads it. title: the file, and the line of it, for the error."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{title}: damaged, not valid JSON ({error}); {remedy}") from None
    if keys and not (isinstance(value, dict) and value.keys() >= set(keys)):
        raise ValueError(f"{title}: damaged, it must be an object with {', '.join(keys)}; {remedy}")
    return value


@contextlib.contextmanager
def locked(folder: Path, taken: str | None = None) -> Iterator[int]:
    """Hold a folder against other processes that ask for it here; nothing is left in it. Yields its descriptor.

    They wait, or, with `taken`, Raises: ValueError with that text.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if taken else 0))
        except BlockingIOError:
            raise ValueError(taken) from None
        yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `path` when the block ends, and vanishes if it fails.

    Of a symbolic link, what it points to is replaced. What a killed process left behind is removed first; `recover`
    brings back a folder that was killed in the exchange.
    Raises: ValueError if another process is in such a block for the same path.
    """
    taken = f"{path}: another process is writing this folder; wait for it, or choose another folder"
    path = Path(os.path.realpath(path))
    part, old = (path.with_name(f".{path.name}.{kind}") for kind in ("part", "old"))
    part.mkdir(parents=True, exist_ok=True)
    with locked(part, taken) as handle:
        if not _is_at(handle, part):
            raise ValueError(taken)
        try:
            recover(path)
            _empty(part)
            with naming(path):
                yield part
                if path.exists():
                    path.rename(old)
                part.rename(path)
        finally:
            recover(path)
            if _is_at(handle, part):  # and not renamed, with another process's folder in its place by now
                shutil.rmtree(part, ignore_errors=True)


def _empty(folder: Path) -> None:
    """Remove everything in a folder."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def recover(path: Path) -> None:
    """Finish an exchange of `atomic_folder` that was stopped half-way.

    The old folder comes back if no new one is there.
    """
    old = path.with_name(f".{path.name}.old")
    if old.exists() and not path.exists():
        old.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder of `atomic_folder`, and what a killed process left of one, so that it is never there in part."""
    recover(path)
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    if path.exists():
        path.rename(part)
        shutil.rmtree(part, ignore_errors=True)
