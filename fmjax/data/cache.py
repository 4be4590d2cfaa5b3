"""Content has a name: fingerprints of arrays and files, and decoded data kept on disk under them."""

import hashlib
import logging
import os
import threading
import weakref
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

log = logging.getLogger(__name__)
WHOLE = 1 << 30  # files that together are larger are fingerprinted by name, size and both ends only
ENDS = 1 << 16
_live: weakref.WeakValueDictionary[str, "Decoded"] = weakref.WeakValueDictionary()


class Decoded(dict):
    """Arrays by name, held once in a process however many sources read them."""


def digest(*parts: Any) -> str:
    """32 hex digits that change when any of `parts` (strings, numbers, arrays, tuples, dicts, None) does."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        _update(state, part)
    return state.hexdigest()


def digest_files(paths: Iterable[Path], root: Path) -> str:
    """Digest of files by name below `root`, size and content.

    Content is read whole when the files hold up to 1 GiB together; beyond that, the first and last 64 KiB of
    each: a change elsewhere that keeps the size goes unseen then. Modification times never count, so that a
    copy on another machine has the same fingerprint.
    """
    sized = [(path, path.stat().st_size) for path in sorted(paths)]
    whole = sum(size for _, size in sized) <= WHOLE
    state = hashlib.blake2b(digest_size=16)
    for path, size in sized:
        _update(state, f"{path.relative_to(root).as_posix()}\0{size}")
        with path.open("rb") as file:
            if whole or size <= 2 * ENDS:
                while chunk := file.read(1 << 22):
                    state.update(chunk)
            else:
                state.update(file.read(ENDS))
                file.seek(-ENDS, os.SEEK_END)
                state.update(file.read(ENDS))
    return state.hexdigest()


def folder() -> Path:
    """Where decoded data is kept: $FMJAX_CACHE, else ~/.cache/fmjax."""
    return Path(os.environ.get("FMJAX_CACHE") or Path.home() / ".cache" / "fmjax")


def cached(fingerprint: str, make: Callable[[], dict[str, np.ndarray]], keep: bool = True) -> Decoded:
    """The arrays of `make()`, from this process or from disk when they were made before under `fingerprint`.

    A damaged file is made again; a cache that cannot be written is skipped; both with a warning.
    """
    if (held := _live.get(fingerprint)) is not None:
        return held
    path = folder() / f"{fingerprint}.npz"
    arrays = _read(path)
    if arrays is None:
        arrays = Decoded(make())
        if keep:
            _write(path, arrays)
    _live[fingerprint] = arrays
    return arrays


def _read(path: Path) -> Decoded | None:
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = Decoded({key: file[key] for key in file.files})
        if str(arrays.pop("digest")) == digest(arrays):
            return arrays
        reason = "its digest does not match"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        reason = str(error)
    log.warning("cache file %s is damaged (%s): decoding again", path, reason)
    return None


def _write(path: Path, arrays: Decoded) -> None:
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                np.savez(file, digest=np.array(digest(arrays)), **arrays)
            os.replace(temporary, path)  # readers see the whole file or none
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        log.warning("decoded data is not kept (%s): point FMJAX_CACHE to a folder that can be written", error)


def _update(state: Any, part: Any) -> None:
    if isinstance(part, np.ndarray):
        _update(state, f"{part.dtype.str}{part.shape}")
        state.update(np.ascontiguousarray(part).view(np.uint8).data if part.size else b"")
    elif isinstance(part, dict):
        _update(state, f"dict{len(part)}")
        for key in sorted(part):
            _update(state, key)
            _update(state, part[key])
    elif isinstance(part, (tuple, list)):
        _update(state, f"tuple{len(part)}")
        for item in part:
            _update(state, item)
    elif part is None or isinstance(part, (str, int, float, bool, bytes)):
        raw = part if isinstance(part, bytes) else repr(part).encode()
        state.update(f"{type(part).__name__}{len(raw)}:".encode() + raw)
    else:
        raise TypeError(f"no digest of a {type(part).__name__}")
