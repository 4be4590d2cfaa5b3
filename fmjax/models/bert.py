"""BERT (arXiv 1810.04805) and RoBERTa (arXiv 1907.11692): norms after each sum, learned positions, exact GELU."""

from functools import partial

from fmjax.models.transformer import Encoder

bert_base = partial(
    Encoder, vocab=30522, width=768, depth=12, heads=12, length=512, norm="layer", norm_place="post", eps=1e-12,
    feed_forward="gelu_exact", use_bias=True, embed_norm=True, token_types=2, pairs=True, dropout=0.1,
    attention_dropout=0.1,
)  # fmt: skip
bert_large = partial(bert_base, width=1024, depth=24, heads=16)
# MiniLM (arXiv 2002.10957) as the sentence encoder all-MiniLM-L6-v2 has it: every second block of twelve, and no head.
minilm_l6 = partial(bert_base, width=384, depth=6, inner=1536, output="none")

# Positions start after the id of padding, 1; one kind of sentence; no pairs.
roberta_base = partial(bert_base, vocab=50265, eps=1e-5, first_position=2, token_types=1, pairs=False)
roberta_large = partial(roberta_base, width=1024, depth=24, heads=16)
