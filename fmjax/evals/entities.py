"""Entities: spans of words that BIO tags mark, right when the type and both ends are (CoNLL 2003)."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.core.errors import ConfigError
from fmjax.core.types import Batch
from fmjax.evals.prediction import Outputs, read, undefined

Entity = tuple[str, int, int]  # type, first word, word after the last


@dataclasses.dataclass(frozen=True)
class EntityF1:
    """Precision, recall and F1 over all entities (micro), and by type as an artifact; a metric made of rows.

    The number under the metric's own name is F1, "se" its standard error, linearised over sentences. Equals conlleval
    and, by `strict`, `seqeval` in its default or its strict mode. Without any entity, true or predicted, F1 is NaN.

    Attributes:
      source: what the evaluated rows are from; it has `assembled(ids) -> [(true tags, predicted tags)]` of sentences
        (`data.tagged.TaggedWords`), so that a sentence in several rows is one again and lost words count.
      strict: an I- that continues nothing is no entity, rather than the start of one.
    """

    source: Any
    strict: bool = False

    def __post_init__(self) -> None:
        if not hasattr(self.source, "assembled"):
            raise ConfigError(
                f"entities are counted in whole sentences, and {self.source!r} cannot put them together: "
                "give EntityF1 the TaggedWords that the evaluator's data reads, not a part of it"
            )

    def rows(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        logits = read(outputs, "logits")
        broken = jnp.isnan(logits).any(-1) & (read(outputs, "weights") != 0)
        return {"tags": logits.argmax(-1).astype(jnp.int32), "broken": broken.any(-1)}

    def result(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        if rows["broken"].any():  # a model that has diverged says nothing, rather than "no entities"
            return dict.fromkeys(("", "precision", "recall", "se"), float("nan"))
        counts = [_counted(*tags, self.strict) for tags in self.source.assembled(rows["tags"])]
        kinds = sorted({kind for right, called, true in counts for kind in (*called, *true)})
        table = []
        for kind in kinds:
            right, called, true = (sum(c[i][kind] for c in counts) for i in range(3))
            table.append({"type": kind, **_scores(right, called, true), "support": true})
        sums = np.array([[sum(part.values()) for part in one] for one in counts], np.float64).reshape(-1, 3)
        right, called, true = sums.sum(0)
        if called + true == 0:
            undefined("the F1 of no entities is undefined")
            return {**dict.fromkeys(("", "precision", "recall", "se"), float("nan")), "per_type": table}
        scores = _scores(right, called, true)
        f1, n = scores.pop("f1"), len(sums)
        off = 2 * sums[:, 0] - f1 * (sums[:, 1] + sums[:, 2])
        error = float(np.sqrt((off @ off) * n / (n - 1)) / (called + true)) if n > 1 else float("nan")
        return {"": f1, "se": error, **scores, "per_type": table}


def entities(tags: Sequence[str], strict: bool = False) -> list[Entity]:
    """The entities of a sentence's BIO tags.

    One begins at B-, and at an I- after another type or nothing, unless `strict`; it goes on through I- of its type.
    """
    found: list[Entity] = []
    kind, begin = "", 0
    for i, tag in enumerate([*tags, "O"]):
        mark, own = tag[:1], tag[2:]
        if kind and not (mark == "I" and own == kind):
            found.append((kind, begin, i))
            kind = ""
        if mark == "B" or (mark == "I" and not kind and not strict):
            kind, begin = own, i
    return found


def _counted(true: Sequence[str], called: Sequence[str], strict: bool) -> tuple[Counter, Counter, Counter]:
    """How many of each type are right, called so, truly so."""
    a, b = set(entities(true, strict)), set(entities(called, strict))
    return tuple(Counter(kind for kind, *_ in part) for part in (a & b, b, a))


def _scores(right: float, called: float, true: float) -> dict[str, float]:
    share = lambda part, whole: float(part / whole) if whole else 0.0  # noqa: E731
    return {"precision": share(right, called), "recall": share(right, true), "f1": share(2 * right, called + true)}
