"""A writer: a language model from a folder, its tokenizer, and a decoder, compiled; what `fmjax.generate` runs."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from fmjax import pretrained
from fmjax.core.errors import ConfigError
from fmjax.core.nets import Net
from fmjax.data.tokenizer import Tokenizer
from fmjax.decoding import stops as stopping
from fmjax.decoding.sampling import Sampler
from fmjax.sharding.mesh import make_mesh
from fmjax.sharding.rules import shard_params


@dataclasses.dataclass(frozen=True, eq=False)
class Writer:
    """Writes texts; made by `load`.

    Attributes:
      nets: {"model": (module, weights), maybe "draft"}.
      tokenizer: of the model.
      decoder: a `Sampler`, `Beam` or `Speculative`.
      target_tokenizer: of what is written, where it is another one.
      context: tokens of the texts that the model was trained on, which a prompt may not exceed; None for no bound.
    """

    nets: dict[str, tuple[Any, Any]]
    tokenizer: Tokenizer
    decoder: Any
    target_tokenizer: Tokenizer
    context: int | None = None

    @classmethod
    def load(
        cls, path: str, step: int | None = None, draft: str | None = None, decoder: Any = None, tensor: int = 1
    ) -> "Writer":
        """From folders; the decoder gets the tokenizer's end of text, and what a decoder reads first.

        Args:
          path, step: see `pretrained.load`.
          draft: a second folder, for a decoder that drafts.
          decoder: a `Sampler`, `Beam` or `Speculative`; None samples.
          tensor: devices that weights and cache are split over.

        Raises:
          UserError: a model that does not write, no tokenizer, or a draft that speaks another one.
        """
        found = pretrained.load(path, step)
        if not hasattr(found.module, "init_cache"):
            raise ConfigError(f"{path} holds a {type(found.module).__name__}, which does not write text")
        if found.tokenizer is None:
            raise ConfigError(f"{path} is no run of a language model, or keeps no tokenizer")
        if found.tokenizer.vocab > found.module.vocab:
            raise ConfigError(
                f"the tokenizer in {path} has {found.tokenizer.vocab} ids and the model {found.module.vocab}: it is "
                "not the one the model was trained with"
            )
        nets = {"model": (found.module, found.params)}
        if draft:
            second = pretrained.load(draft)
            if second.tokenizer is None or second.tokenizer.fingerprint != found.tokenizer.fingerprint:
                raise ConfigError(f"the draft in {draft} has another tokenizer than {path}: both must have the same")
            nets["draft"] = (second.module, second.params)
        mesh = make_mesh({"data": 1, "tensor": tensor}) if tensor > 1 else None
        for name, (module, params) in nets.items():
            places = shard_params({name: params}, mesh, "tensor")[name] if mesh else None
            nets[name] = (module, jax.device_put(params, places))
        target = pretrained.target_tokenizer(path) or found.tokenizer
        decoder = dataclasses.replace(decoder or Sampler(), eos=target.eos, start=pretrained.decoder_start(path))
        counts = getattr(found.module, "position", None) in ("rotary", "sine", "learned")  # the others know no places
        return cls(nets, found.tokenizer, decoder, target, pretrained.context(path) if counts else None)

    @property
    def reads_and_writes(self) -> bool:
        """Whether an encoder reads the prompt, so that what is written does not continue it."""
        return hasattr(self.nets["model"][0], "encode")

    def encode(self, prompt: str) -> np.ndarray:
        """The ids of a prompt: as a source with its end, or as the beginning of a text."""
        ids, eos = self.tokenizer.encode(prompt).tolist(), self.tokenizer.eos
        if self.reads_and_writes:
            ids = ids if eos is None else [*ids, eos]
        elif "bos" in self.tokenizer.special:
            ids = [self.tokenizer.special["bos"], *ids]
        elif eos is not None:
            ids = [eos, *ids]  # texts begin where another ended
        if self.context is not None and len(ids) > self.context:
            raise ConfigError(
                f"the prompt has {len(ids)} tokens, and the model was trained on texts of {self.context}: give a "
                "shorter one, or --beyond_context to let it try"
            )
        if not ids:
            raise ConfigError("this tokenizer has no end-of-text token to start from: give --prompt=TEXT")
        return np.array(ids, np.int32)

    def write(self, prompts: Sequence[np.ndarray], seed: int, stop: Sequence[str], rows: int, bucket: int) -> list[str]:
        """The texts of some prompts, at once; filled up to so many rows, so that one program serves all batches."""
        batch = {**self._batch(prompts, bucket, rows), "seed": np.uint32(seed)}
        tokens = np.asarray(jax.device_get(self._all(self._params, batch)["tokens"]))
        return [stopping.cut(self._text(row), stop)[0] for row in tokens[: len(prompts)]]

    def begin(self, prompt: np.ndarray, seed: int, bucket: int) -> dict[str, Any]:
        """One prompt read; what `stream` goes on from. Needs a `Sampler`."""
        return self._begin(self._params, {**self._batch([prompt], bucket, 1), "seed": np.uint32(seed)})

    def stream(self, state: dict[str, Any], stop: Sequence[str], chunk: int) -> Iterator[str]:
        """The text of a prompt that `begin` read, in pieces, as it is written."""
        ids, shown = [], ""
        while len(ids) < self.decoder.length:
            state, tokens = self._more(self._params, state, chunk)
            ids += np.asarray(tokens)[0].tolist()
            ids = ids[: self.decoder.length]
            ended = bool(state["done"][0]) or len(ids) == self.decoder.length
            text, stopped = stopping.cut(self._text(ids), stop)
            ready = text if stopped or ended else stopping.safe(text, stop)
            if ready.startswith(shown) and len(ready) > len(shown):
                yield ready[len(shown) :]
                shown = ready
            if stopped or ended:
                return

    def _text(self, ids: Sequence[int]) -> str:
        """The text up to its end; ids that the tokenizer does not have (a padded table's) stand for none."""
        eos, ids = self.decoder.eos, list(map(int, ids))
        if eos is not None and eos in ids:
            ids = ids[: ids.index(eos)]
        return self.target_tokenizer.decode([i for i in ids if i < self.target_tokenizer.vocab])

    def _batch(self, prompts: Sequence[np.ndarray], bucket: int, rows: int) -> dict[str, np.ndarray]:
        width = -(-max(map(len, prompts)) // bucket) * bucket
        tables = [m.length for m, _ in self.nets.values() if getattr(m, "position", None) == "learned"]
        if tables:  # which have no room to spare
            room = min(tables) - (0 if self.reads_and_writes else self.decoder.room)
            width = max(min(width, room), max(map(len, prompts)))
        tokens, segments = (np.zeros((rows, width), np.int32) for _ in range(2))
        for i in range(rows):
            own = prompts[min(i, len(prompts) - 1)]
            tokens[i, : len(own)], segments[i, : len(own)] = own, 1
        return {"tokens": tokens, "segment_ids": segments}

    @property
    def _params(self) -> dict[str, Any]:
        return {name: params for name, (_, params) in self.nets.items()}

    def _bound(self, params: dict[str, Any]) -> dict[str, Net]:
        return {name: Net(self.nets[name][0], own) for name, own in params.items()}

    @functools.cached_property
    def _all(self) -> Any:
        return jax.jit(lambda params, batch: self.decoder(self._bound(params), batch))

    @functools.cached_property
    def _begin(self) -> Any:
        return jax.jit(lambda params, batch: self.decoder.begin(self._bound(params), batch))

    @functools.cached_property
    def _more(self) -> Any:
        return jax.jit(
            lambda params, state, chunk: self.decoder.more(self._bound(params), state, chunk),
            static_argnums=2, donate_argnums=1,
        )  # fmt: skip
