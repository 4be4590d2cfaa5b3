"""The training steps that benchmarks/steps.py measures: shapes and batches, the same for every side."""

import dataclasses
from typing import Any

import numpy as np

Batch = dict[str, np.ndarray]
BATCHES = 4  # different ones, taken in turn
TENSORS = "tensors.npz"  # the weights of a network that no library has a file for
IGNORED = -100  # what PyTorch's cross-entropy leaves out


@dataclasses.dataclass(frozen=True)
class Case:
    """One training step: AdamW, decay 0.01 of every weight, float32, no dropout.

    Attributes:
      words: what it is.
      network: a class of transformers, an architecture of timm, or lstm, mlp, convnet.
      options: of that class's config, of the architecture, or of the network.
      batch: its kind: next, masked, pairs, images.
      rows: of a batch.
      length: of a row of tokens; of the targets in pairs a half of it; side of an image.
      channels: of an image.
      steps: in one turn.
      rate: of AdamW.
      large: 10M weights or more: beside the peer it is held against the machine's matrix products.
      resident: the examples lie on the device, as `resident=True` of a run's data puts them.
      gpu: of a size for a GPU, and only measured there; the batches lie on it before a step is timed.
      remat: what fmjax computes again in the backward pass, see nn/stack.py.
      checkpointing: whether the peer computes every block again in the backward pass.
      attention: fmjax's backend, see nn/attention.py.
    """

    words: str
    network: str
    options: dict[str, Any]
    batch: str
    rows: int
    length: int
    channels: int = 1
    steps: int = 1
    rate: float = 1e-3
    large: bool = False
    resident: bool = False
    gpu: bool = False
    remat: str = "none"
    checkpointing: bool = False
    attention: str = "auto"

    @property
    def library(self) -> str:
        """Where the peer's network is from."""
        own = {"lstm": "torch", "mlp": "torch", "convnet": "torch"}
        return "timm" if self.network in TIMM else own.get(self.network, "transformers")

    @property
    def tokens(self) -> int:
        """Of a batch, those that come out of a decoder; 0 of images."""
        return 0 if self.batch == "images" else self.rows * self.length

    @property
    def vocab(self) -> int:
        return self.options["vocab_size"]


def _gpt2(vocab: int, length: int, width: int, depth: int, heads: int) -> dict[str, Any]:
    sizes = {"vocab_size": vocab, "n_positions": length, "n_embd": width, "n_layer": depth, "n_head": heads}
    return {**sizes, "use_cache": False, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def _llama(length: int, width: int, depth: int, heads: int, inner: int) -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads, "intermediate_size": inner}
    more = {"vocab_size": 32000, "max_position_embeddings": length, "tie_word_embeddings": False, "use_cache": False}
    return {**sizes, **more, "num_key_value_heads": heads}


