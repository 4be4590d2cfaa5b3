"""Starts for `config.init` besides `pretrained.weights`: several at once, and how much each weight mattered."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fmjax.core import trees
from fmjax.core.config import did_you_mean
from fmjax.core.errors import CheckpointError, ConfigError
from fmjax.core.types import Tree
from fmjax.fisher import FILE


@dataclasses.dataclass(frozen=True)
class several:
    """Several starts, each for nets of its own: a teacher from one folder, the student from another.

    Attributes:
      starts: `pretrained.weights`, `importance` and the like, each with its `nets`.
    """

    starts: tuple[Any, ...]

    def __post_init__(self) -> None:
        named = [net for start in self.starts for net in getattr(start, "nets", ())]
        if not self.starts or not all(getattr(start, "nets", ()) for start in self.starts):
            raise ConfigError("several starts: say with nets= which nets each of them is for")
        if len(set(named)) < len(named):
            raise ConfigError(f"several starts: a net has two of them among {', '.join(named)}")

    def read(self, params: Mapping[str, Tree]) -> dict[str, dict[str, np.ndarray]]:
        """{net: {address: array}} of what replaces fresh weights."""
        return {net: given for start in self.starts for net, given in start.read(params).items()}

    def read_mutable(self, mutable: Mapping[str, Mapping[str, Tree]]) -> dict[str, dict[str, np.ndarray]]:
        """{net: {address: array}} of what replaces other variables."""
        able = [start for start in self.starts if hasattr(start, "read_mutable")]
        return {net: given for start in able for net, given in start.read_mutable(mutable).items()}

    @property
    def told(self) -> dict[str, dict[str, Any]]:
        """{net: facts} of what the starts found, once they were read."""
        return {net: facts for start in self.starts for net, facts in getattr(start, "told", {}).items()}


@dataclasses.dataclass(frozen=True)
class importance:
    """The diagonal of a run's Fisher information, as `python -m fmjax.fisher` wrote it, in the places of weights.

    Attributes:
      path: the run folder.
      nets: which nets hold it.
    """

    path: str
    nets: tuple[str, ...] = ("importance",)
    any_tokenizer = True

    def read(self, params: Mapping[str, Tree]) -> dict[str, dict[str, np.ndarray]]:
        """{net: {address: array}}.

        Raises:
          CheckpointError: there is none, or it is of another model.
        """
        file = Path(self.path) / FILE
        if not file.is_file():
            raise CheckpointError(f"there is no {file}: python -m fmjax.fisher --workdir={self.path} writes it")
        try:
            with np.load(file, allow_pickle=False) as there:
                found = dict(there)
        except (OSError, ValueError, EOFError) as error:
            raise CheckpointError(f"{file} is damaged: {error}; python -m fmjax.fisher writes it again") from None
        for net in self.nets:
            if net not in params:
                raise ConfigError(f"nets: there is no net {net!r}; {did_you_mean(net, params)}")
            here = {name: tuple(x.shape) for name, x in trees.flatten(params[net]).items()}
            if here != {name: x.shape for name, x in found.items()}:
                odd = sorted(here.items() ^ {name: x.shape for name, x in found.items()}.items())[0]
                raise CheckpointError(f"{file} is of another model: it differs in {odd[0]} {odd[1]}")
        return dict.fromkeys(self.nets, found)
