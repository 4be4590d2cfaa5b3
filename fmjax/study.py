"""A study: a base config, named changes of it, seeds, and the number that is to answer the question.

    def get_study() -> Study:
        rates = grid({"optimizer.rate": (1e-3, 3e-3)})
        return Study(config="configs/vision/mlp_mnist.py", metric="test/accuracy", changes=rates, seeds=range(5))

A change is {key of the config: value}; `grid`, `zip_`, `chain` and `one_at_a_time` make {name: change}, and a plain
dict of that form serves as well. `python -m fmjax.sweep --study=FILE` runs it. In place of changes a study may have a
space to search; see space.py.
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.core.fingerprint import config_hash
from fmjax.space import Range, Search, checked, ends

Change = dict[str, Any]  # {key of the config: value}
Changes = dict[str, Change]  # {name: change}
HABITS = ("mesh", "sharding", "log", "checkpoint")  # keys that may differ between runs of one trial


def grid(*axes: Mapping[str, Any]) -> Changes:
    """Every combination.

    Args:
      *axes: {key: values} (several keys are several axes), or changes made before.

    Raises:
      ConfigError: no values, or two combinations of one name.
    """
    sets = []
    for axis in axes:
        if axis and all(isinstance(v, Mapping) for v in axis.values()):
            sets.append(list(axis.items()))
        else:
            sets += [list(_each(key, values, axis).items()) for key, values in axis.items()]
    if not sets:
        raise ConfigError("grid() of nothing: give {key: values}")
    made = (zip(*several) for several in itertools.product(*sets))
    return _unique((", ".join(names), _merged(names, parts)) for names, parts in made)


def zip_(axes: Mapping[str, Iterable[Any]]) -> Changes:
    """The first values of all keys together, then the second ones, and so on.

    Raises:
      ConfigError: the keys have different numbers of values.
    """
    sets = [list(_each(key, values, axes).items()) for key, values in axes.items()]
    if len({len(s) for s in sets}) != 1:
        said = ", ".join(f"{key} has {len(s)}" for key, s in zip(axes, sets))
        raise ConfigError(f"zip_() wants as many values of each key: {said or 'there is no key'}")
    made = (zip(*several) for several in zip(*sets))
    return _unique((", ".join(names), _merged(names, parts)) for names, parts in made)


def chain(*sets: Mapping[str, Change]) -> Changes:
    """The changes of all, one after the other.

    Raises:
      ConfigError: two different changes of one name.
    """
    return _unique(item for one in sets for item in one.items())


def one_at_a_time(axes: Mapping[str, Iterable[Any]]) -> Changes:
    """Every value of every key alone, all else as in the base."""
    return chain(*(_each(key, values, axes) for key, values in axes.items()))


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a study: a change and a seed.

    Attributes:
      change: its name.
      overrides: what is set, the study's own overrides and the seed included: {key: value}.
    """

    change: str
    seed: int
    overrides: Change

    @property
    def folder(self) -> str:
        """Its run folder, below that of the study."""
        return f"{slug(self.change)}/seed_{self.seed}"

    @property
    def flags(self) -> list[str]:
        """The overrides as the command line takes them."""
        return [f"--config.{key}={written(value)}" for key, value in self.overrides.items()]


