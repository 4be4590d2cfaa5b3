"""The folder of a run: what is written where, so that it can be listed, resumed and read from itself alone."""

import json
import os
import platform
import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from fmjax.core import configfile
from fmjax.core.errors import CheckpointError

PACKAGES = ("fmjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "ml-collections", "numpy")
# What may differ when a run is resumed: it changes no batch and no key, and no number by more than rounding.
MAY_CHANGE = re.compile(r"config\.(mesh|sharding|log|checkpoint)\b|config\..*\.(workers|threads|prefetch)$")


class RunFolder:
    """Paths and small files of one run. Only process 0 writes."""

    def __init__(self, path: Path | str, writes: bool = True) -> None:
        self.path = Path(path)
        self.writes = writes
        self._beat = 0.0

    config = property(lambda self: self.path / "config.json")
    overrides = property(lambda self: self.path / "overrides.json")
    environment = property(lambda self: self.path / "environment.json")
    metrics = property(lambda self: self.path / "metrics.jsonl")
    tensorboard = property(lambda self: self.path / "tensorboard")
    checkpoints = property(lambda self: self.path / "checkpoints")
    tokenizer = property(lambda self: self.path / "tokenizer")

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return self.config.is_file()

    def prepare(self) -> None:
        """Make the folder.

        Raises:
          CheckpointError: it cannot be made or written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".write_probe_{os.getpid()}"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise CheckpointError(
                f"the run folder {self.path} cannot be written ({error.strerror}): choose another --workdir"
            ) from None

    def agree(self, config: Any) -> None:
        """Refuse a config other than the one this run was begun with; places and habits (`MAY_CHANGE`) may differ.

        Raises:
          CheckpointError: naming the keys that differ.
        """
        found = configfile.differences(configfile.load(self.config), config)
        # A key that came with a later version, and is off, is no other config.
        new_and_off = {k for k, pair in found.items() if pair == ("(absent)", None)}
        found = {k: v for k, v in found.items() if k not in new_and_off and not MAY_CHANGE.match(k)}
        if found:
            shown = "; ".join(
                f"{k.removeprefix('config.')} was {a!r}, is {b!r}" for k, (a, b) in list(found.items())[:4]
            )
            more = f" and {len(found) - 4} more" if len(found) > 4 else ""
            raise CheckpointError(
                f"{self.path} holds a run of another config ({shown}{more}): choose another --workdir"
            )

    def begin(self, config: Any, overrides: dict[str, Any], environment: dict[str, Any]) -> None:
        """Write down what this run is. config.json comes last: with it the run exists."""
        self.write_json(self.overrides, overrides)
        self.write_json(self.environment, environment)
        temporary = self.config.with_suffix(".tmp")
        configfile.save(config, temporary)
        temporary.replace(self.config)

    def write_json(self, path: Path, data: Any) -> None:
        """Write JSON so that a reader sees the old file or the new one."""
        if self.writes:
            _write(path, json.dumps(data, indent=1, default=_plain) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a small text file inside the folder, whole or not at all."""
        if self.writes:
            _write(self.path / name, text)

    @property
    def state(self) -> str:
        """running, interrupted, finished, pruned or failed; "new" before any."""
        path = self.path / "state"
        return path.read_text().strip() if path.is_file() else "new"

    def mark(self, state: str) -> None:
        """Write down how the run stands."""
        self.write_text("state", state + "\n")
        self.heartbeat(force=True)

    def heartbeat(self, force: bool = False) -> None:
        """Say that the run is alive, at most every five seconds."""
        now = time.time()
        if self.writes and (force or now - self._beat > 5):
            self._beat = now
            self.write_text("heartbeat", f"{now:.1f}\n")


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text)
        temporary.replace(path)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}") from None


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def environment() -> dict[str, Any]:
    """Versions, devices, flags and code of this process."""
    import jax

    devices = jax.devices()
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": jax.default_backend(),
        "devices": [f"{len(devices)} x {devices[0].device_kind}"],
        "processes": jax.process_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "git": git_sha(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "import_from": str(Path.cwd()),
        "path": [p for p in sys.path if p and "site-packages" not in p and not p.endswith((".zip", "lib-dynload"))],
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def git_sha() -> str | None:
    """The commit of the code, with "+" when files were changed; None outside a repository."""

    def git(*args: str) -> str:
        root = Path(__file__).resolve().parents[2]
        return subprocess.run(
            ["git", "-C", str(root), *args], capture_output=True, text=True, check=True, timeout=10
        ).stdout

    try:
        dirty = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD").strip() + ("+" if dirty.strip() else "")
    except (OSError, subprocess.SubprocessError):
        return None
