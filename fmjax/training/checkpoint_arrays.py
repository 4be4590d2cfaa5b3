"""The leaves of a tree to and from Orbax: a flat {address: array}, described in plain JSON, never a pickle."""

import functools
import logging
import math
import os
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.core import trees
from fmjax.core.errors import CheckpointError
from fmjax.core.types import Tree
from fmjax.training import checkpoint_folder as folders
from fmjax.training import digest
from fmjax.training.checkpoint_folder import DamagedError

ARRAYS = "arrays"
SMALL = 1 << 28  # numbers; up to here the files are hashed before they are read
Leaves = Mapping[str, Mapping[str, Any]]  # {address: {"shape", "dtype", "digest", "key"?}}


def encode(tree: Tree) -> tuple[dict[str, Any], dict[str, dict]]:
    """({address: array}, {address: {"shape", "dtype", "key"?}}) of a tree; typed keys become their data.

    Raises:
      CheckpointError: a leaf that is no array and no number, or two leaves of one address.
    """
    arrays, leaves = {}, {}
    for name, leaf in _flatten(tree).items():
        leaves[name] = describe(name, leaf)
        if _is_key(leaf):
            leaves[name]["key"] = str(jax.random.key_impl(leaf))
            leaf = jax.random.key_data(leaf)
        arrays[name] = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
    return arrays, leaves


def describe(name: str, leaf: Any) -> dict[str, Any]:
    """{"shape", "dtype"} of an array, an abstract array or a number."""
    if not hasattr(leaf, "dtype"):
        if not isinstance(leaf, (bool, int, float, complex)):
            raise CheckpointError(f"{name} is a {type(leaf).__name__}: a checkpoint holds arrays and numbers only")
        leaf = np.asarray(leaf)
    if leaf.dtype == object:
        raise CheckpointError(f"{name} has dtype object: a checkpoint holds arrays and numbers only")
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}


def check(leaves: Leaves, target: Tree, where: str, partial: bool = False) -> None:
    """Refuse a target that the checkpoint does not fit; `partial` allows a checkpoint that holds more.

    Raises:
      CheckpointError: names up to three leaves that are missing, extra, or of another shape or dtype.
    """
    wanted = {name: describe(name, leaf) for name, leaf in _flatten(target).items()}
    wrong = [f"{name} is not in it" for name in wanted.keys() - leaves.keys()]
    wrong += [] if partial else [f"{name} is only in it" for name in leaves.keys() - wanted.keys()]
    for name in wanted.keys() & leaves.keys():
        there, here = leaves[name], wanted[name]
        if (list(there["shape"]), there["dtype"]) != (here["shape"], here["dtype"]):
            wrong.append(f"{name} is {_shown(there)} in it and {_shown(here)} here")
    if wrong:
        rest = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        advice = "use the config that saved it, or start another folder"
        raise CheckpointError(f"{where} does not fit: {'; '.join(sorted(wrong)[:3])}{rest}; {advice}")


def kinds(target: Tree) -> dict[str, Any]:
    """{address: sharding} that a target asks for; None for numpy arrays and numbers."""
    return {name: _kind(leaf) for name, leaf in _flatten(target).items()}


