"""Start from what was trained: a run folder, a folder of transformers or timm, or a hub id, under one name for configs.

`model(path)` is the call of the model, `tokenizer(path)` that of its tokenizer, `weights` goes under `config.init`.
"""

import dataclasses
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from fmjax import adaptation
from fmjax.core import trees
from fmjax.core.config import build, call, did_you_mean
from fmjax.core.errors import CheckpointError, ConfigError, DataError
from fmjax.core.types import Tree
from fmjax.data import tokenizers
from fmjax.data.tokenizer import Tokenizer
from fmjax.interop import folders, hugging_face, peft
from fmjax.training import checkpoint_folder
from fmjax.training.checkpoint import Checkpoints
from fmjax.training.folder import RunFolder

log = logging.getLogger(__name__)
INNER = "backbone/"  # where a model with a head keeps the model it stands on


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model from a folder: bare module, weights as numpy arrays, and the tokenizer that lies beside them, if any.

    `mutable` holds its other variables, such as running statistics under `batch_stats`.
    """

    path: Path
    module: nn.Module
    params: Tree
    tokenizer: Tokenizer | None
    mutable: Tree = dataclasses.field(default_factory=dict)


def is_run(path: str | Path) -> bool:
    """Whether a folder holds a run, and not a model of transformers or timm."""
    return RunFolder(path, writes=False).exists and not folders.is_folder(path)


def model(path: str, **changes: Any) -> ConfigDict:
    """The call of the model in a folder, without a head put on it there, to write into a config.

    Args:
      path: a run folder, a folder of transformers or timm, or a hub id.
      changes: fields to set, such as dropout=0.1.

    Raises:
      UserError: nothing there that can be read.
    """
    return _changed(_run_model(Path(path)) if is_run(path) else folders.describe(path), changes)


def teacher(path: str, **changes: Any) -> ConfigDict:
    """As `model`, with the head that a run put on it: to write into a config beside what learns from it."""
    return _changed(_run_model(Path(path), whole=True) if is_run(path) else folders.describe(path), changes)


def variant(text: str) -> tuple[bool, str]:
    """(whether the size is full, the folder to start from or "") of a config's variant: full, smoke or start=PATH.

    Raises:
      ConfigError: another variant.
    """
    name, _, path = text.partition("=")
    if name == "start" and path:
        return True, path
    if text not in ("full", "smoke"):
        raise ConfigError(f"there is no variant {text!r}; there is full, smoke, and start=PATH of a run or a model")
    return text == "full", ""


def tokenizer(path: str) -> ConfigDict:
    """The call of the tokenizer in a folder, to write into a config."""
    return call(tokenizers.load, path=str(_tokenizer_place(path)))


def load(path: str, step: int | None = None) -> Pretrained:
    """The model, weights and tokenizer of a folder.

    Args:
      path: a run folder, a folder of transformers or timm, or a hub id.
      step: the checkpoint of a run; None is the latest, or the best of an early stop.

    Raises:
      UserError: nothing there that can be read.
    """
    place = _tokenizer_place(path)
    try:
        own = tokenizers.load(str(place)) if place.exists() else None
    except DataError:
        if is_run(path):
            raise
        own = None  # a model of other things than text, or a tokenizer in a form that is not read here
    if not is_run(path):
        module, params, mutable = folders.load(path)
        return Pretrained(folders.locate(path), module, params, own, mutable)
    module = build(_run_model(Path(path), whole=True), "config.model")
    params, mutable, manifest = run_weights(Path(path), step)
    trained = manifest.get("tokenizer")
    if own is not None and trained and own.fingerprint != trained:
        raise CheckpointError(
            f"the tokenizer in {place} ({own.fingerprint[:8]}) is another one than the weights were trained with "
            f"({trained[:8]}): put that back"
        )
    return Pretrained(Path(path), module, params, own, mutable)


def target_tokenizer(path: str) -> Tokenizer | None:
    """The tokenizer of what a run's model writes, where it is another one than that of what it reads."""
    place = Path(path) / "target_tokenizer"
    return tokenizers.load(str(place)) if is_run(path) and place.is_dir() else None


def context(path: str) -> int | None:
    """Tokens of the texts that a model was trained on, as its run's data or its folder's config.json says."""
    if not is_run(path):
        config = hugging_face.read_config(_config_place(path))
        return config.get("max_position_embeddings") or config.get("n_positions")
    from fmjax.run import load_config

    source = load_config(RunFolder(path, writes=False)).data.get("source") or {}
    return source.get("length") or source.get("source_length")


