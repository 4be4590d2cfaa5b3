"""Test-time augmentation: an evaluator's `predict` that averages over flips and shifts of an image.

In a config: `call(evaluators.average, ..., predict=call(tta.averaged, flip=True, shift=1))`, beside an evaluator
without it, so that both numbers are told.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from fmjax.core.errors import ConfigError
from fmjax.core.nets import Net
from fmjax.core.types import Batch


def averaged(
    flip: bool = True, shift: int = 0, of: str = "logits", inputs_from: str = "image", target: str = "label"
) -> Callable[[Mapping[str, Net], Batch], dict[str, jax.Array]]:
    """`(nets, batch) -> outputs`, the mean over views of what the model says to images.

    Args:
      flip: the image and its mirror image.
      shift: and both moved by so many pixels up and left, and down and right (mirrored at the border); the two
        together count as much as the image in its place, as in the fast CIFAR-10 recipes. 0 leaves them out.
      of: "logits" averages them; "probabilities" gives the logarithm of the mean probability.
      inputs_from: the key of the images.
      target: the key of the labels.
    """
    if of not in ("logits", "probabilities"):
        raise ConfigError(f"of={of!r}: give logits or probabilities")
    if shift != int(shift) or shift < 0:
        raise ConfigError(f"shift={shift!r}: give a whole number of pixels, 0 or more")

    def predict(nets: Mapping[str, Net], batch: Batch) -> dict[str, jax.Array]:
        x, weights = _views(batch[inputs_from], flip, shift)

        def say(images: jax.Array) -> jax.Array:
            logits = nets["model"].fixed()(images).astype(jnp.float32)
            return jax.nn.softmax(logits) if of == "probabilities" else logits

        # One program for all views, one after the other; the rows of a sharded batch stay where they lie.
        outputs = jnp.tensordot(weights, jax.lax.map(say, x), 1)
        if of == "probabilities":
            outputs = jnp.log(jnp.maximum(outputs, 1e-30))
        words = {"logits": outputs, "weights": batch["valid"]}
        return {**words, "targets": batch[target]} if target in batch else words

    return predict


def _views(images: jax.Array, flip: bool, shift: int) -> tuple[jax.Array, jax.Array]:
    """(V, B, H, W, C) and the weight of each view, (V,)."""
    if images.ndim != 4:
        raise ConfigError(f"test-time augmentation takes images (B, H, W, C), not {images.shape}")
    H, W = images.shape[1:3]
    views, weights = [images], [1.0]
    if shift:
        if shift >= min(H, W):
            raise ConfigError(f"shift={shift} is more than images of {H} x {W} hold")
        padded = jnp.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="reflect")
        views += [padded[:, at : at + H, at : at + W] for at in (0, 2 * shift)]
        weights = [0.5, 0.25, 0.25]
    if flip:
        views, weights = views + [x[:, :, ::-1] for x in views], [w / 2 for w in weights * 2]
    return jnp.stack(views), jnp.array(weights)