@dataclasses.dataclass(frozen=True)
class Study:
    """A question, and the runs that answer it.

    Attributes:
      config: the base: a config file, with ":variant" where it has several; this very file may define `get_config`.
      metric: "evaluator/number", what is compared.
      changes: {name: {key: value}}.
      seeds: of every change.
      base: the change that others are compared with; one that is not among `changes` is the config as it is.
      mode: "max" or "min", what better means; None asks the metric's name.
      overrides: {key: value} for every run, the base included.
      choose: "evaluator/number" by which the best is chosen of the changes whose names agree up to the first comma
        (rates of an optimizer, say); only the chosen are compared. It should be another split than `metric`'s.
      against: {change: the change it is compared with, where that is not `base`}; groups of `choose` likewise. Changes
        that others are compared with are themselves compared with none.
      also: "evaluator/number" of other metrics, which the table names beside `metric`.
      title: the question in words.
      space: {key: range} to search, in place of changes; `choose`, or else `metric`, is what is searched for.
      search: how.
    """

    config: str
    metric: str
    changes: Mapping[str, Change] = dataclasses.field(default_factory=dict)
    seeds: Sequence[int] = (0, 1, 2)
    base: str = "base"
    mode: str | None = None
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    choose: str | None = None
    against: Mapping[str, str] = dataclasses.field(default_factory=dict)
    also: tuple[str, ...] = ()
    title: str = ""
    space: Mapping[str, Range] = dataclasses.field(default_factory=dict)
    search: Search = dataclasses.field(default_factory=Search)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", tuple(self.seeds))
        changes = {name: _keyed(name, change) for name, change in self.changes.items()}
        object.__setattr__(self, "space", checked(self.space))
        if self.space and changes:
            raise ConfigError("a study has either changes or a space: a choice() in the space can stand for changes")
        if self.base not in changes and self.choose is None and not self.space:
            changes = {self.base: {}, **changes}
        object.__setattr__(self, "changes", changes)
        object.__setattr__(self, "overrides", _keyed("overrides", self.overrides))
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or any(type(s) is not int for s in self.seeds):
            raise ConfigError(f"a study wants different whole numbers as seeds, not {self.seeds!r}")
        if self.mode not in (None, "min", "max"):
            raise ConfigError(f"a study's mode is 'min', 'max' or None, not {self.mode!r}")
        if self.space and self.search.prune and len(self.seeds) > 1:
            raise ConfigError(f"pruning judges a run alone: give the study one seed, not {len(self.seeds)}")
        if self.choose is not None and not self.space and self.base not in {group(name) for name in changes}:
            raise ConfigError(f"the study's base {self.base!r} is no group of changes; "
                              f"{did_you_mean(self.base, {group(name): 0 for name in changes})}")  # fmt: skip
        known = {self.name(change): 0 for change in changes}
        for name in (name for pair in self.against.items() for name in pair):
            if name not in known:
                raise ConfigError(f"against: there is no change {name!r}; {did_you_mean(name, known)}")
        folders: dict[str, str] = {}
        for name in changes:
            if (other := folders.setdefault(slug(name), name)) != name:
                raise ConfigError(f"the changes {other!r} and {name!r} would share the folder {slug(name)}: rename one")

    def name(self, change: str) -> str:
        """What a change is called in `base` and `against`: its group where `choose` picks of each."""
        return change if self.choose is None else group(change)

    @property
    def objective(self) -> str:
        """The number that a search is for."""
        return self.choose or self.metric

    @property
    def minimizes(self) -> bool:
        """Whether less of the objective is better."""
        return self._less(self.objective)

    @property
    def lower_is_better(self) -> bool:
        """Whether less of the metric is better."""
        return self._less(self.metric)

    def _less(self, number: str) -> bool:
        from fmjax.runfolder import lower_is_better

        return self.mode == "min" if self.mode else lower_is_better(number)

    def trials(self, extra: Mapping[str, Any] | None = None) -> list[Trial]:
        """Every run, all changes of a seed before the next seed, so that a study stopped early compares them all."""
        more = {**self.overrides, **(extra or {})}
        made = itertools.product(self.seeds, self.changes.items())
        return [Trial(name, seed, {**more, **change, "seed": seed}) for seed, (name, change) in made]

    def configs(self, flags: Sequence[str] = ()) -> dict[str, ConfigDict]:
        """{change: its complete config, seed 0}; refuses what no run could do, before any run. A space is tried at
        every end of every range.

        Args:
          flags: of the command line, applied last.

        Raises:
          ConfigError: a key that does not exist, a value of another type, an evaluator that is not there, or two
            changes that make one config; names the change.
        """
        from fmjax.assembly import prepare

        made: dict[str, ConfigDict] = {}
        hashes: dict[str, str] = {}
        for name, change in (ends(self.space) if self.space else self.changes).items():
            trial = Trial(name, 0, {**self.overrides, **change})
            try:
                config, _ = prepare(self.config, [*trial.flags, *flags])
            except ConfigError as error:
                raise ConfigError(f"change {name!r}: {error}") from None
            for metric in filter(None, (self.metric, self.choose, *self.also)):
                evaluator = metric.partition("/")[0]
                if evaluator not in config.evals:
                    known = did_you_mean(evaluator, config.evals)
                    raise ConfigError(f"change {name!r}: no evaluator gives {metric!r}; {known}")
            other = hashes.setdefault(trial_hash(config), name)
            if other != name:
                raise ConfigError(
                    f"the changes {other!r} and {name!r} make the same config: leave one out, or make it the base"
                )
            made[name] = config
        return made


