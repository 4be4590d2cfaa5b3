"""Checkpoints: saved in the background, whole or not at all, checked bit for bit when restored, on any mesh."""

import dataclasses
import json
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from fmjax.core.errors import CheckpointError, ConfigError
from fmjax.core.types import Tree
from fmjax.training import checkpoint_arrays as arrays_io
from fmjax.training import checkpoint_folder as folders
from fmjax.training import digest
from fmjax.training.checkpoint_folder import DamagedError
from fmjax.training.checkpoint_lock import Lock
from fmjax.training.checkpoint_saver import Saver
from fmjax.training.checkpoint_scores import Scores

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Policy:
    """When to save and what to keep.

    Attributes:
      every: save after this many steps.
      keep: how many of the last checkpoints stay.
      keep_every: those of multiples of this step stay as well.
      best: a number of an evaluation, "validation/accuracy"; the checkpoint of its best value stays as well.
      mode: "max" or "min", what best means.
      verify: compare every leaf with its digest when restoring.
    """

    every: int = 1000
    keep: int = 3
    keep_every: int | None = None
    best: str | None = None
    mode: str = "max"
    verify: bool = True

    def __post_init__(self):
        for name in ("every", "keep", "keep_every"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"checkpoint.{name} must be at least 1, not {value}")
        if self.mode not in ("max", "min"):
            raise ConfigError(f"checkpoint.mode must be 'max' or 'min', not {self.mode!r}")