TIMM = ("vit_base_patch16_224", "vit_small_patch16_224", "resnet50", "resnet18")
BERT = dict(
    vocab_size=30522, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072,
    max_position_embeddings=512, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
T5 = dict(
    vocab_size=32128, d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8, dropout_rate=0.0,
    decoder_start_token_id=0, use_cache=False,
)  # fmt: skip
# Those for a GPU use fused attention, which needs no mask here; their rows are planned for 80 GB, not measured.
GPU = dict(rate=1e-4, large=True, gpu=True, attention="cudnn")
LLAMA_05B, LLAMA_15B = (1536, 16, 12, 4096), (2048, 26, 16, 5632)
CASES = {
    "gpt_char": Case(
        "character GPT of 0.8M weights (4 blocks, width 128), batch 12 x 64",
        "GPT2LMHeadModel", _gpt2(65, 64, 128, 4, 4), "next", 12, 64, steps=20,
    ),
    "gpt_10m": Case(
        "GPT of 10.8M weights (6 blocks, width 384), batch 8 x 256",
        "GPT2LMHeadModel", _gpt2(65, 256, 384, 6, 6), "next", 8, 256, large=True,
    ),
    "gpt_124m": Case(
        "GPT-2 of 124M weights, batch 1 x 256",
        "GPT2LMHeadModel", _gpt2(50257, 1024, 768, 12, 12), "next", 1, 256, rate=1e-4, large=True,
    ),
    "bert_base": Case(
        "BERT-base, 19 of 128 tokens masked, batch 4 x 128",
        "BertForMaskedLM", BERT, "masked", 4, 128, rate=1e-4, large=True,
    ),
    "t5_small": Case(
        "T5-small, batch 4 x 128, 64 targets",
        "T5ForConditionalGeneration", T5, "pairs", 4, 128, large=True,
    ),
    "lstm": Case(
        "LSTM of 2 layers of width 256, 257 ids, batch 16 x 128",
        "lstm", {"vocab_size": 257, "width": 256, "depth": 2}, "next", 16, 128, steps=4,
    ),
    "mlp": Case(
        "784-128-10 network, batch 128",
        "mlp", {}, "images", 128, 28, steps=200, resident=True,
    ),
    "convnet": Case(
        "32-64-128 convolutional network, batch 128 of 32 x 32",
        "convnet", {}, "images", 128, 32, channels=3, steps=4,
    ),
    "gpt_124m_2048": Case(
        "GPT-2 of 124M weights, batch 16 x 2048",
        "GPT2LMHeadModel", _gpt2(50257, 2048, 768, 12, 12), "next", 16, 2048, steps=5, **GPU,
    ),
    "gpt_774m_2048": Case(
        "GPT-2 of 774M weights, batch 4 x 2048",
        "GPT2LMHeadModel", _gpt2(50257, 2048, 1280, 36, 20), "next", 4, 2048, steps=3, **GPU,
    ),
    "llama_05b_2048": Case(
        "Llama of 551M weights (16 blocks, width 1536), batch 16 x 2048",
        "LlamaForCausalLM", _llama(2048, *LLAMA_05B), "next", 16, 2048, steps=4, **GPU,
    ),
    "llama_05b_8192": Case(
        "Llama of 551M weights (16 blocks, width 1536), batch 4 x 8192",
        "LlamaForCausalLM", _llama(8192, *LLAMA_05B), "next", 4, 8192, steps=4, **GPU,
    ),
    "llama_15b_2048": Case(
        "Llama of 1470M weights (26 blocks, width 2048), batch 8 x 2048",
        "LlamaForCausalLM", _llama(2048, *LLAMA_15B), "next", 8, 2048, steps=3, **GPU,
    ),
    "llama_15b_8192": Case(
        "Llama of 1470M weights (26 blocks, width 2048), batch 2 x 8192",
        "LlamaForCausalLM", _llama(8192, *LLAMA_15B), "next", 2, 8192, steps=3, **GPU,
    ),
    "bert_base_64": Case(
        "BERT-base, 77 of 512 tokens masked, batch 64 x 512",
        "BertForMaskedLM", BERT, "masked", 64, 512, steps=5, **GPU,
    ),
    "vit_b16": Case(
        "ViT-B/16, batch 128 of 224 x 224",
        "vit_base_patch16_224", {}, "images", 128, 224, channels=3, steps=10,
        **{**GPU, "attention": "auto"},  # 197 tokens
    ),
    "resnet50": Case(
        "ResNet-50, batch 256 of 224 x 224",
        "resnet50", {}, "images", 256, 224, channels=3, steps=10, **{**GPU, "attention": "auto"},
    ),
}  # fmt: skip


# What is smaller where a case is only tried: 2 blocks of width 64, or timm's shallowest.
_GPT2_SMOKE = {"vocab_size": 256, "n_positions": 32, "n_embd": 64, "n_layer": 2, "n_head": 2}
_BERT_SMOKE = {
    "vocab_size": 256, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128,
    "max_position_embeddings": 32,
}  # fmt: skip
SMOKE: dict[str, dict[str, Any]] = {
    "GPT2LMHeadModel": _GPT2_SMOKE,
    "LlamaForCausalLM": {**_BERT_SMOKE, "num_key_value_heads": 2},
    "BertForMaskedLM": _BERT_SMOKE,
    "T5ForConditionalGeneration": {"vocab_size": 256, "d_model": 64, "d_kv": 32, "d_ff": 128, "num_layers": 2,
                                   "num_heads": 2},
    "lstm": {"width": 32},
    "vit_base_patch16_224": {"img_size": 32, "embed_dim": 64, "depth": 2, "num_heads": 2},
    "resnet50": {"layers": (1, 1, 1, 1), "channels": (16, 32, 64, 128)},
}  # fmt: skip


def changed(name: str, smoke: bool = False, **changes: Any) -> Case:
    """A case with fields changed where they are not None.

    Args:
      smoke: of a size that any machine takes in seconds: the same networks, options and kinds of batches.
    """
    case = CASES[name]
    if smoke:
        options = {**case.options, **SMOKE.get(case.network, {})}
        images = case.batch == "images"  # batch norm of two rows makes chaos of what is not bit for bit the same
        rows, rate = (8, 1e-3) if images else (2, 1e-2)
        small = {"options": options, "rows": rows, "length": min(case.length, 32), "steps": 2, "rate": rate}
        changes = {**small, "attention": "auto", **{k: v for k, v in changes.items() if v is not None}}
    return dataclasses.replace(case, **{k: v for k, v in changes.items() if v is not None})


def batches(case: Case, count: int = BATCHES) -> list[Batch]:
    """Random batches in fmjax's words: nothing to learn but them, which is enough for a loss to fall."""
    rng = np.random.default_rng(0)
    return [{**KINDS[case.batch](case, rng), "valid": np.ones(case.rows, np.float32)} for _ in range(count)]


def _next(case: Case, rng: np.random.Generator) -> Batch:
    return {"tokens": _ids(case, rng, case.length + 1)}


def _masked(case: Case, rng: np.random.Generator) -> Batch:
    targets = _ids(case, rng, case.length)
    hidden = rng.permuted(np.arange(case.length) < masked(case), axis=None)
    weights = np.stack([rng.permuted(hidden) for _ in range(case.rows)]).astype(np.float32)
    return {"tokens": np.where(weights > 0, 103, targets).astype(np.int32), "targets": targets, "weights": weights}


def masked(case: Case) -> int:
    """Hidden tokens of a row: 15 %."""
    return round(0.15 * case.length)


def _pairs(case: Case, rng: np.random.Generator) -> Batch:
    return {"tokens": _ids(case, rng, case.length), "targets": _ids(case, rng, case.length // 2)}


def _images(case: Case, rng: np.random.Generator) -> Batch:
    shape = (case.rows, case.length, case.length, case.channels)
    return {"image": rng.random(shape, np.float32), "label": rng.integers(0, 10, case.rows).astype(np.int32)}


def _ids(case: Case, rng: np.random.Generator, length: int) -> np.ndarray:
    return rng.integers(1, case.vocab, (case.rows, length)).astype(np.int32)  # 0 is padding to some


KINDS = {"next": _next, "masked": _masked, "pairs": _pairs, "images": _images}
