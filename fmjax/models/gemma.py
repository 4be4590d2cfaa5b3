"""Gemma (arXiv 2403.08295), 2 (arXiv 2408.00118) and 3 (arXiv 2503.19786): wide heads, embeddings scaled.

Norms keep the distance of their scale from one. Gemma 2 has norms on both sides of each branch, bounds on scores and
logits, and a window in every other block. Gemma 3 normalises queries and keys in place of the bounds, and has a window
in five of six blocks, whose positions turn by another base.
"""

from functools import partial

from fmjax.models.transformer import Decoder

gemma_2b = partial(
    Decoder, vocab=256000, width=2048, depth=18, heads=8, groups=1, head_size=256, inner=16384, feed_forward="geglu",
    norm="rms_one", position="rotary", length=8192, embed_scale=2048**0.5,
)  # fmt: skip
gemma_7b = partial(gemma_2b, width=3072, depth=28, heads=16, groups=None, inner=24576, embed_scale=3072**0.5)

gemma2_2b = partial(
    gemma_2b, width=2304, depth=26, groups=4, inner=9216, norm_place="sandwich", window=4096, full_every=2,
    softcap=50.0, logit_softcap=30.0, embed_scale=2304**0.5,
)  # fmt: skip
gemma2_9b = partial(gemma2_2b, width=3584, depth=42, heads=16, groups=8, inner=14336, embed_scale=3584**0.5)
gemma2_27b = partial(
    gemma2_2b, width=4608, depth=46, heads=32, groups=16, head_size=128, inner=36864, attention_scale=144**-0.5,
    embed_scale=4608**0.5,
)  # fmt: skip

# The text models; the larger ones come with a tower for images.
gemma3_1b = partial(
    gemma2_2b, vocab=262144, width=1152, heads=4, groups=1, inner=6912, window=512, full_every=6, softcap=None,
    logit_softcap=None, qk_norm=True, rope_base=1_000_000.0, rope_base_local=10_000.0, length=32768,
    embed_scale=1152**0.5,
)  # fmt: skip
gemma3_270m = partial(gemma3_1b, width=640, depth=18, inner=2048, embed_scale=640**0.5)
