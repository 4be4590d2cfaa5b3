"""Supervised learning: a label or a number for every example."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fmjax.core.errors import ConfigError, DataError
from fmjax.core.nets import Net, Objective
from fmjax.core.traced import is_traced, matters
from fmjax.core.types import Batch, Mean, Tree

Augment = Callable[[jax.Array, jax.Array], jax.Array]  # (key, images) -> images
Mix = Callable[[jax.Array, Batch], Batch]  # (key, batch) -> batch with mix_with and mix_weight


@dataclasses.dataclass(frozen=True)
class Shrink:
    """Images of height and width `size` up to step `until` (such as "60%" in a config)."""

    size: int
    until: int

    def __post_init__(self) -> None:
        if self.size < 1 or self.until < 1:
            raise ConfigError(f"size and until of Shrink are 1 or more, not {self.size} and {self.until}")


@dataclasses.dataclass(frozen=True)
class Supervised(Objective):
    """What the three below share: the input key, scaling, augmentation on the device.

    Attributes:
      inputs_from: the key of the batch that the model reads.
      target: the key it is compared with.
      augment: applied in order to images in [0, 1], in training only.
      shrink: then images are made smaller for a while, stage by stage (progressive resizing, arXiv 2104.00298); the
        network must take any size, as those that end in a global pooling do.
      mean: subtracted from images, a channel each (or one for all).
      std: divided by.
    """

    inputs_from: str = "image"
    target: str = "label"
    augment: tuple[Augment, ...] = ()
    shrink: tuple[Shrink, ...] = ()
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if list(self.changes()) != sorted(set(self.changes())):
            raise ConfigError(f"the stages of shrink end one after the other, not at steps {self.changes()}")

    def changes(self) -> tuple[int, ...]:
        return tuple(stage.until for stage in self.shrink)

    def at(self, step: int) -> "Supervised":
        left = tuple(stage for stage in self.shrink if stage.until > step)
        return self if left == self.shrink else dataclasses.replace(self, shrink=left)

    def inputs(self, batch: Batch) -> dict[str, tuple]:
        return {"model": (self._scaled(batch)[self.inputs_from],)}

    def _scaled(self, batch: Batch, key: jax.Array | None = None) -> Batch:
        x = batch[self.inputs_from]
        if jnp.issubdtype(x.dtype, jnp.integer):
            x = x.astype(jnp.float32) / 255.0
        for i, augment in enumerate(self.augment if key is not None else ()):
            x = augment(jax.random.fold_in(key, i), x)
        if key is not None and self.shrink:
            x = self._shrunk(x, self.shrink[0].size)
        if self.inputs_from == "image" and (self.mean, self.std) != ((0.0,), (1.0,)):
            for word, values in (("mean", self.mean), ("std", self.std)):
                if len(values) not in (1, x.shape[-1]):  # a grey image would quietly be copied for each
                    raise DataError(
                        f"images have {x.shape[-1]} channels, and the objective's {word} has {len(values)} numbers: "
                        "give one a channel, or one for all"
                    )
            x = (x - jnp.asarray(self.mean, jnp.float32)) / jnp.asarray(self.std, jnp.float32)
        return {**batch, self.inputs_from: x}

    def _shrunk(self, x: jax.Array, size: int) -> jax.Array:
        if x.ndim != 4 or size > min(x.shape[1:3]):
            raise ConfigError(f"shrink makes images (B, H, W, C) smaller: {x.shape[1:]} is not shrunk to {size}")
        return jax.image.resize(x, (x.shape[0], size, size, x.shape[3]), "bilinear")  # with antialiasing

    def prepare(
        self, nets: Mapping[str, Net], batch: Batch, carry: Tree, step: Any, rng: jax.Array, train: bool
    ) -> tuple[Batch, Tree]:
        return self._scaled(batch, rng if train else None), carry

    def outputs(self, net: Net, batch: Batch) -> jax.Array:
        """What the model gives for a batch."""
        return net(batch[self.inputs_from])

    def losses(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """The loss of every example, (B,)."""
        raise TypeError(f"{type(self).__name__} must define losses(outputs, batch)")

    def weights(self, batch: Batch) -> jax.Array:
        """How much every example counts, (B,)."""
        return batch["valid"] * batch.get("weights", 1.0)

    def loss(
        self, player: str, nets: Mapping[str, Net], batch: Batch, carry: Tree, rng: jax.Array
    ) -> tuple[Mean, dict[str, Mean]]:
        net = nets["model"]
        outputs = self.outputs(net, batch).astype(jnp.float32)
        loss = Mean.of(self.losses(outputs, batch), self.weights(batch))
        metrics = {"loss": loss, **self.report(outputs, batch)}
        total = loss._replace(sum=loss.sum + loss.weight * sum(net.losses, jnp.zeros(())))
        return total, metrics

    def report(self, outputs: jax.Array, batch: Batch) -> dict[str, Mean]:
        """What to log besides the loss."""
        return {}

    def predict(self, name: str, nets: Mapping[str, Net], batch: Batch) -> dict[str, jax.Array]:
        if name != "predict":
            return super().predict(name, nets, batch)
        outputs = self.outputs(nets["model"], batch).astype(jnp.float32)
        words = {"logits": outputs, "weights": batch["valid"]}
        return {**words, "targets": batch[self.target]} if self.target in batch else words

    def _need(self, batch: Mapping[str, Any]) -> None:
        for key in (self.inputs_from, self.target):
            if key not in batch:
                raise DataError(f"the objective reads {key!r}, and the batch holds {', '.join(sorted(batch))}")
        x = batch[self.inputs_from]
        # A sum is not finite when a number is not, and costs less than a verdict for each.
        if self.inputs_from == "image" and x.dtype.kind == "f" and not np.isfinite(x.sum(dtype=np.float64)):
            bad = np.argwhere(~np.isfinite(x) & (batch["valid"] > 0)[:, None, None, None])
            if len(bad):
                row, *place = bad[0].tolist()
                many = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
                raise DataError(
                    f"the image in row {row} holds {x[tuple(bad[0])]} at {tuple(place)}{many}: clean the data"
                )


@dataclasses.dataclass(frozen=True)
class Classify(Supervised):
    """Softmax cross-entropy: one of C classes.

    Attributes:
      smoothing: label smoothing (arXiv 1512.00567).
      class_weights: a weight for every class, () for none (data/imbalance.py makes some).
      focal: rows that are right already count less: times (1 - p) ** focal (arXiv 1708.02002); 0 is off.
      priors: the share of every class; the loss is of logits + log(share), so that what the model says is for classes
        of equal size (logit adjustment, arXiv 2007.07314).
      mix: rows mixed with others in training, after `augment` (fmjax/data/mixing.py): at most one. A mixed row
        counts as two, of its own label and of its partner's, that share its weight.
    """

    smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()
    focal: float = 0.0
    priors: tuple[float, ...] = ()
    mix: tuple[Mix, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if (not is_traced(self.focal) and self.focal < 0) or not all(share > 0 for share in self.priors):
            raise ConfigError(f"focal is 0 or more and priors are above 0, not {self.focal} and {self.priors}")

    @property
    def couples_batch(self) -> bool:
        return bool(self.mix)

    def prepare(
        self, nets: Mapping[str, Net], batch: Batch, carry: Tree, step: Any, rng: jax.Array, train: bool
    ) -> tuple[Batch, Tree]:
        batch, carry = super().prepare(nets, batch, carry, step, rng, train)
        for i, mix in enumerate(self.mix if train else ()):
            batch = mix(jax.random.fold_in(rng, len(self.augment) + i), batch)
        return batch, carry

    def check(self, batch: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        self._need(batch)
        labels, classes = batch[self.target], outputs["logits"].shape[-1]
        if np.ndim(labels) != 1 or not np.issubdtype(np.asarray(labels).dtype, np.integer):
            raise DataError(f"{self.target!r} must be one integer an example, and is {labels.dtype}{labels.shape}")
        for word, given in (("class_weights", self.class_weights), ("priors", self.priors)):
            if given and len(given) != classes:
                raise DataError(f"the objective's {word} are {len(given)}, and the model has {classes} classes")
        wrong = labels[((labels < 0) | (labels >= classes)) & (batch["valid"] > 0)]
        if wrong.size:
            raise DataError(
                f"label {int(wrong[0])} is out of range: the model has {classes} classes, 0 to {classes - 1}"
            )

    def losses(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        own = self._entropy(outputs, batch[self.target])
        if "mix_with" not in batch:
            return own
        mine, theirs = self._shares(batch)
        both = mine * own + theirs * self._entropy(outputs, batch["mix_with"])
        return both / jnp.maximum(mine + theirs, 1e-8)

    def weights(self, batch: Batch) -> jax.Array:
        if not self.class_weights:
            return super().weights(batch)
        return super().weights(batch) * sum(self._shares(batch))

    def report(self, outputs: jax.Array, batch: Batch) -> dict[str, Mean]:
        labels = batch[self.target]
        if "mix_with" in batch:
            labels = jnp.where(batch["mix_weight"] < 0.5, batch["mix_with"], labels)
        return {"accuracy": Mean.of(outputs.argmax(-1) == labels, batch["valid"])}

    def _entropy(self, outputs: jax.Array, labels: jax.Array) -> jax.Array:
        if self.priors:
            outputs = outputs + jnp.log(jnp.asarray(self.priors, jnp.float32))
        if matters(self.smoothing):
            hard = jax.nn.one_hot(labels, outputs.shape[-1])
            losses = optax.softmax_cross_entropy(outputs, optax.smooth_labels(hard, self.smoothing))
        else:
            losses = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
        if not matters(self.focal):
            return losses
        p = jnp.take_along_axis(jax.nn.softmax(outputs), labels[:, None], -1)[:, 0]
        return losses * jnp.maximum(1 - p, 1e-6) ** self.focal  # at 0 a power below 1 has no gradient

    def _shares(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """How much a row's own label counts, and that of its partner."""
        kept = batch.get("mix_weight", 1.0)
        if not self.class_weights:
            return kept, 1 - kept
        of = jnp.asarray(self.class_weights, jnp.float32)
        own = batch[self.target]
        return kept * of[own], (1 - kept) * of[batch.get("mix_with", own)]