def read(path: Path, leaves: Leaves, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """As `load`; a failure that the files are to blame for is a DamagedError."""
    size = sum(math.prod(leaves[name]["shape"]) for name in kinds)
    suspect = jax.process_count() == 1 and size <= SMALL and folders.damaged_files(path)
    # A leaf that cannot be read makes Orbax close its event loop under those read with it: one by one there.
    parts = [{name: kind} for name, kind in kinds.items()] if suspect else [kinds]
    out: dict[str, Any] = {}
    try:
        for part in parts:
            out |= load(path, leaves, part)
    except MemoryError:
        raise
    except Exception as error:
        if folders.damaged_files(path) == []:  # a bug or a full memory, which another checkpoint would not cure
            raise
        raise DamagedError(f"{path} cannot be read: {one_line(error)}") from error
    return out


def load(path: Path, leaves: Leaves, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """{name: array} for the names in `kinds`: a sharding gives a jax array, None a numpy array; keys as their data."""
    ocp = orbax()
    shapes = {name: stored(leaf) for name, leaf in leaves.items()}
    out = {name: _empty(shapes[name], kind) for name, kind in kinds.items() if not shapes[name].size}
    items = {name: shapes[name] for name in kinds if name not in out}
    args = {
        name: ocp.RestoreArgs(restore_type=np.ndarray)
        if kinds[name] is None
        else ocp.ArrayRestoreArgs(sharding=kinds[name], global_shape=shape.shape, dtype=shape.dtype)
        for name, shape in items.items()
    }
    if items:
        whole = len(items) == sum(1 for shape in shapes.values() if shape.size)
        request = ocp.args.PyTreeRestore(item=items, restore_args=args, partial_restore=not whole)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            out |= reader.restore(path / ARRAYS, args=request)
    return out


def compare(path: Path, leaves: Leaves, arrays: Mapping[str, Any]) -> None:
    """Refuse arrays (keys as their data) that are not what was saved.

    Raises:
      DamagedError: names up to three of them.
    """
    if wrong := differing(leaves, arrays):
        rest = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise DamagedError(f"{path} is damaged: {', '.join(wrong[:3])}{rest} differ from what was saved")


def differing(leaves: Leaves, arrays: Mapping[str, Any]) -> list[str]:
    """The names of the arrays whose shape, dtype or digest is not the manifest's."""
    found = digest.digests(arrays)

    def same(name: str, x: Any) -> bool:
        there = stored(leaves[name])
        return (found[name], x.shape, x.dtype) == (leaves[name]["digest"], there.shape, there.dtype)

    return sorted(name for name, x in arrays.items() if not same(name, x))


def decode(target: Tree, leaves: Leaves, arrays: Mapping[str, Any]) -> Tree:
    """The tree that `target` describes: keys typed again, numbers as numbers."""
    out = [_decode(leaf, leaves[name], arrays[name]) for name, leaf in _flatten(target).items()]
    return jax.tree.unflatten(jax.tree.structure(target), out)


def stored(leaf: Mapping[str, Any]) -> jax.ShapeDtypeStruct:
    """What lies on disk for a leaf of the manifest: a key as its words."""
    if "key" in leaf:
        data = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=leaf["key"])))
        return jax.ShapeDtypeStruct((*leaf["shape"], *data.shape), data.dtype)
    dtype = leaf["dtype"]
    return jax.ShapeDtypeStruct(tuple(leaf["shape"]), jnp.dtype(getattr(jnp, dtype, dtype)))  # jnp knows int4 too


def one_line(error: BaseException) -> str:
    """What an error says, short enough for one line."""
    if code := re.search(r"os_error_code='(\d+)'", str(error)):  # TensorStore puts it after a page of paths
        return os.strerror(int(code[1]))
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."


@functools.cache
def orbax() -> Any:
    """The package, imported when it is first needed: it takes seconds."""
    import orbax.checkpoint

    # It logs the traceback of whatever it raises; what is raised is said once, by us.
    logging.getLogger("absl").addFilter(_is_news)
    # When one array of a save fails, it raises that and forgets the others, and closes the loop that TensorStore still
    # wants to tell of them: both print tracebacks that nobody can act on, before or after our one line.
    logging.getLogger("asyncio").addFilter(lambda record: not _is_forgotten(record))
    before = sys.unraisablehook
    sys.unraisablehook = lambda seen: None if _is_late(seen) else before(seen)
    return orbax.checkpoint


def _is_news(record: logging.LogRecord) -> bool:
    return not (record.exc_info and "orbax" in record.pathname)


def _is_forgotten(record: logging.LogRecord) -> bool:
    """Whether asyncio complains of a failure of Orbax's that nobody asked about."""
    if not (record.exc_info and "never retrieved" in record.getMessage()):
        return False
    return any("orbax" in frame.f_code.co_filename for frame, _ in traceback.walk_tb(record.exc_info[2]))


def _is_late(seen: Any) -> bool:
    """Whether an exception that nobody caught is a word to an event loop that is closed."""
    return isinstance(seen.exc_value, RuntimeError) and str(seen.exc_value) == "Event loop is closed"


def _flatten(tree: Tree) -> dict[str, Any]:
    flat = trees.flatten(tree)
    if len(flat) != len(jax.tree.leaves(tree)):
        names = trees.addresses(tree)
        raise CheckpointError(f"two leaves have the address {max(names, key=names.count)}: rename one")
    return flat


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _kind(leaf: Any) -> Any:
    """The sharding a leaf wants; None for numpy and numbers."""
    if isinstance(leaf, (np.ndarray, np.generic)) or not hasattr(leaf, "dtype"):
        return None
    return getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def _decode(target: Any, leaf: Mapping[str, Any], x: Any) -> Any:
    if "key" in leaf:
        return jax.random.wrap_key_data(x, impl=leaf["key"])
    return x if hasattr(target, "dtype") else type(target)(x.item())


def _empty(shape: jax.ShapeDtypeStruct, sharding: Any) -> Any:
    nothing = np.zeros(shape.shape, shape.dtype)
    return nothing if sharding is None else jax.make_array_from_callback(shape.shape, sharding, lambda at: nothing[at])


def _shown(leaf: Mapping[str, Any]) -> str:
    return f"{leaf['dtype']}({', '.join(map(str, leaf['shape']))})"
