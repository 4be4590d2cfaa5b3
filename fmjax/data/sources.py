"""Every source that is no text, under one name for configs: `call(sources.Tfds, name="mnist")`."""

from fmjax.data.arrays import Arrays
from fmjax.data.embedded import Counting, Digits
from fmjax.data.folders import ImageFolder
from fmjax.data.mixture import Mixture
from fmjax.data.splits import Fold, Split, Subset
from fmjax.data.tables import Table
from fmjax.data.tars import TarShards
from fmjax.data.tfds import Tfds

__all__ = [
    "Arrays",
    "Counting",
    "Digits",
    "Fold",
    "ImageFolder",
    "Mixture",
    "Split",
    "Subset",
    "Table",
    "TarShards",
    "Tfds",
]
