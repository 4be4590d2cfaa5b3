"""Configs on disk: a Python file that makes one, the JSON a run keeps, and how two differ."""

import importlib
import inspect
import json
import sys
import typing
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from fmjax.core.config import did_you_mean, load_callable, restore, walk
from fmjax.core.errors import ConfigError

FORMAT = 1
# Names that moved: an old run folder that says the left is read as the right.
RENAMED_CALLABLES: dict[str, str] = {}  # "module:name" -> "module:name"
RENAMED_FIELDS: dict[str, dict[str, str]] = {}  # "module:name" -> {old field: new field}
_READ: dict[str, Path] = {}  # config files imported so far, by module name


def read(spec: str) -> ConfigDict:
    """The config of `path/to/file.py` or `path/to/file.py:variant`, or of a saved `config.json`.

    Raises:
      ConfigError: no such file, no `get_config` in it, or a variant that it does not know.
    """
    path = Path(spec.partition(":")[0])
    return load(path) if path.suffix == ".json" and path.is_file() else made_by(spec, "get_config")


def made_by(spec: str, function: str) -> Any:
    """What `function` of the file `path/to/file.py[:variant]` returns; the variant is its one argument.

    Raises:
      ConfigError: no such file or function, or a variant that it does not know.
    """
    file, _, variant = spec.partition(":")
    path = Path(file)
    if not path.is_file():
        near = sorted(str(p) for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise ConfigError(f"there is no config file {file}; {did_you_mean(file, near)}")
    make = getattr(_module(path), function, None)
    if make is None:
        raise ConfigError(f"{file} defines no {function}()")
    if not variant:
        return make()
    parameters = list(inspect.signature(make).parameters.values())
    if not parameters:
        raise ConfigError(f"{file} has no variants: {variant!r} is not known")
    choices = typing.get_args(typing.get_type_hints(make).get(parameters[0].name))
    if choices and variant not in choices:
        raise ConfigError(f"{file} has no variant {variant!r}; there is {', '.join(map(str, choices))}")
    return make(variant)


def _module(path: Path) -> Any:
    """Import a config file under a name that can be imported again: dotted below the working folder, else its stem."""
    path = path.resolve()
    root, below = Path.cwd(), path.with_suffix("")
    inside = below.is_relative_to(root) and all(p.isidentifier() for p in below.relative_to(root).parts)
    if not inside:
        root = path.parent
    name = ".".join(below.relative_to(root).parts)
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    if _READ.get(name, path) != path:  # another file of this name was read before: it gives way
        del sys.modules[name]
        sys.path.remove(str(root))
        sys.path.insert(0, str(root))
        importlib.invalidate_caches()
    module = importlib.import_module(name)
    if Path(str(module.__file__)).resolve() != path:
        raise ConfigError(f"{path.name} is hidden by {module.__file__}: rename the file")
    _READ[name] = path
    return module


def save(config: ConfigDict, path: Path) -> None:
    """Write the resolved config as JSON: references become values, tuples lists."""
    data = {"format": FORMAT, "config": json.loads(config.to_json())}
    path.write_text(json.dumps(data, indent=1) + "\n")


def load(path: Path) -> ConfigDict:
    """Read it back, names that moved since included; the result can be overridden and built.

    Raises:
      ConfigError: not a saved config, or one of a newer format than this version reads.
    """
    try:
        data = json.loads(path.read_text())
        version, plain = int(data["format"]), data["config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no saved config: {error}") from None
    if version > FORMAT:
        raise ConfigError(f"{path} has config format {version}, this fmjax reads up to {FORMAT}: upgrade fmjax")
    return restore(_rename(plain))


def _rename(value: Any) -> Any:
    if isinstance(value, list):
        return [_rename(v) for v in value]
    if not isinstance(value, dict):
        return value
    value = {k: _rename(v) for k, v in value.items()}
    fields = RENAMED_FIELDS.get(value.get("call", ""), {})
    value = {fields.get(k, k): v for k, v in value.items()}
    for key in ("call", "ref"):
        if isinstance(value.get(key), str):
            value[key] = RENAMED_CALLABLES.get(value[key], value[key])
    return value


def differences(a: ConfigDict, b: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """{path: (value in a, value in b)} where the two differ; a missing key reads as "(absent)"."""
    left = {path: value for path, _, _, value in walk(a)}
    right = {path: value for path, _, _, value in walk(b)}
    return {
        path: (left.get(path, "(absent)"), right.get(path, "(absent)"))
        for path in sorted(left.keys() | right.keys())
        if plain(left.get(path, "(absent)")) != plain(right.get(path, "(absent)"))
    }


def defaults(config: ConfigDict) -> dict[str, Any]:
    """{path: the callable's own default} of every field of every call."""
    found: dict[str, Any] = {}
    for path, holder, key, _ in walk(config):
        if isinstance(holder, ConfigDict) and "call" in holder and key != "call":
            parameter = inspect.signature(load_callable(holder["call"])).parameters.get(key)
            if parameter is not None and parameter.default is not parameter.empty:
                found[path] = parameter.default
    return found


def plain(value: Any) -> Any:
    """A leaf as JSON keeps it, so that a fresh config compares equal to its saved self."""
    return json.loads(json.dumps(value, default=str))