@dataclasses.dataclass(frozen=True)
class MultiLabel(Supervised):
    """Sigmoid cross-entropy: any of C classes at once; `label` is (B, C) of 0 and 1, or (B,) for one logit."""

    smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()

    def check(self, batch: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        self._need(batch)
        labels, shape = np.asarray(batch[self.target]), outputs["logits"].shape
        if labels.size != np.prod(shape):
            raise DataError(f"{self.target!r} is {labels.shape}, and the model gives {shape}: they must agree")
        if ((labels != 0) & (labels != 1)).any():
            raise DataError(
                f"{self.target!r} must be 0 or 1, and holds {labels[(labels != 0) & (labels != 1)].flat[0]}"
            )

    def losses(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        hard = batch[self.target].reshape(outputs.shape).astype(jnp.float32)
        soft = hard * (1 - self.smoothing) + 0.5 * self.smoothing
        losses = optax.sigmoid_binary_cross_entropy(outputs, soft)
        if self.class_weights:
            losses = losses * jnp.asarray(self.class_weights, jnp.float32)
        return losses.reshape(len(losses), -1).mean(-1)


@dataclasses.dataclass(frozen=True)
class Regress(Supervised):
    """Mean squared error against `targets`."""

    target: str = "targets"

    def check(self, batch: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        self._need(batch)
        if np.prod(np.shape(batch[self.target])) != np.prod(outputs["values"].shape):
            raise DataError(f"{self.target!r} is {batch[self.target].shape}, the model gives {outputs['values'].shape}")

    def losses(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        error = outputs.reshape(len(outputs), -1) - batch[self.target].reshape(len(outputs), -1)
        return jnp.square(error).mean(-1)

    def predict(self, name: str, nets: Mapping[str, Net], batch: Batch) -> dict[str, jax.Array]:
        out = super().predict(name, nets, batch)
        out["values"] = out.pop("logits")
        return out