def decoder_start(path: str) -> int:
    """The id that a decoder reads first, as a run's objective or a folder's config.json says; 0 otherwise."""
    if not is_run(path):
        return int(hugging_face.read_config(_config_place(path)).get("decoder_start_token_id") or 0)
    from fmjax.run import load_config

    return int(load_config(RunFolder(path, writes=False)).objective.get("start", 0) or 0)


def run_weights(path: Path, step: int | None = None, net: str = "model") -> tuple[Tree, Tree, dict[str, Any]]:
    """(weights, other variables, manifest) of a run's net; needs none of the run's data.

    The weights are running averages where it kept some.

    The net of a run that was adapted is put together: its frozen base and what was trained.

    Raises:
      CheckpointError: no run, no such step, or a net that it does not have.
    """
    home = RunFolder(path, writes=False)
    with Checkpoints(home.checkpoints, writable=False) as checkpoints:
        if step is None:
            step = _step_to_use(home, checkpoints)
        if step is None or step not in checkpoints.steps():
            there = ", ".join(map(str, checkpoints.steps())) or "none"
            raise CheckpointError(f"{path} has no checkpoint{'' if step is None else f' {step}'}; there is {there}")
        facts = checkpoint_folder.read_manifest(home.checkpoints.absolute() / str(step))
        leaves, digest, adapt = facts["leaves"], facts.get("frozen"), _adapt(home)
        for part in ("ema", "params"):
            found = {k: v for k, v in leaves.items() if k.startswith(f"{part}/{net}/")}
            if found:
                break
        base = checkpoints.frozen_leaves(digest) if digest and (adapt is not None or not found) else {}
        if not found and not any(name.startswith(f"{net}/") for name in base):
            raise CheckpointError(f"{path} has no weights of a net called {net!r}")
        others = {k: v for k, v in leaves.items() if k.startswith(f"mutable/{net}/")}
        read, manifest = checkpoints.restore(_numpy({**found, **others}), step, partial=True)
        mutable = read.get("mutable", {}).get(net, {})
        frozen = checkpoints.restore_frozen(_numpy(base), digest).get(net) if base else None
        if not found or frozen is None:
            return frozen if not found else read[part][net], mutable, manifest
        own = read[part][net]
    return adaptation.merged(adapt, net, frozen, own), mutable, manifest


def _numpy(leaves: Mapping[str, Any]) -> Tree:
    """What to restore into: the leaves of a manifest as numpy arrays."""
    return trees.nested({k: np.zeros(v["shape"], _dtype(v["dtype"])) for k, v in leaves.items()})


