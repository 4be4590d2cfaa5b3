"""What a checkpoint is on disk, without jax: whole folders, their hashes and manifest, and what a killed save left.

checkpoints/
  lock                      who writes here
  scores.json               {step: value} of the metric that picks the best
  300/                      appears whole, by one rename
    manifest.json           step, facts of the run, shape, dtype and digest of every leaf
    SHA256SUMS              of every other file; `sha256sum -c SHA256SUMS` reads it
    arrays/                 Orbax
  frozen/<digest>/          the same, for weights that never move
  400.partial               being written, or left by a killed save
"""

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fmjax.core.errors import CheckpointError

FORMAT = 1
MANIFEST, SUMS, SCORES = "manifest.json", "SHA256SUMS", "scores.json"
RESERVED = ("format", "bytes", "digest", "leaves", "saved_at")
PARTIAL, DELETED, REPLACED = ".partial", ".deleted", ".replaced"


class DamagedError(CheckpointError):
    """What is on disk is not what was saved."""


def steps(folder: Path) -> list[int]:
    """The steps whose checkpoints are there, in order; the manifest and the digests say whether they are undamaged."""
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(name) for name in names if name.isascii() and name.isdigit() and name == str(int(name)))


def frozen(folder: Path) -> list[str]:
    """The digests of the frozen weights saved here."""
    return sorted(path.name for path in folder.glob("frozen/*") if "." not in path.name)


def clean(folder: Path) -> None:
    """Remove what killed saves left; only for the holder of the lock."""
    for path in [*folder.iterdir(), *folder.glob("frozen/*")]:
        whole = path.with_suffix("")
        if path.suffix == REPLACED and not whole.exists():
            path.rename(whole)  # killed between the two renames of `publish`
        elif path.suffix in (PARTIAL, DELETED, REPLACED):
            shutil.rmtree(path)


def publish(path: Path) -> None:
    """Make `<path>.partial` the checkpoint `path`, in place of one that may be there."""
    partial, old = path.with_name(path.name + PARTIAL), path.with_name(path.name + REPLACED)
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    partial.rename(path)
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove(path: Path) -> None:
    """Delete a checkpoint, so that a half-deleted one never looks whole."""
    doomed = path.with_name(path.name + DELETED)
    path.rename(doomed)
    shutil.rmtree(doomed)


def write(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(folder: Path) -> None:
    """Ask the disk to remember the names in a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def manifest_text(facts: dict[str, Any], leaves: dict[str, dict[str, Any]]) -> str:
    """The manifest as JSON, a line a leaf."""
    head = json.dumps({"format": FORMAT, **facts}, indent=1).removesuffix("\n}")
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(leaf)}" for name, leaf in leaves.items())
    return f'{head},\n "leaves": {{\n{lines}\n }}\n}}\n'


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the checkpoint `path`.

    Raises:
      DamagedError: it does not parse, or is not the file that was hashed.
      CheckpointError: it has a newer format than this version reads.
    """
    try:
        raw = (path / MANIFEST).read_bytes()
        manifest = json.loads(raw)
        version, leaves = manifest["format"], manifest["leaves"]
        parts = {"shape", "dtype", "digest"}
        well_formed = type(version) is int and all(parts <= leaf.keys() for leaf in leaves.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it does not parse"
        raise DamagedError(f"{path / MANIFEST} is damaged: {reason}") from None
    noted = dict(line.split("  ", 1)[::-1] for line in _noted(path) if "  " in line)
    if not well_formed or noted.get(MANIFEST, digest_of(raw)) != digest_of(raw):
        raise DamagedError(f"{path / MANIFEST} is damaged: it is not the file that was saved")
    if version > FORMAT:
        raise CheckpointError(f"{path} has checkpoint format {version}, this fmjax reads up to {FORMAT}: upgrade fmjax")
    return manifest


def sums(path: Path) -> str:
    """The text of SHA256SUMS for the files that are there now."""
    files = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file() and p != path / SUMS)
    with ThreadPoolExecutor(4) as pool:  # hashing releases the interpreter lock
        hashes = pool.map(lambda name: _file_hash(path / name), files)
        return "".join(f"{value}  {name}\n" for value, name in zip(hashes, files, strict=True))


def damaged_files(path: Path) -> list[str] | None:
    """Which files differ from their hashes, are gone or are new; None when no hashes were saved."""
    if not (path / SUMS).is_file():
        return None
    now, noted = sums(path).splitlines(), _noted(path)
    return sorted({line.split("  ", 1)[-1] for line in set(now) ^ set(noted)} or ({SUMS} if now != noted else set()))


def digest_of(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _noted(path: Path) -> list[str]:
    try:
        return (path / SUMS).read_bytes().decode("utf-8", "replace").removesuffix("\n").split("\n")
    except FileNotFoundError:
        return []


def _file_hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
