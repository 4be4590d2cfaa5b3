"""A config is data that names callables: `call` writes one down, `build` runs it, `parse` overrides it."""

import dataclasses
import difflib
import functools
import importlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_dict import FieldReference, placeholder

from fmjax.core.errors import ConfigError, UserError

SCALARS = (bool, int, float, str)
HIDDEN = {"parent", "name"}  # linen's own fields
DURATION = re.compile(r"(\d+(?:\.\d+)?)(epochs?|examples|steps?|%)")
_CALLABLE = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*:[A-Za-z_]\w*(?:\.\w+)*")


def call(fn: Callable, **kwargs: Any) -> ConfigDict:
    """Write down `fn(**kwargs)`, with `fn`'s own scalar defaults, to be run later by `build`.

    Args:
      fn: a public callable at module level, or a `functools.partial` of one.
      **kwargs: its arguments: scalars, tuples, dicts, other calls, or callables to pass on as they are.

    Raises:
      ConfigError: `fn` takes no such argument, or cannot be named.
    """
    while isinstance(fn, functools.partial):  # a variant: name what it specialises
        kwargs, fn = {**fn.keywords, **kwargs}, fn.func
    types_, known = hints(fn), inspect.signature(fn).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        for key in kwargs.keys() - known.keys():
            raise ConfigError(f"{name_of(fn)} takes no {key!r}; {did_you_mean(key, known.keys() - HIDDEN)}")
    defaults = {k: p.default for k, p in known.items() if k not in HIDDEN and _plain(p.default)}
    try:
        fields = {k: _note(v, types_.get(k)) for k, v in {**defaults, **kwargs}.items()}
        return ConfigDict({"call": name_of(fn), **fields})
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{name_of(fn)}: {error}") from None


def build(node: Any, at: str = "config", **late: Any) -> Any:
    """Run every call written in `node`, innermost first; `late` fills the outermost.

    Raises:
      ConfigError: a callable that does not exist, or arguments it does not take.
    """
    if isinstance(node, (ConfigDict, dict)):
        if "ref" in node and len(node) == 1:
            return load_callable(node["ref"], at)
        values = {k: build(v, f"{at}.{k}") for k, v in node.items() if k != "call"}
        if "call" not in node:
            return values
        fn = load_callable(node["call"], at)
        types_ = hints(fn)
        for key, parameter in inspect.signature(fn).parameters.items():
            empty = key in values and values[key] is None and parameter.default is parameter.empty
            if empty and key in types_ and type(None) not in members(types_[key]):
                raise ConfigError(f"--{at}.{key} has no value, and {node['call']} needs one")
        try:
            inspect.signature(fn).bind(**values, **late)
        except TypeError as error:
            raise ConfigError(f"--{at} ({node['call']}): {error}") from None
        try:
            return fn(**values, **late)
        except UserError as error:
            if str(error).startswith("--"):
                raise
            raise type(error)(f"--{at}: {error}") from None
    if isinstance(node, (list, tuple)):
        return type(node)(build(v, f"{at}[{i}]") for i, v in enumerate(node))
    return node


def parse(config: ConfigDict, argv: list[str]) -> dict[str, Any]:
    """Apply `--config.a.b=value` in place, and return what was overridden.

    Three forms come before absl's own: `--config.model=pkg.mod:fn` replaces a call, whose fields can
    be overridden in the same command; `--config.a.b=None` empties a field annotated `| None`; and
    `--config.steps=5epochs` writes a duration where an integer stood.

    Raises:
      ConfigError: an unknown key, a value of another type, or an argument that is no override.
    """
    swapped: dict[str, Any] = {}
    try:
        rest = [arg for arg in argv if not _swap(config, arg, swapped)]
        for arg in rest:
            _must_exist(config, arg)
        values = flags.FlagValues()
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=["fmjax", *rest])
        left = values(["fmjax", *rest])[1:]
        if left:
            raise ConfigError(f"{left[0]!r} is no override; write --config.some.key=value")
        return {**swapped, **values["config"].override_values}
    except ConfigError:
        raise
    except (KeyError, AttributeError, TypeError, ValueError, IndexError, flags.Error) as error:
        text = str(error.args[0] if error.args else error)
        raise ConfigError(f"override refused: {' '.join(text.split())}") from None


def did_you_mean(key: str, known: typing.Iterable[str]) -> str:
    """ "did you mean 'width'?", or the list of what there is when nothing is close."""
    known = [str(k) for k in known]
    close = difflib.get_close_matches(str(key), known, 1)
    return f"did you mean {close[0]!r}?" if close else f"there is {', '.join(known) or 'nothing'}"


def walk(node: Any, at: str = "config") -> typing.Iterator[tuple[str, Any, Any, Any]]:
    """(path, holder, key, value) of every leaf of a config."""
    items = node.items() if isinstance(node, (ConfigDict, dict)) else enumerate(node)
    for key, value in list(items):
        path = f"{at}.{key}" if isinstance(node, (ConfigDict, dict)) else f"{at}[{key}]"
        inner = value if isinstance(value, tuple) else (value,)
        if any(isinstance(v, (ConfigDict, dict)) for v in inner):
            yield from walk(value, path)
        else:
            yield path, node, key, value