class Checkpoints:
    """The checkpoints of one run; see `checkpoint_folder` for what lies on disk.

    A writable one holds the folder's lock until `close` (or the end of the process) and removes what killed saves
    left. A read-only one never writes. All processes of a run call the same methods in the same order.

    Raises:
      CheckpointError: from every method, for what a person can mend: a folder in use or not writable, a full disk,
        damage, or a state of another model. An error of the background writer is raised by the next call.
    """

    def __init__(self, folder: Path, policy: Policy = Policy(), writable: bool = True):
        self.folder, self.policy, self.writable = Path(folder).absolute(), policy, writable
        self._primary = jax.process_index() == 0
        self._saver = Saver(self._primary)
        self._pending: int | None = None  # the step being written
        self._saved: dict[int, str] = {}  # {step: facts} since the state last came from disk
        self._marked: set[int] = set()  # steps valued since then
        self._damaged: set[int] = set()
        self._deciding = threading.Lock()  # what is best, against what may be deleted
        self._lock = None
        if writable and self._primary:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._lock = Lock(self.folder / "lock")
                folders.clean(self.folder)
            except OSError as error:
                self._unlock()
                reason = error.strerror or error
                raise CheckpointError(f"cannot write checkpoints into {self.folder}: {reason}") from None
        metric = (policy.best, policy.mode) if writable else ()  # a reader need not know the policy
        self._scores = Scores(self.folder / folders.SCORES, *metric)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def steps(self) -> list[int]:
        """The steps that are complete on disk, in order."""
        return folders.steps(self.folder)

    def latest(self) -> int | None:
        """The last of them."""
        return self._primary_says(max(self.steps(), default=None))

    def best(self) -> int | None:
        """The step with the best value among those on disk."""
        return self._primary_says(self._scores.best(self.steps()))

    def has(self, step: int) -> bool:
        """Whether the step is on disk or on its way there."""
        return bool(self._primary_says(step == self._pending or step in self.steps()))

    def save(self, step: int, state: Tree, manifest: dict[str, Any], wait: bool = False) -> None:
        """Begin to save `state`; returns when it is copied, so that it may be donated.

        Waits for a save that is still being written. Saving the same step twice with the same facts writes it once.

        Args:
          step: names the checkpoint; one that is there is replaced when the new one is whole.
          state: a tree of arrays, typed keys and numbers.
          manifest: facts to keep with it, plain JSON.
          wait: return when it is on disk.
        """
        facts = {**_plain(manifest), "step": int(step)}
        noted = json.dumps(facts, sort_keys=True)
        self.check()
        if self._saved.get(step) != noted:
            self.wait()
            self._forget_value(step)
            self._start(self.folder / str(step), state, facts, lambda: self._tidy(step))
            self._pending, self._saved[step] = step, noted
        if wait:
            self.wait()

    def mark_best(self, step: int, value: float) -> bool:
        """Note the value of a step; True when it beats every other step saved.

        Call it before or after `save` of that step. When it is True and `has(step)` is not, save the step: only then
        does it count. A step valued again takes its new value; NaN and infinity are never best.
        """
        self._must_be_writable()
        with self._deciding:
            wins = self._scores.beats(step, value, {*self.steps(), self._pending} - {None})
            self._scores.note(step, value)
        self._marked.add(step)
        self._write_scores()
        return bool(self._primary_says(wins))

    def restore(
        self, target: Tree | Callable[[Mapping[str, Any]], Tree], step: int | None = None, partial: bool = False
    ) -> tuple[Tree, dict[str, Any]]:
        """(state, manifest) of a step; without one, of the latest that is not damaged.

        Args:
          target: what to restore, abstract: `jax.ShapeDtypeStruct`s whose shardings say where (any mesh), numpy arrays
            or numbers. Or what gives it, from the leaves of a checkpoint's manifest by address.
          step: this step and no other.
          partial: the checkpoint may hold more than the target, which is left on disk.

        Returns:
          The tree, and the manifest with "warnings": what is damaged and was passed over.
        """
        self.wait()
        steps = self.steps()
        if step is not None and not self._primary_says(step in steps):
            raise CheckpointError(f"{self.folder} has no step {step}; there is {_listed(steps)}")
        left, warnings = [step] if step is not None else steps, []
        while (k := self._primary_says(left.pop() if left else None)) is not None:
            try:
                tree, manifest = self._read(self.folder / str(k), target, partial)
            except DamagedError as error:
                if step is not None:
                    raise
                self._damaged.add(k)
                warnings.append(f"passed over a checkpoint: {error}")
                log.warning("%s", warnings[-1])
                continue
            self._saved.clear()
            self._marked.clear()
            return tree, {**manifest, "warnings": warnings}
        if not warnings:
            raise CheckpointError(f"there is no checkpoint in {self.folder}")
        raise CheckpointError(f"every checkpoint in {self.folder} is damaged: {'; '.join(warnings)}")

    def save_frozen(self, tree: Tree) -> str:
        """Save weights that never move, once, and wait for it; returns the digest that names them."""
        self.wait()
        arrays, leaves = arrays_io.encode(tree)
        found = digest.digests(arrays)
        name = digest.combine({key: {**leaf, "digest": found[key]} for key, leaf in leaves.items()})
        if not self._primary_says(name in folders.frozen(self.folder)):
            self._start(self.folder / "frozen" / name, tree, {})
            self.wait()
        return name

    def restore_frozen(self, target: Tree, digest: str) -> Tree:
        """Weights saved by `save_frozen`."""
        self.wait()
        there = folders.frozen(self.folder)
        if not self._primary_says(digest in there):
            raise CheckpointError(f"{self.folder} has no frozen weights {digest}; there is {_listed(there)}")
        return self._read(self.folder / "frozen" / digest, target, False)[0]

    def frozen_leaves(self, digest: str) -> dict[str, dict[str, Any]]:
        """{address: {"shape", "dtype", "digest"}} of weights saved by `save_frozen`."""
        there = folders.frozen(self.folder)
        if digest not in there:
            raise CheckpointError(f"{self.folder} has no frozen weights {digest}; there is {_listed(there)}")
        return folders.read_manifest(self.folder / "frozen" / digest)["leaves"]

    def check(self) -> None:
        """Raise the error of a save that has failed in the background; costs nothing."""
        if not self._saver.busy():
            self.wait()

    def wait(self) -> None:
        """Block until nothing is being written."""
        step, what = self._pending, "a checkpoint" if self._pending is None else f"step {self._pending}"
        try:
            self._saver.wait()
        except Exception as error:
            self._saved.pop(step, None)
            raise self._failure(what, error) from error
        finally:
            self._pending = None

    def close(self) -> None:
        """Wait, and give the folder back."""
        try:
            self.wait()
            self._saver.close()
        finally:
            self._unlock()
            self.writable = False

    def _start(self, path: Path, tree: Tree, facts: dict[str, Any], then: Callable[[], None] = lambda: None) -> None:
        self._must_be_writable()
        try:
            self._saver.start(path, tree, facts, then)
        except (OSError, ValueError, CheckpointError) as error:  # Orbax gives a full disk as a ValueError
            what = f"step {path.name}" if path.parent == self.folder else "frozen weights"
            raise self._failure(what, error) from error

    def _tidy(self, newest: int) -> None:
        """Delete what the policy does not keep; what is known to be damaged neither counts nor goes."""
        self._damaged.discard(newest)
        with self._deciding:
            steps = [k for k in self.steps() if k not in self._damaged]
            kept = {newest, *steps[-self.policy.keep :], self._scores.best(steps)}
            kept |= {k for k in steps if self.policy.keep_every and k % self.policy.keep_every == 0}
            for step in set(steps) - kept:
                try:
                    folders.remove(self.folder / str(step))
                except OSError as error:
                    log.warning("could not delete the old checkpoint %s: %s", self.folder / str(step), error)

    def _read(self, path: Path, target: Tree, partial: bool) -> tuple[Tree, dict[str, Any]]:
        """(tree, manifest) of one checkpoint; DamagedError on every process when one finds damage."""
        damage = None
        try:
            manifest = folders.read_manifest(path)
            leaves = manifest["leaves"]
            target = target(leaves) if callable(target) else target
            arrays_io.check(leaves, target, str(path), partial)
            arrays = arrays_io.read(path, leaves, arrays_io.kinds(target))
        except DamagedError as error:
            damage = error
        if not self._all(damage is None):
            raise damage or DamagedError(f"{path} cannot be read by another process")
        if self.policy.verify:
            arrays_io.compare(path, leaves, arrays)
        return arrays_io.decode(target, leaves, arrays), manifest

    def _primary_says(self, value: int | None) -> int | None:
        """The value (None, or not negative) that process 0 has, on every process."""
        if jax.process_count() == 1:
            return value
        said = int(multihost_utils.broadcast_one_to_all(np.int32(-1 if value is None else value)))
        return None if said < 0 else said

    def _all(self, fine: bool) -> bool:
        return fine if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.int32(fine)).all())

    def _forget_value(self, step: int) -> None:
        """Drop what an abandoned course of the run was worth at this step."""
        with self._deciding:
            stale = step not in self._marked and self._scores.values.pop(step, None) is not None
        if stale:
            self._write_scores()

    def _write_scores(self) -> None:
        if self._primary:
            try:
                self._scores.write()
            except OSError as error:
                raise self._failure("the best value", error) from None

    def _must_be_writable(self) -> None:
        if not self.writable:
            raise CheckpointError(f"{self.folder} is not open for writing")

    def _failure(self, what: str, error: BaseException) -> CheckpointError:
        there = self.steps()
        rest = f"the checkpoints of {_listed(there[-3:])} are intact" if there else "none was saved before"
        return CheckpointError(f"could not save {what} in {self.folder}: {arrays_io.one_line(error)}; {rest}")

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _plain(manifest: dict[str, Any]) -> dict[str, Any]:
    """The same facts as JSON gives them back; what is no JSON is a bug of the caller."""
    if taken := manifest.keys() & set(folders.RESERVED):
        raise ValueError(f"a manifest has its own {', '.join(sorted(taken))}")
    return json.loads(json.dumps(manifest))


def _listed(names: list) -> str:
    return ", ".join(map(str, names)) or "none"
