"""GPT-2 (Radford et al., 2019): learned positions, layer norms before each branch, biases, tied output weights."""

from functools import partial

from fmjax.models.transformer import Decoder

gpt2 = partial(
    Decoder, vocab=50257, width=768, depth=12, heads=12, length=1024, position="learned", norm="layer", eps=1e-5,
    feed_forward="gelu", use_bias=True,
)  # fmt: skip
gpt2_medium = partial(gpt2, width=1024, depth=24, heads=16)
gpt2_large = partial(gpt2, width=1280, depth=36, heads=20)
gpt2_xl = partial(gpt2, width=1600, depth=48, heads=25)
