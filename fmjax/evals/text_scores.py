"""Scores of texts against reference texts, as their papers compute them: BLEU, chrF, ROUGE, exact match.

A score is a callable `(texts, references) -> {name: value}`, where each text has one or several references.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fmjax.core.errors import ConfigError, extra
from fmjax.evals.intervals import standard_error

References = Sequence[tuple[str, ...]]
TextScore = Callable[[Sequence[str], References], dict[str, Any]]
SIDE = 1.96  # standard errors from the middle of a 95 % interval to its end


@dataclasses.dataclass(frozen=True)
class Bleu:
    """Corpus BLEU from 0 to 100 by sacreBLEU (arXiv 1804.08771); the artifact "signature" says which BLEU it is.

    "se" comes from sacreBLEU's own bootstrap over sentences, whose seed is fixed.

    Attributes:
      tokenize: "13a", "intl", "char", "zh", ... (sacreBLEU's names).
      lowercase: whether case counts for nothing.
      resamples: of the bootstrap; 0 reports no "se".
    """

    tokenize: str = "13a"
    lowercase: bool = False
    resamples: int = 1000

    def __post_init__(self) -> None:
        extra("sacrebleu", "eval")  # said before training, not after it

    def __call__(self, texts: Sequence[str], references: References) -> dict[str, Any]:
        library = extra("sacrebleu", "eval")
        return _sacre(library.metrics.BLEU, texts, references, self)


@dataclasses.dataclass(frozen=True)
class Chrf:
    """Corpus chrF from 0 to 100 by sacreBLEU (Popovic 2015): F2 of character n-grams; `word_order` 2 is chrF++.

    Attributes:
      word_order: orders of word n-grams beside those of characters.
      lowercase, resamples: as in Bleu.
    """

    word_order: int = 0
    lowercase: bool = False
    resamples: int = 1000

    def __post_init__(self) -> None:
        extra("sacrebleu", "eval")  # said before training, not after it

    def __call__(self, texts: Sequence[str], references: References) -> dict[str, Any]:
        library = extra("sacrebleu", "eval")
        return _sacre(library.metrics.CHRF, texts, references, self)


@dataclasses.dataclass(frozen=True)
class Rouge:
    """Mean F1 of ROUGE-1, -2, -L and -Lsum from 0 to 100 by rouge-score (Lin 2004), the best reference of each text.

    Each has its standard error over texts. -Lsum compares sentences, one a line.

    Attributes:
      stem: whether words are cut to their stems (Porter), which makes sense for English only.
      lines: whether texts are cut into lines at the ends of sentences for -Lsum, if they have none.
    """

    stem: bool = False
    lines: bool = True

    def __post_init__(self) -> None:
        extra("rouge_score.rouge_scorer", "eval")  # said before training, not after it

    def __call__(self, texts: Sequence[str], references: References) -> dict[str, Any]:
        kinds = ("rouge1", "rouge2", "rougeL", "rougeLsum")
        scorer = extra("rouge_score.rouge_scorer", "eval").RougeScorer(kinds, use_stemmer=self.stem)
        lined = self._lined if self.lines else str
        scores = [
            scorer.score_multi([lined(r) for r in own], lined(text))
            for text, own in zip(texts, references, strict=True)
        ]
        out = {}
        for kind in kinds:
            values = np.array([100 * score[kind].fmeasure for score in scores])
            name = kind.removeprefix("rouge")
            out |= {name: float(values.mean()), f"{name}_se": standard_error(values)}
        return out

    @staticmethod
    def _lined(text: str) -> str:
        return text if "\n" in text else text.replace(". ", ".\n").replace("? ", "?\n").replace("! ", "!\n")


def exact_match(texts: Sequence[str], references: References) -> dict[str, Any]:
    """Share of the texts that equal one of their references, spaces at the ends aside."""
    same = [text.strip() in {r.strip() for r in own} for text, own in zip(texts, references, strict=True)]
    return {"": float(np.mean(same)), "se": standard_error(np.array(same, np.float64))}


def _sacre(metric: Any, texts: Sequence[str], references: References, given: Any) -> dict[str, Any]:
    settings = dataclasses.asdict(given)
    resamples = settings.pop("resamples")
    try:
        metric = metric(**settings)
    except (AssertionError, KeyError, ValueError) as error:
        raise ConfigError(f"sacreBLEU takes no {settings}: {error}") from None
    most = max(map(len, references))  # a text with fewer references has None in their place
    streams = [[own[i] if i < len(own) else None for own in references] for i in range(most)]
    # A bootstrap of one text has no spread.
    again = resamples if len(texts) > 1 else 0
    score = metric.corpus_score(list(texts), streams, n_bootstrap=again or 1)
    signature = str(metric.get_signature())
    found = json.loads(score.format(width=6, signature=signature, is_json=True))
    out = {"": float(score.score), "signature": [signature]}
    # Where every resample scores 0, sacreBLEU leaves the interval out.
    return out | ({"se": float(found.get("confidence_var", 0.0)) / SIDE} if again > 1 else {})
