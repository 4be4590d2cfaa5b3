"""Tokens a second beside transformers: `python benchmarks/decode.py [NAME ...]` writes with the same weights.

Greedy, from random prompts, with a cache and, for the smaller cases, without one (every token reads the whole text
again), by fmjax and by transformers' `generate` on PyTorch, in turns in one process with the same number of threads. A
model has random weights of GPT-2's architecture; the note says of how many rows all sides write the same tokens.
Compilation is not timed: its seconds are in the note.
Needs the extra `oracle`.

`--device=gpu --precision=bfloat16` does the same on one GPU, weights in that precision on both sides, for 1, 8 and 64
rows of GPT-2, beside `generate` with a static cache too, which transformers compiles. Its rows end in bfloat16_gpu;
not run on a GPU yet. `--smoke` tries any case at a small size, and writes nothing.
"""

import os
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import turns

from fmjax import results
from fmjax.core.errors import ConfigError, exits, extra
from fmjax.core.nets import Net
from fmjax.decoding.sampling import Sampler
from fmjax.interop import hugging_face
from fmjax.models import gpt2

os.environ.setdefault("HF_HUB_OFFLINE", "1")
SMALL = gpt2.gpt2(vocab=8192, width=256, depth=4, heads=4)
# name: (what it is, module, rows, prompt, new tokens)
CASES: dict[str, tuple[str, Any, int, int, int]] = {
    "small": ("GPT-2 of width 256, 4 blocks, 8,192 ids", SMALL, 1, 32, 128),
    "small_batch": ("GPT-2 of width 256, 4 blocks, 8,192 ids", SMALL, 8, 32, 128),
    "small_32": ("GPT-2 of width 256, 4 blocks, 8,192 ids", SMALL, 32, 32, 128),
    "gpt2": ("GPT-2 of 124M weights", gpt2.gpt2(), 1, 32, 64),
    "gpt2_batch": ("GPT-2 of 124M weights", gpt2.gpt2(), 8, 32, 64),
    "gpt2_1": ("GPT-2 of 124M weights", gpt2.gpt2(), 1, 128, 256),
    "gpt2_8": ("GPT-2 of 124M weights", gpt2.gpt2(), 8, 128, 256),
    "gpt2_64": ("GPT-2 of 124M weights", gpt2.gpt2(), 64, 128, 256),
}  # fmt: skip

GPU = ("gpt2_1", "gpt2_8", "gpt2_64")
TINY = gpt2.gpt2(vocab=64, width=32, depth=2, heads=2)  # instead of any of them, to try the tool
UNCACHED = ("small", "small_batch")  # the others would take minutes a turn


def main(argv: list[str] | None = None) -> int:
    """Time each case, write a row for it."""
    more = {
        "--device": {"choices": ("cpu", "gpu"), "default": "cpu"},
        "--precision": {"choices": ("float32", "bfloat16"), "default": "float32"},
        "--smoke": {"action": "store_true", "help": "write a few tokens by a tiny model, and no rows"},
    }
    args = turns.arguments(argv, main.__doc__, CASES, 5, without="all of the device", more=more)
    on_gpu, write = args.device == "gpu", not args.print and not args.smoke
    if on_gpu:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the other library needs memory too
    if on_gpu != (jax.default_backend() == "gpu"):
        raise ConfigError(f"--device={args.device}, but jax computes on {jax.default_backend()}")
    names = args.names or [name for name in CASES if (name in GPU) == on_gpu]
    return turns.each(names, lambda name: measure(name, args.repeats, write, args.device, args.precision, args.smoke))