def restore(value: Any) -> Any:
    """Plain JSON data as a config; every call gets its typed fields again, so that it can be overridden."""
    if isinstance(value, dict):
        value = {k: restore(v) for k, v in value.items()}
        name = value.pop("call", None)
        return call(load_callable(name), **value) if name else ConfigDict(value)
    return tuple(map(restore, value)) if isinstance(value, list) else value


def load_callable(path: str, at: str = "config") -> Callable:
    """The object that "package.module:name" names."""
    module, _, name = path.partition(":")
    try:
        return functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except ModuleNotFoundError as error:
        if error.name and not (module == error.name or module.startswith(error.name + ".")):
            raise
        raise ConfigError(f"--{at}: there is no module {error.name!r} (named by {path!r})") from None
    except AttributeError:
        there = [k for k in vars(importlib.import_module(module)) if not k.startswith("_")]
        raise ConfigError(f"--{at}: {module} has no {name!r}; {did_you_mean(name, there)}") from None


def _swap(config: ConfigDict, arg: str, swapped: dict[str, Any]) -> bool:
    """Apply one of the forms absl does not know; False leaves the argument to absl."""
    path, _, value = arg.removeprefix("--config.").partition("=")
    special = value == "None" or _CALLABLE.fullmatch(value) or DURATION.fullmatch(value) or value.isdigit()
    if "[" in path or not arg.startswith("--config.") or not special:
        return False
    *parents, key = path.split(".")
    holder = config
    for parent in parents:
        holder = _child(holder, parent, path)
    old = _child(holder, key, path)
    if DURATION.fullmatch(value) or value.isdigit():
        was_duration = isinstance(old, str) and DURATION.fullmatch(old)
        counts = type(old) is int or (old is None and holder.get_type(key) is int)
        if not was_duration and (value.isdigit() or not counts):
            return False
        with holder.ignore_type():
            holder[key] = int(value) if value.isdigit() else value
    elif value == "None":
        hint = hints(load_callable(holder["call"])).get(key) if "call" in holder else None
        if "call" in holder and type(None) not in members(hint):
            raise ConfigError(f"--config.{path} may not be None")
        with holder.ignore_type():
            holder[key] = _note(None, hint)
    elif not isinstance(old, str):
        old = old if isinstance(old, ConfigDict) else None
        with holder.ignore_type():
            holder[key] = _replace(old, load_callable(value, f"config.{path}"))
    else:
        return False  # a string that happens to hold a colon
    swapped[path] = value
    return True


def _must_exist(config: ConfigDict, arg: str) -> None:
    """Refuse a key that is not there in the words of this house; what holds an index is left to absl."""
    path, equals, _ = arg.removeprefix("--config.").partition("=")
    if not arg.startswith("--config.") or not equals or "[" in path:
        return
    holder = config
    for key in path.split("."):
        holder = _child(holder, key, path)


def _child(holder: Any, key: str, path: str) -> Any:
    if not isinstance(holder, ConfigDict) or key not in holder:
        known = holder.keys() if isinstance(holder, ConfigDict) else []
        raise ConfigError(f"--config.{path}: there is no {key!r}; {did_you_mean(key, known)}")
    return holder[key]


def _replace(old: Any, new: Callable) -> ConfigDict:
    if old is not None and "ref" in old and len(old) == 1:
        return _note(new)
    base = new.func if isinstance(new, functools.partial) else new  # keep what it requires
    types_, node = hints(base), call(new)
    for key, parameter in inspect.signature(base).parameters.items():
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD and key not in node:
            node[key] = old[key] if key in (old or ()) else _note(None, types_.get(key))  # an empty field to fill
    return node


def _note(v: Any, hint: Any = None) -> Any:
    kinds = [t for t in members(hint) if t is not type(None)]
    if v is None:  # typed by the annotation, so that it can be overridden
        kind = (typing.get_origin(kinds[0]) or kinds[0]) if len(kinds) == 1 else object
        return placeholder(kind if kind in (*SCALARS, tuple) else object)
    if type(v) is int and float in kinds and int not in kinds:
        return float(v)
    if isinstance(v, Mapping) and not isinstance(v, ConfigDict):
        return ConfigDict({k: _note(x) for k, x in v.items()})
    if isinstance(v, (list, tuple)):
        return tuple(_note(x) for x in v)
    known = (ConfigDict, FieldReference)
    return ConfigDict({"ref": name_of(v)}) if callable(v) and not isinstance(v, known) else v


def hints(fn: Any) -> dict[str, Any]:
    """The annotations of a callable's arguments, resolved."""
    try:
        written_out = isinstance(fn, type) and not dataclasses.is_dataclass(fn)
        return typing.get_type_hints(fn.__init__ if written_out else fn)
    except (NameError, TypeError):  # an annotation that cannot be resolved gives no types, only fewer checks
        return {}


def _plain(v: Any) -> bool:
    return v is None or isinstance(v, SCALARS) or (isinstance(v, tuple) and all(map(_plain, v)))


def members(hint: Any) -> tuple:
    """The types that a union allows."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def name_of(fn: Callable) -> str:
    """How a config names a callable, "package.module:name".

    Raises:
      ConfigError: it is not public and at module level.
    """
    path = f"{fn.__module__}:{getattr(fn, '__qualname__', '<')}"
    if "<" in path or path.startswith("_") or "._" in path:
        raise ConfigError(f"a config cannot name {path}: define a public function at module level")
    return path
