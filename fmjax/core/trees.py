"""Weights have addresses: "model/block_3/attention/query/kernel", and patterns pick them."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from fmjax.core.errors import ConfigError
from fmjax.core.types import Tree


def address(path: Sequence[Any]) -> str:
    """A key path of jax.tree_util as "a/b/0/c"."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def addresses(tree: Tree) -> list[str]:
    """The address of every leaf, in the order of `jax.tree.leaves`."""
    return [address(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def flatten(tree: Tree) -> dict[str, Any]:
    """{address: leaf}."""
    return {address(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{address: leaf} as nested dicts."""
    out: dict[str, Any] = {}
    for name, leaf in flat.items():
        *parents, last = name.split("/")
        node = out
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return out


def map_with_address(fn: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """`fn(address, leaf, ...)` on every leaf."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: fn(address(path), *leaves), tree, *rest)


def matches(pattern: str, name: str) -> bool:
    """Whether a regular expression is found anywhere in the address."""
    return re.search(pattern, name) is not None


def first_match(rules: Iterable[tuple[str, Any]], tree: Tree, what: str = "rule") -> Tree:
    """The value of the first rule whose pattern matches each leaf's address.

    Args:
      rules: (pattern, value) pairs, tried in order.
      tree: the weights, or their shapes.
      what: the word used in errors.

    Raises:
      ConfigError: a leaf that no pattern matches, or a pattern that matches no leaf.
    """
    rules, used = list(rules), set()

    def pick(name: str, _: Any) -> Any:
        for i, (pattern, value) in enumerate(rules):
            if matches(pattern, name):
                used.add(i)
                return value
        raise ConfigError(f"no {what} covers {name}: add a last ('.*', ...) or a pattern that matches it")

    out = map_with_address(pick, tree)
    for i, (pattern, _) in enumerate(rules):
        if i not in used and pattern != ".*":
            raise ConfigError(f"the {what} {pattern!r} is the first match of no weight such as {addresses(tree)[0]}")
    return out


def count(tree: Tree) -> int:
    """How many numbers the tree holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def nbytes(tree: Tree) -> int:
    """How many bytes the tree holds."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
