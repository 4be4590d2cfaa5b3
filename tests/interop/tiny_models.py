"""One small model of ours a family, with weights that all count; and what applies them to a batch of theirs."""

import json
import zlib

import jax
import numpy as np

from fmjax.core.config import build, call
from fmjax.interop import family, hugging_face
from fmjax.models import bert, gemma, gpt2, llama, t5

FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # to compile
SIZE = dict(vocab=31, width=16, depth=2, heads=4, inner=24)
MODELS = {
    "gpt2": call(gpt2.gpt2, **SIZE, length=16),
    "gpt2 untied": call(gpt2.gpt2, **SIZE, length=16, tied=False, feed_forward="relu"),
    "llama": call(llama.llama, **SIZE, groups=2, use_bias=True, rope_scaling="linear", rope_factor=2.0),
    "mistral": call(llama.mistral_7b, **{**SIZE, "heads": 8}, window=5),
    "qwen2": call(llama.qwen2_05b, **SIZE, groups=2, window=7, rope_scaling="yarn", rope_factor=2.0, rope_length=16),
    "qwen3": call(llama.qwen3_06b, **SIZE, groups=2, head_size=8),
    "gemma": call(gemma.gemma_2b, **SIZE, head_size=8, embed_scale=4.0),
    "gemma untied": call(gemma.gemma_7b, **SIZE, head_size=4, embed_scale=4.0, tied=False),
    "gemma2": call(gemma.gemma2_2b, **{**SIZE, "depth": 4}, groups=2, head_size=8, embed_scale=4.0, window=5),
    "gemma3_text": call(gemma.gemma3_1b, **{**SIZE, "depth": 6}, head_size=8, embed_scale=4.0, window=5),
    "bert": call(bert.bert_base, **SIZE, length=16),
    "bert bare": call(bert.minilm_l6, **SIZE, length=16),
    "roberta": call(bert.roberta_base, **SIZE, length=16),
    "t5": call(t5.t5_small, **SIZE, head_size=8, logit_scale=16**-0.5),
    "t5 v1.1": call(t5.t5_v11_small, **SIZE, head_size=6, encoder_depth=1),
}


def weights(module):
    """Weights from a seed, not zero anywhere."""
    flat = {
        address: np.random.default_rng(zlib.crc32(address.encode())).standard_normal(shape).astype(np.float32)
        for address, shape in family.shapes(module).items()
    }
    return family.nested(flat)


def made(name):
    """(module, weights) of a line of MODELS."""
    module = build(MODELS[name])
    return module, weights(module)


def equal(a, b):
    """Whether two trees of weights are the same, bit for bit."""
    same = jax.tree.map(lambda x, y: np.array_equal(x.view(np.uint32), y.view(np.uint32)), a, b)
    return all(jax.tree.leaves(same))


def ours(module, params, batch):
    """Logits (or hidden states) of a batch in transformers' names."""
    tokens, more = [batch["input_ids"]], {}
    if "decoder_input_ids" in batch:
        tokens.append(batch["decoder_input_ids"])
    if "attention_mask" in batch:
        more["segment_ids"] = batch["attention_mask"]
    if "token_type_ids" in batch:
        more["token_types"] = batch["token_type_ids"]
    return np.asarray(jax.jit(module.apply, compiler_options=FAST)({"params": params}, *tokens, **more))


def difference(a, b, batch):
    """The largest, where tokens are real; a decoder's are."""
    if "attention_mask" in batch and "decoder_input_ids" not in batch:
        a, b = a[batch["attention_mask"] > 0], b[batch["attention_mask"] > 0]
    return float(np.abs(a - b).max())


def rewrite(folder, **lines):
    """Change lines of a config.json; None takes one out."""
    path = folder / hugging_face.CONFIG
    config = {**json.loads(path.read_text()), **lines}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
