"""The tokenizer of a run: it lies beside the checkpoints, and no other one may continue or read them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fmjax.core.errors import CheckpointError, ConfigError, DataError
from fmjax.data import tokenizers
from fmjax.data.atomic import atomic_folder
from fmjax.data.tokenizer import Tokenizer

PLACES = ("tokenizer", "target_tokenizer")  # attributes of a source, and folders of a run


def of(source: Any) -> dict[str, Tokenizer]:
    """{place: tokenizer} of a source of text: `tokenizer`, and `target_tokenizer` where targets have their own.

    Raises:
      DataError: a mixture whose members have different ones.
    """
    found: dict[str, Tokenizer] = {}
    for member in _members(source):
        for place in PLACES:
            one = getattr(member, place, None)
            if one is None or (place != PLACES[0] and one.fingerprint == member.tokenizer.fingerprint):
                continue
            if place in found and found[place].fingerprint != one.fingerprint:
                raise DataError(f"the members of {source} have different tokenizers: give them the same one")
            found[place] = one
    return found


def fits(source: Any, modules: Mapping[str, Any]) -> None:
    """Refuse a model with fewer ids than the data's tokenizer.

    Raises:
      ConfigError: says what to set.
    """
    wanted = max((getattr(member, "vocab", None) or 0 for member in _members(source)), default=0)
    for name, module in modules.items():
        has = getattr(module, "vocab", None)
        if isinstance(has, int) and has < wanted:
            key = "model" if len(modules) == 1 else f"models.{name}"
            raise ConfigError(
                f"--config.{key}.vocab={has}: the data has {wanted} token ids; set --config.{key}.vocab={wanted}"
            )


def same(training: Any, other: Any, name: str) -> None:
    """Refuse an evaluator whose data is in other tokens than the training data.

    Raises:
      ConfigError: names the evaluator.
    """
    was, now = of(training), of(other)
    for place in was.keys() & now.keys():
        if was[place].fingerprint != now[place].fingerprint:
            raise ConfigError(
                f"--config.evals.{name}: its {_words(place)} ({_say(now[place])}) is another one than the training "
                f"data's ({_say(was[place])}): give both the same"
            )


def agree(folder: Path, source: Any, manifest: Mapping[str, Any] | None = None) -> None:
    """Refuse data in other tokens than those a run was trained on.

    Args:
      folder: the run's; what is not there (an older run) is not compared.
      source: the data of the config.
      manifest: of the checkpoint, where one was read.

    Raises:
      CheckpointError: the tokenizer in the folder or of the checkpoint is another one. DataError: it is damaged.
    """
    for place, one in of(source).items():
        kept = (folder / place).is_dir() and tokenizers.load(str(folder / place)).fingerprint
        noted = (manifest or {}).get(place)
        for was, where in ((kept, f"in {folder / place}"), (noted, "of the checkpoint")):
            if was and was != one.fingerprint:
                raise CheckpointError(
                    f"the {_words(place)} {where} ({was[:8]}) is another one than the data's ({_say(one)}): the run "
                    "was trained on the first; put its text or settings back"
                )


def spoken(source: Any, initial: Any) -> None:
    """Refuse data in other tokens than those that the weights to start from were trained on.

    Raises:
      ConfigError: says how to take the right ones, or to go on all the same.
    """
    data, own = of(source), initial.speaks()
    if own is not None and data and all(one.fingerprint != own.fingerprint for one in data.values()):
        raise ConfigError(
            f"--config.init: the weights in {initial.path} speak the {_say(own)} tokenizer, and the data "
            f"{_say(next(iter(data.values())))}: give the data pretrained.tokenizer(path), or set "
            "--config.init.any_tokenizer=True"
        )


def keep(folder: Path, source: Any) -> None:
    """Save the tokenizer in a run's folder, where it is not there yet.

    Raises:
      CheckpointError: it cannot be written.
    """
    for place, one in of(source).items():
        if not (folder / place).is_dir():
            try:
                with atomic_folder(folder / place) as new:
                    one.save(new)
            except OSError as error:
                raise CheckpointError(f"cannot write {folder / place}: {error.strerror}") from None


def facts(source: Any) -> dict[str, str]:
    """{place: fingerprint}, for the manifest of every checkpoint."""
    return {place: one.fingerprint for place, one in of(source).items()}


def _members(source: Any) -> Iterator[Any]:
    """The sources that a source reads from, itself first."""
    yield source
    inner = getattr(source, "source", None)
    for member in (*(getattr(source, "sources", None) or ()), *(() if inner is None else (inner,))):
        yield from _members(member)


def _words(place: str) -> str:
    return place.replace("_", " ")


def _say(tokenizer: Tokenizer) -> str:
    return f"{tokenizer.kind} of {tokenizer.vocab} ids, {tokenizer.fingerprint[:8]}"
