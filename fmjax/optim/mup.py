"""Maximal-update parametrisation: the best rate of a narrow net is that of a wide one (Yang et al., arXiv 2203.03466).

Under the usual rules Adam's updates of a matrix grow what it gives in proportion to its fan-in, so that the wider the
net, the smaller the rate must be. Table 8 of the paper, for what this house builds (kernels begin with a variance of
1 / fan-in, embeddings with one that does not depend on the width) says: multiply the rate of hidden matrices and the
logits by base / width, and let attention scores shrink with 1 / head size, not its root. At the base width nothing
changes. `coordinates.py` checks it.

    model = call(transformer.Decoder, width=512, heads=8, **mup.multipliers(512, base=128))
    config.optimizer = call(optimizers.adamw, rate=rate, rates=mup.rates(512, base=128))
"""

from fmjax.optim.assemble import check_numbers

# Every matrix whose fan-in grows with the width: all kernels but the head's, which has `logit_scale` instead. A first
# convolution over pixels, whose fan-in is fixed, wants a pattern of your own.
HIDDEN = r"(?<!\bhead)/kernel$"


def rates(width: int, base: int, hidden: str = HIDDEN) -> tuple[tuple[str, float], ...]:
    """Multipliers for `rates=` of Adam and its kin (not of gradient descent, whose rules are others).

    Decoupled decay is scaled by the rate, so it falls with the multiplier too: where it should not depend on the width
    (arXiv 2405.13698), give decay * width / base with `decay_on=mup.HIDDEN`.

    Args:
      width: of the net.
      base: the width at which the rate was chosen.
      hidden: pattern of the hidden matrices.

    Raises:
      ConfigError: a width below 1.
    """
    check_numbers(width=(width, 1, None), base=(base, 1, None))
    return ((hidden, base / width),)


def multipliers(
    width: int, base: int, head_size: int | None = None, base_head_size: int | None = None
) -> dict[str, float]:
    """The fields of a transformer that the parametrisation sets: `logit_scale`, and `attention_scale`.

    Args:
      width: of the net.
      base: the width at which the rate was chosen.
      head_size: of an attention head; None when it is the same at all widths, and the scores keep their scale.
      base_head_size: of an attention head at the base width.

    Raises:
      ConfigError: a size below 1.
    """
    check_numbers(width=(width, 1, None), base=(base, 1, None))
    if head_size is None or base_head_size is None:
        return {"logit_scale": base / width}
    check_numbers(head_size=(head_size, 1, None), base_head_size=(base_head_size, 1, None))
    return {"logit_scale": base / width, "attention_scale": base_head_size**0.5 / head_size}
