"""T5 (arXiv 1910.10683): relative biases in place of positions, RMS norms, no biases, scores that are not scaled.

Version 1.0 has ReLU and tied output weights whose logits are divided by the root of the width; version 1.1 has gated
GELU and output weights of its own.
"""

from functools import partial

from fmjax.models.transformer import EncoderDecoder

t5_small = partial(
    EncoderDecoder, vocab=32128, width=512, depth=6, heads=8, head_size=64, inner=2048, feed_forward="relu",
    norm="rms", position="relative", attention_scale=1.0, logit_scale=512**-0.5, dropout=0.1,
)  # fmt: skip
t5_base = partial(t5_small, width=768, depth=12, heads=12, inner=3072, logit_scale=768**-0.5)
t5_large = partial(t5_small, width=1024, depth=24, heads=16, inner=4096, logit_scale=1024**-0.5)

t5_v11_small = partial(t5_small, depth=8, heads=6, inner=1024, feed_forward="geglu", tied=False, logit_scale=1.0)
t5_v11_base = partial(t5_v11_small, width=768, depth=12, heads=12, inner=2048)
t5_v11_large = partial(t5_v11_small, width=1024, depth=24, heads=16, inner=2816)
