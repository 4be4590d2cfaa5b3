"""Which code made a number: the commit, and a digest of the sources that a run executes."""

import hashlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fmjax.core.config import walk
from fmjax.training.folder import git_sha

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")  # whose versions change numbers


def code_version(configs: Iterable[Any] = ()) -> dict[str, Any]:
    """{"git", "source", "packages"}: the commit (with "+" when files were changed, None outside a repository), the
    digest of fmjax's sources and of the modules outside any installed package that the configs name, and versions.

    Two commits that differ in documents alone have one digest; two states of a changed checkout do not.
    """
    from fmjax.results import versions

    house = Path(__file__).resolve().parent
    seen = hashlib.blake2b(digest_size=8)
    files = {f"fmjax/{path.relative_to(house)}": path for path in house.rglob("*.py")}
    files |= {name: path for config in configs for name, path in _own_modules(config)}
    for name in sorted(files):
        seen.update(f"{name}\0".encode())
        seen.update(hashlib.blake2b(files[name].read_bytes()).digest())
    found = versions()
    return {
        "git": git_sha(),
        "source": seen.hexdigest(),
        "packages": {name: found[name] for name in PACKAGES if name in found},
    }


def same_code(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two versions would compute the same."""
    return (one.get("source"), one.get("packages")) == (other.get("source"), other.get("packages"))


def in_words(code: dict[str, Any]) -> str:
    """A version in one line: "source 1a2b (commit 3c4d+, jax 0.10.2)"."""
    commit = code.get("git")
    named = f"commit {commit[:12]}{'+' if commit.endswith('+') else ''}, " if commit else ""
    return f"source {code.get('source')} ({named}jax {code.get('packages', {}).get('jax', '?')})"


def sentence(codes: Iterable[dict[str, Any]]) -> str:
    """Which versions computed something, in a line; of one source at two commits the first is named."""
    several: list[dict[str, Any]] = []
    for code in codes:
        several += [] if any(same_code(code, other) for other in several) else [code]
    start = "Code" if len(several) == 1 else "SEVERAL VERSIONS OF THE CODE"
    return f"{start}: {'; '.join(sorted(map(in_words, several)))}."


def _own_modules(config: Any) -> Iterator[tuple[str, Path]]:
    """(name, file) of every module that a config names and that nobody installed."""
    for _, holder, key, value in walk(config):
        if key in ("call", "ref") and isinstance(value, str) and hasattr(holder, "keys"):
            name = value.partition(":")[0]
            file = getattr(sys.modules.get(name), "__file__", None)
            installed = not file or "site-packages" in file or name.partition(".")[0] in sys.stdlib_module_names
            if not installed and name.partition(".")[0] != "fmjax":
                yield name, Path(file)