def read(spec: str) -> Study:
    """The study that `get_study` of a file returns; ":variant" may follow.

    Raises:
      ConfigError: no such file, or no study in it.
    """
    from fmjax.core.configfile import made_by

    study = made_by(spec, "get_study")
    if not isinstance(study, Study):
        raise ConfigError(f"get_study() of {spec} returns {type(study).__name__}, not a Study")
    return study


def group(name: str) -> str:
    """What the name of a change says before its first comma."""
    return name.partition(",")[0]


def slug(name: str) -> str:
    """A name as a folder."""
    return re.sub(r"[^\w.=+-]+", "_", name).strip("_.") or "_"


def written(value: Any) -> str:
    """A value as the command line takes it.

    Raises:
      ConfigError: it is no scalar, None, tuple of scalars or public callable.
    """
    if callable(value) and not isinstance(value, ConfigDict):
        from fmjax.core.config import name_of

        return name_of(value)
    if isinstance(value, (list, tuple)):
        return repr(tuple(value))
    if value is None or isinstance(value, (bool, int, float, str)):
        return str(value)
    raise ConfigError(f"a change sets scalars, tuples, None and callables, not {value!r}: set its fields one by one")


def trial_hash(config: ConfigDict) -> str:
    """The hash of what changes a run's numbers: neither the seed nor habits such as logging."""
    plain = json.loads(config.to_json())
    return config_hash({k: v for k, v in plain.items() if k not in (*HABITS, "seed")})


def _each(key: str, values: Iterable[Any], beside: Mapping[str, Any]) -> Changes:
    """A change a value, named by the last word of the key, or all of it where another key ends alike."""
    if isinstance(values, (str, Mapping)) or not isinstance(values, Iterable):
        raise ConfigError(f"{key!r} has {values!r}: give a list of values")
    values = list(values)
    if not values:
        raise ConfigError(f"{key!r} has no values")
    last = key.rpartition(".")[2]
    word = last if sum(k.rpartition(".")[2] == last for k in beside) == 1 else key
    return _unique((f"{word}={_short(value)}", {key: value}) for value in values)


def _short(value: Any) -> str:
    return written(value).rpartition(":")[2] if callable(value) else written(value)


def _merged(names: Sequence[str], parts: Sequence[Change]) -> Change:
    merged: Change = {}
    for part in parts:
        if twice := merged.keys() & part.keys():
            raise ConfigError(f"{', '.join(names)}: {sorted(twice)[0]!r} is set twice")
        merged |= part
    return merged


def _unique(items: Iterable[tuple[str, Change]]) -> Changes:
    made: Changes = {}
    for name, change in items:
        if name in made and made[name] != change:
            raise ConfigError(f"two changes are called {name!r}: name them by hand, {{name: {{key: value}}}}")
        made[name] = dict(change)
    return made


def _keyed(name: str, change: Any) -> Change:
    if not isinstance(change, Mapping):
        raise ConfigError(f"change {name!r} is {change!r}: write {{key of the config: value}}")
    change = {key.removeprefix("config."): value for key, value in change.items()}
    if "seed" in change:
        raise ConfigError(f"change {name!r} sets the seed: seeds are the study's own")
    for key, value in change.items():
        try:
            written(value)
        except ConfigError as error:
            raise ConfigError(f"change {name!r}, {key}: {error}") from None
    return change