@dataclasses.dataclass(frozen=True)
class weights:
    """The weights a run starts from; what the folder has not stays fresh only where `fresh` says so.

    The model of the folder is found in the new one at the same addresses or, under a head, behind `backbone/`; then
    the head is fresh without saying so. Of a folder with a head, a model without one takes what that stood on. Weights
    that the new model has no place for are left out and named in the log. Running statistics come with the weights.

    Attributes:
      path: a run folder, a folder of transformers or timm, or a hub id.
      step: the checkpoint of a run; None is the latest, or the best of an early stop.
      nets: which nets get them; () is all.
      fresh: patterns of addresses that may stay as they were initialised.
      any_tokenizer: allow data in other tokens than those the weights were trained on.
    """

    path: str
    step: int | None = None
    nets: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    any_tokenizer: bool = False

    def __post_init__(self) -> None:
        if not self.path:
            raise ConfigError("path is empty: name a run folder, a folder of transformers or timm, or a hub id")

    def read(self, params: Mapping[str, Tree]) -> dict[str, dict[str, np.ndarray]]:
        """{net: {address: array}} of what replaces fresh weights.

        Args:
          params: {net: weights, or their shapes} of the new run.

        Raises:
          CheckpointError: weights that are missing or of another shape; it lists them.
        """
        there = trees.flatten(load(self.path, self.step).params)
        for name in self.nets:
            if name not in params:
                raise ConfigError(f"nets: there is no net {name!r}; {did_you_mean(name, params)}")
        return {name: self._match(name, there, trees.flatten(params[name])) for name in self.nets or params}

    def read_mutable(self, mutable: Mapping[str, Mapping[str, Tree]]) -> dict[str, dict[str, np.ndarray]]:
        """{net: {address: array}} of what replaces other variables, such as running statistics.

        Args:
          mutable: {net: {collection: variables, or their shapes}} of the new run.

        Raises:
          CheckpointError: variables that are missing or of another shape; it lists them.
        """
        there = load(self.path, self.step).mutable
        out: dict[str, dict[str, np.ndarray]] = {}
        for net in (name for name in self.nets or mutable if name in mutable):
            for kind in sorted(mutable[net].keys() & there.keys()):
                found = self._match(net, trees.flatten(there[kind]), trees.flatten(mutable[net][kind]))
                out.setdefault(net, {}).update({f"{kind}/{address}": x for address, x in found.items()})
        return out

    def speaks(self) -> Tokenizer | None:
        """The tokenizer that lies beside the weights, if one does and they are still there (a resume needs neither)."""
        try:
            place = _tokenizer_place(self.path)
            return tokenizers.load(str(place)) if place.exists() else None
        except (CheckpointError, DataError):
            return None

    def _match(self, net: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, np.ndarray]:
        headed, was = (any(name.startswith(INNER) for name in names) for names in (here, there))
        inner, at = headed and not was, INNER if headed and not was else ""
        if was and not headed:  # the model that a head stood on
            there = {name.removeprefix(INNER): x for name, x in there.items() if name.startswith(INNER)}
        found = {at + name: x for name, x in there.items() if at + name in here}
        missing, wrong = [], []
        for name, leaf in here.items():
            may_be_fresh = (inner and not name.startswith(INNER)) or any(re.search(p, name) for p in self.fresh)
            if name not in found:
                missing += [] if may_be_fresh else [f"{net}/{name}"]
            elif tuple(found[name].shape) != tuple(leaf.shape):
                shapes = f"{net}/{name} is {tuple(found[name].shape)} there and {tuple(leaf.shape)} here"
                wrong += [] if may_be_fresh else [shapes]
                del found[name]
        if not found:
            raise CheckpointError(
                f"nothing in {self.path} fits this model: it has {_few(sorted(there))}, the model {_few(sorted(here))}"
            )
        if missing or wrong:
            parts = [f"it lacks {_few(missing)}"] if missing else []
            parts += [f"{_few(wrong)}"] if wrong else []
            raise CheckpointError(
                f"{self.path} does not fit this model: {'; '.join(parts)}; build the model with "
                "pretrained.model(path), or name in fresh what may stay as initialised"
            )
        left = sorted(name for name in there if at + name not in found)
        if left:
            log.warning("%s: %d weights have no place in this model: %s", self.path, len(left), _few(left))
        return found


def _changed(found: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    for key, value in changes.items():
        if key not in found:
            raise ConfigError(f"{found['call']} takes no {key!r}; {did_you_mean(key, found.keys())}")
        with found.ignore_type():
            found[key] = value
    return found


def _run_model(path: Path, whole: bool = False) -> ConfigDict:
    """The call of a run's model; `whole` keeps its head."""
    from fmjax.run import load_config

    config = load_config(RunFolder(path, writes=False))
    if "model" not in config and "model" not in config.get("models", ()):
        raise ConfigError(f"{path} has several models and none called 'model': {', '.join(config.models)}")
    found = config.model if "model" in config else config.models.model
    return found if whole or "backbone" not in found else found.backbone


def _step_to_use(home: RunFolder, checkpoints: Checkpoints) -> int | None:
    from fmjax.run import load_config

    stop = load_config(home).early_stop
    return checkpoints.best() if stop is not None and stop.restore else checkpoints.latest()


def _tokenizer_place(path: str) -> Path:
    if is_run(path):
        return RunFolder(path, writes=False).tokenizer
    folder = folders.locate(path)
    beside = not peft.is_folder(folder) or any(folder.glob("tokenizer*"))  # an adapter's may lie with its base
    return folder if beside else folders.locate(peft.base_of(folder))


def _adapt(home: RunFolder) -> ConfigDict | None:
    from fmjax.run import load_config

    return load_config(home).adapt


def _config_place(path: str) -> Path:
    folder = folders.locate(path)
    return folders.locate(peft.base_of(folder)) if peft.is_folder(folder) else folder


def _dtype(name: str) -> Any:
    return jax.numpy.dtype(name)


def _few(names: Sequence[str], most: int = 10) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{rest}"
