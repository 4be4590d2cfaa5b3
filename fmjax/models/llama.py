"""Llama (arXiv 2302.13971) and what grew from it: rotary positions, RMS norms, gated feed-forward, grouped keys.

Sizes are those of the published configurations; `length` is not needed, since rotary positions have no table.
"""

from functools import partial

from fmjax.models.transformer import Decoder

llama = partial(
    Decoder, vocab=32000, width=4096, depth=32, heads=32, inner=11008, feed_forward="swiglu", norm="rms", eps=1e-5,
    position="rotary", tied=False,
)  # fmt: skip
llama2_7b = llama
llama2_13b = partial(llama, width=5120, depth=40, heads=40, inner=13824)
llama3_8b = partial(llama, vocab=128256, groups=8, inner=14336, rope_base=500_000.0)
llama32_1b = partial(
    llama3_8b, width=2048, depth=16, inner=8192, tied=True, rope_scaling="llama3", rope_factor=32.0, rope_length=8192
)
tinyllama_1b = partial(llama, width=2048, depth=22, groups=4, inner=5632)

# A token sees 4,096 places back (arXiv 2310.06825).
mistral_7b = partial(llama, groups=8, inner=14336, window=4096)

# Qwen2 has biases on queries, keys and values (arXiv 2407.10671); Qwen3 normalises queries and keys instead.
qwen2_05b = partial(
    llama, vocab=151936, width=896, depth=24, heads=14, groups=2, inner=4864, eps=1e-6, rope_base=1_000_000.0,
    qkv_bias=True, tied=True,
)  # fmt: skip
qwen2_7b = partial(qwen2_05b, vocab=152064, width=3584, depth=28, heads=28, groups=4, inner=18944, tied=False)
qwen3_06b = partial(
    llama, vocab=151936, width=1024, depth=28, heads=16, groups=8, head_size=128, inner=3072, eps=1e-6,
    rope_base=1_000_000.0, qk_norm=True, tied=True,
)  # fmt: skip
