"""Several tasks in every row: one example of each source, its keys behind the task's name."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fmjax.core.errors import ConfigError
from fmjax.data.cache import digest
from fmjax.data.source import ByRows, Source


class Tasks(ByRows):
    """Row i holds example i of every source under "<task>/<key>", but no `text`; a shorter source begins again.

    Objectives read their part of it (`Part.under` of objectives/mixture.py). For evaluation give one task alone, so
    that each of its examples is counted once.

    Args:
      sources: {task: source}.

    Raises:
      ConfigError: no source, or a name with a slash.
    """

    def __init__(self, sources: Mapping[str, Source]):
        if not sources or any("/" in name or not name for name in sources):
            raise ConfigError(f"Tasks takes sources by name, without a slash in it, not {tuple(sources)}")
        self.named = dict(sources)
        self.sources = tuple(self.named.values())
        self.fingerprint = digest("tasks", [(name, source.fingerprint) for name, source in self.named.items()])

    def __repr__(self) -> str:
        return "Tasks(" + ", ".join(f"{name}: {source}" for name, source in self.named.items()) + ")"

    def __len__(self) -> int:
        return max(map(len, self.sources))

    def rows(self, indices: np.ndarray) -> dict[str, Any]:
        """The examples at `indices`, stacked."""
        indices = self.inside(indices)
        found = {}
        for name, source in self.named.items():
            own = indices % len(source)
            if (take := getattr(source, "rows", None)) is not None:
                stacked = take(own)
            else:
                examples = [source[int(i)] for i in own]
                stacked = {key: np.stack([np.asarray(e[key]) for e in examples]) for key in examples[0]}
            found |= {f"{name}/{key}": value for key, value in stacked.items() if key != "text"}
        return found
