"""The training steps that benchmarks/steps.py measures: shapes and batches, the same for every side."""

import dataclasses
from typing import Any

import numpy as np

Batch = dict[str, np.ndarray]
BATCHES = 4  # different ones, taken in turn
IGNORED = -100  # what PyTorch's cross-entropy leaves out


@dataclasses.dataclass(frozen=True)
class Case:
    """One training step: AdamW, decay 0.01 of every weight, float32, no dropout.

    Attributes:
      words: what it is.
      network: a class of transformers, or lstm, mlp, convnet.
      options: of that class's config, or of the network.
      batch: its kind: next, masked, pairs, images.
      rows: of a batch.
      length: of a row of tokens; of the targets in pairs a half of it; side of an image.
      channels: of an image.
      steps: in one turn.
      rate: of AdamW.
      large: 10M weights or more: beside the peer it is held against the machine's matrix products.
      resident: the examples lie on the device, as `resident=True` of a run's data puts them.
      gpu: of a size for a GPU, and only measured there.
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

    @property
    def vocab(self) -> int:
        return self.options["vocab_size"]


def _gpt2(vocab: int, length: int, width: int, depth: int, heads: int) -> dict[str, Any]:
    sizes = {"vocab_size": vocab, "n_positions": length, "n_embd": width, "n_layer": depth, "n_head": heads}
    return {**sizes, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


BERT = dict(
    vocab_size=30522, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072,
    max_position_embeddings=512, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
T5 = dict(
    vocab_size=32128, d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8, dropout_rate=0.0,
    decoder_start_token_id=0,
)  # fmt: skip
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
        "GPT-2 of 124M weights, batch 8 x 2048",
        "GPT2LMHeadModel", _gpt2(50257, 2048, 768, 12, 12), "next", 8, 2048, steps=5, rate=1e-4, large=True, gpu=True,
    ),
    "gpt_774m_2048": Case(
        "GPT-2 of 774M weights, batch 4 x 2048",
        "GPT2LMHeadModel", _gpt2(50257, 2048, 1280, 36, 20), "next", 4, 2048, steps=3, rate=1e-4, large=True, gpu=True,
    ),
    "bert_base_64": Case(
        "BERT-base, 77 of 512 tokens masked, batch 64 x 512",
        "BertForMaskedLM", BERT, "masked", 64, 512, steps=5, rate=1e-4, large=True, gpu=True,
    ),
}  # fmt: skip


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