def measure(
    name: str, repeats: int, write: bool, device: str = "cpu", precision: str = "float32", smoke: bool = False
) -> None:
    """One case, in turns; a row with the median ratio."""
    torch, transformers = extra("torch", "oracle"), extra("transformers", "oracle")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    what, module, rows, given, length = CASES[name]
    if smoke:
        module, given, length = TINY, 4, 6
    place = "cuda" if device == "gpu" else "cpu"
    tokens = np.random.default_rng(0).integers(0, module.vocab, (rows, given)).astype(np.int32)
    params = jax.jit(module.init)(jax.random.key(0), tokens)["params"]
    params = jax.tree.map(lambda x: 4 * x if x.ndim > 1 else x, params)  # large enough to have opinions
    with tempfile.TemporaryDirectory() as folder:
        hugging_face.save(f"{folder}/model", module, jax.device_get(params))
        load, dtype = transformers.AutoModelForCausalLM.from_pretrained, getattr(torch, precision)
        theirs = load(f"{folder}/model", dtype=dtype).eval().to(place)
    prompt = torch.from_numpy(tokens.astype(np.int64)).to(place)
    if precision != "float32":
        module = module.clone(dtype=precision)
        params = jax.tree.map(lambda x: x.astype(precision), params)
    how = {"do_sample": False, "max_new_tokens": length, "min_new_tokens": length, "pad_token_id": 0}

    def torch_writes(cached: bool, **more: Any) -> np.ndarray:
        with torch.inference_mode():
            out = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), use_cache=cached, **how, **more)
        return out[:, given:].cpu().numpy()

    sampler = Sampler(temperature=0, length=length)
    cached = jax.jit(lambda params, tokens: sampler({"model": Net(module, params)}, {"tokens": tokens})["tokens"])

    @jax.jit
    def uncached(params: Any, tokens: jax.Array) -> jax.Array:
        """Every token from the whole text, in a buffer of one length."""

        def one(text: jax.Array, at: jax.Array) -> tuple[jax.Array, jax.Array]:
            hidden = module.apply({"params": params}, text, method="hidden")
            last = jax.lax.dynamic_index_in_dim(hidden, at - 1, 1, keepdims=False)
            token = module.apply({"params": params}, last, method="head").argmax(-1).astype(jnp.int32)
            return jax.lax.dynamic_update_slice_in_dim(text, token[:, None], at, 1), token

        text = jnp.pad(tokens, ((0, 0), (0, length)))
        return jax.lax.scan(one, text, given + jnp.arange(length))[1].T

    ways: dict[str, Callable[[], np.ndarray]] = {
        "fmjax": lambda: np.asarray(cached(params, tokens)),
        "transformers": lambda: torch_writes(True),
    }
    if device == "gpu":
        try:
            torch_writes(True, cache_implementation="static")
            ways["transformers, static cache"] = lambda: torch_writes(True, cache_implementation="static")
        except Exception as problem:  # whatever its compiler says, the other ways are worth their time
            print(f"{name}: transformers with a static cache does not run: {problem}", flush=True)
    if name in UNCACHED:
        ways["fmjax, no cache"] = lambda: np.asarray(uncached(params, tokens))
        ways["transformers, no cache"] = lambda: torch_writes(False)
    found = turns.take(ways, repeats)
    texts = [said[0] for said in found.said.values()]
    same = min((text == texts[0]).all(1).mean() for text in texts)
    written = rows * length
    told = ", ".join(f"{way} {written / s:,.1f}" for way, s in found.medians.items())
    note = (
        f"medians: {told}; {turns.ratio_words(found)}; rows whose tokens agree on all sides {same:.0%}; first "
        f"call, compilation included, {found.first['fmjax']:.1f} s"
    )
    print(f"{name}: {note}", flush=True)
    if not write:
        return
    place = [f"--{word}={value}" for word, value in (("device", device), ("precision", precision))]
    place = place if (device, precision) != ("cpu", "float32") else []
    results.write_row(
        "_".join(["decode", name, *[precision] * (precision != "float32"), *[device] * (device == "gpu")]),
        task=f"writing {length} tokens after {given}, {rows} row{'s' * (rows > 1)}, {what}, {precision}",
        metric="tokens a second",
        command=" ".join(["python benchmarks/decode.py", name, *place]),
        values=[written / s for s in found.seconds["fmjax"]],
        repeats=repeats,
        baseline=turns.baseline(found, "transformers", "torch", scale=lambda s: written / s),
        note=note,
    )


if __name__ == "__main__":
    exits(main)()
