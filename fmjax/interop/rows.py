"""A family's table beside the tensors of a folder and the weights of a model: what is missing, odd or left over."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fmjax.core.errors import CheckpointError, ConfigError
from fmjax.interop.layouts import Row, Shape
from fmjax.interop.tensors import Tensors, listed


def found_rows(
    name: str, rows: Sequence[Row], ours: Mapping[str, Shape], tensors: Tensors, aliases: Mapping[str, str],
    skips: Sequence[str],
) -> dict[str, str | None]:  # fmt: skip
    """{name of a row: the tensor that is it}, None for one that may be absent and is.

    Raises:
      CheckpointError: tensors that are missing, of another shape, or that nobody reads: it lists them.
    """

    def there(name: str) -> str | None:
        others = [other for other, of in aliases.items() if of == name]
        return next((n for n in (name, *others) if n in tensors), None)

    found = {row.name: there(row.name) for row in rows}
    missing = [row.name for row in rows if found[row.name] is None and not row.optional]
    wrong = [
        f"{row.name} {tensors.shape(found[row.name])}, not {row.shape(ours)}"
        for row in rows
        if found[row.name] is not None and tensors.shape(found[row.name]) != row.shape(ours)
    ]
    known, patterns = {*found, *found.values(), *aliases}, [re.compile(pattern) for pattern in skips]
    strange = [one for one in tensors if one not in known and not any(p.search(one) for p in patterns)]
    kinds = (("missing:", missing), ("of another shape:", wrong), ("unexpected:", strange))
    problems = [f"{what} {listed(names)}" for what, names in kinds if names]
    if problems:
        raise CheckpointError(
            f"the weights in {tensors.folder} are not those of a {name} model with the options of its config.json; "
            f"{'; '.join(problems)}"
        )
    return found


def read_rows(
    name: str, rows: Sequence[Row], ours: Mapping[str, Shape], tensors: Tensors, found: Mapping[str, str | None]
) -> dict[str, np.ndarray]:
    """{address: weight} in float32; zeros for a tensor that may be absent and is."""
    check_covered(name, rows, ours)
    flat: dict[str, np.ndarray] = {}
    for row in rows:
        if found[row.name] is None:
            flat |= {a: np.zeros(ours[a], np.float32) for a in row.addresses}
        else:
            flat |= row.read(tensors.read(found[row.name]), ours)
    return flat


def check_covered(name: str, rows: Sequence[Row], ours: Mapping[str, Shape]) -> None:
    """Refuse a model with weights that no row speaks of.

    Raises:
      ConfigError: it lists them.
    """
    if uncovered := sorted(ours.keys() - {a for row in rows for a in row.addresses}):
        raise ConfigError(f"the {name} family has no place for the weights {listed(uncovered)}")


def check_written(name: str, rows: Sequence[Row], ours: Mapping[str, Shape], flat: Mapping[str, Any]) -> None:
    """Refuse weights that are not those of the module, or that no row speaks of.

    Raises:
      CheckpointError, ConfigError: it lists them.
    """
    given = {address: tuple(np.shape(leaf)) for address, leaf in flat.items()}
    if given != dict(ours):
        odd = sorted(a for a in given.keys() | ours.keys() if given.get(a) != ours.get(a))
        raise CheckpointError(f"the weights are not those of the model: {listed(odd)}")
    check_covered(name, rows, ours)
