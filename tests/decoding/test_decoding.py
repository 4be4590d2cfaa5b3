"""Decoding: padding and chunks change nothing, windows are bounded, beams find the best, drafts change no word."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.core.errors import ConfigError
from fmjax.core.nets import Net
from fmjax.decoding import reading
from fmjax.decoding.beam import Beam
from fmjax.decoding.choosing import Choice
from fmjax.decoding.sampling import Sampler
from fmjax.decoding.speculative import Speculative
from fmjax.models import rnn
from fmjax.models.transformer import Decoder, EncoderDecoder

V = 24
TOKENS = np.random.default_rng(0).integers(1, V, (3, 9), dtype=np.int32)
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # to compile
LENGTHS = np.array([9, 4, 6])
SMALL = {"vocab": V, "width": 16, "depth": 1, "heads": 2}
DEEP = {**SMALL, "depth": 2}  # a prefix is read both ways, and windows differ, from the second block on
MODELS = {
    "rotary": Decoder(**DEEP),
    "window": Decoder(**DEEP, window=4, full_every=2),
    "learned": Decoder(**SMALL, position="learned", length=32),
    "alibi_ngrams": Decoder(**SMALL, position="alibi", ngrams=(2, 3), buckets=64),
    "lstm": rnn.lstm(vocab=V, width=16, depth=1, inner=16),
    "translator": EncoderDecoder(**SMALL, position="relative"),
    "lstm_translator": rnn.SequenceToSequence(vocab=V, width=16),
}


@functools.cache
def net(name, seed=1, scale=4.0):
    """A model of this name with weights large enough to have opinions."""
    model = MODELS[name]
    more = (TOKENS,) if reading.encodes(Net(model, {})) else ()
    params = jax.tree.map(lambda x: x * scale if x.ndim > 1 else x, _init(model, jax.random.key(seed), *more))
    return Net(model, params)


@functools.partial(jax.jit, static_argnums=0, compiler_options=FAST)
def _init(model, key, *more):
    return model.init(key, TOKENS, *more)["params"]


def padded(side):
    """The rows cut to LENGTHS, padded with a token that means something elsewhere."""
    tokens, segments = np.full((3, 12), 5), np.zeros((3, 12), np.int32)
    for row, n in enumerate(LENGTHS):
        at = slice(0, n) if side == "right" else slice(12 - n, 12)
        tokens[row, at], segments[row, at] = TOKENS[row, :n], 1
    return {"tokens": jnp.asarray(tokens), "segment_ids": jnp.asarray(segments)}


def write(decoder, name, batch, **nets):
    nets = {"model": net(name), **nets}
    modules = tuple((key, n.module) for key, n in nets.items())
    return jax.device_get(_write(decoder, modules, {key: n.params for key, n in nets.items()}, batch))


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=FAST)
def _write(decoder, modules, params, batch):
    return decoder({key: Net(module, params[key]) for key, module in modules}, batch)


@functools.partial(jax.jit, static_argnames=("module", "call"), compiler_options=FAST)
def run(module, params, call, *args):
    """`call(net, *args)`, compiled once for a module."""
    return call(Net(module, params), *args)


def read(net, batch, length=12, **how):
    return run(net.module, net.params, functools.partial(_begin, length=length, **how), batch)


def _begin(net, batch, **how):
    return reading.begin(net, batch, **how)[:2]


def whole(net, *tokens):
    return run(net.module, net.params, Net.__call__, *tokens)


def more(net, tokens, cache):
    return run(net.module, net.params, reading.more, tokens, cache)


RARE = ("learned", "alibi_ngrams", "lstm_translator")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.nightly) if n in RARE else n for n in MODELS])
def test_ragged_prompts_are_continued_as_if_alone(name):
    greedy = Sampler(temperature=0, length=10)
    found = [write(greedy, name, padded(side))["tokens"] for side in ("left", "right")]
    np.testing.assert_array_equal(*found)
    alone = write(greedy, name, {"tokens": TOKENS[1:2, : LENGTHS[1]]})["tokens"][0]
    np.testing.assert_array_equal(found[0][1], alone)
    assert len(set(found[0].ravel().tolist())) > 3  # not one token for ever


@pytest.mark.parametrize("name", MODELS)
def test_a_cache_gives_the_logits_of_the_whole_text(name):
    n = net(name)
    if reading.encodes(n):
        start = np.zeros((3, 1), np.int32)
        expected = whole(n, TOKENS, np.concatenate([start, TOKENS], 1))[:, : TOKENS.shape[1]]
        prompt, tokens = TOKENS, TOKENS[:, :-1]
    else:
        expected, prompt, tokens = whole(n, TOKENS)[:, 3:], TOKENS[:, :4], TOKENS[:, 4:]
    logits, cache = read(n, {"tokens": prompt})
    pieces = [logits[:, None]]
    for i in range(tokens.shape[1]):
        logits, cache = more(n, tokens[:, i : i + 1], cache)
        pieces.append(logits)
    np.testing.assert_allclose(np.concatenate(pieces, 1), expected, atol=2e-4, rtol=1e-4)


def test_a_window_bounds_what_is_kept_and_pieces_of_any_size_agree():
    n = net("window")
    cache = n.module.init_cache(2, 40, slack=2)
    assert [block["own"]["key"].shape[2] for block in cache["blocks"]] == [6, 40]
    tokens = np.random.default_rng(3).integers(0, V, (2, 30), dtype=np.int32)
    pieces, start = [], 0
    for size in (7, 1, 1, 3, 1, 7, 3, 7):
        logits, cache = more(n, tokens[:, start : start + size], cache)
        pieces.append(logits)
        start += size
    np.testing.assert_allclose(np.concatenate(pieces, 1), whole(n, tokens), atol=2e-4, rtol=1e-4)


def test_what_was_taken_back_leaves_no_trace():
    n, slack = net("window"), 3
    cache = more(n, TOKENS, n.module.init_cache(3, 20, slack))[1]
    wrong = more(n, (TOKENS[:, :3] + 1) % V, cache)[1]
    again = more(n, TOKENS[:, :3], reading.rewound(wrong, 3))[0]
    np.testing.assert_allclose(again, more(n, TOKENS[:, :3], cache)[0], atol=1e-5)


def test_a_prefix_model_reads_its_prompt_both_ways():
    n = net("rotary")
    first = read(n, {"tokens": TOKENS}, prefix=True)[0]
    both = run(n.module, n.params, lambda net, x: net(x, prefix=jnp.ones_like(x))[:, -1], TOKENS)
    np.testing.assert_allclose(first, both, atol=1e-4)
    assert not np.allclose(first, whole(n, TOKENS)[:, -1], atol=1e-3)


def test_a_few_tokens_at_a_time_are_the_same_tokens():
    sampler = Sampler(temperature=1.0, length=12, repetition_penalty=1.3)
    n, batch = net("rotary"), {**padded("left"), "seed": 3}
    state, parts = run(n.module, n.params, lambda net, batch: sampler.begin({"model": net}, batch), batch), []
    go_on = lambda net, state: sampler.more({"model": net}, state, 3)  # noqa: E731
    for _ in range(4):
        state, part = run(n.module, n.params, go_on, state)
        parts.append(part)
    np.testing.assert_array_equal(np.concatenate(parts, 1), write(sampler, "rotary", batch)["tokens"])


_shaped = jax.jit(Choice.shaped, static_argnums=0, compiler_options=FAST)


def kept(choice, logits, seen=None):
    """The tokens that may be drawn."""
    shaped = _shaped(choice, np.asarray([logits], np.float32), None if seen is None else np.asarray([seen]))
    return np.flatnonzero(np.isfinite(shaped[0])).tolist()


def test_cuts_keep_what_they_say():
    logits = np.log([0.5, 0.3, 0.15, 0.05])
    assert kept(Choice(temperature=1.0, min_p=0.2), logits) == [0, 1, 2]
    assert kept(Choice(temperature=1.0, min_p=0.7), logits) == [0]
    assert kept(Choice(temperature=1.0, top_k=3, top_p=0.9), logits) == [0, 1, 2]
    assert kept(Choice(temperature=0, top_p=1.0), logits) == [0]
    punished = _shaped(
        Choice(temperature=1.0, repetition_penalty=2.0), np.array([[2.0, -1.0, 1.0]], np.float32), np.array([[1, 1, 0]])
    )
    np.testing.assert_allclose(punished, [[1.0, -2.0, 1.0]])
    assert kept(Choice(temperature=0, repetition_penalty=3.0), [1.0, 0.9, 0.0], [1, 0, 0]) == [1]


@pytest.mark.parametrize(("name", "penalty"), [("rotary", 1.5), ("translator", 0.0)])
def test_wide_beams_find_the_best_of_all_texts(name, penalty):
    length, eos = 2, 2
    n = net(name, scale=2.0)
    found = write(Beam(beams=V, length=length, length_penalty=penalty, eos=eos), name, {"tokens": TOKENS[:1]}, model=n)
    texts = np.asarray(list(itertools.product(range(V), range(V))), np.int32)
    given = np.tile(TOKENS[:1], (len(texts), 1))
    if reading.encodes(n):
        logits = whole(n, given, np.stack([np.zeros_like(texts[:, 0]), texts[:, 0]], 1))
    else:
        logits = whole(n, np.concatenate([given, texts[:, :1]], 1))[:, -2:]
    logp = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), texts[..., None], 2)[..., 0]
    scores = {tuple(map(int, text)): p.sum() / 2**penalty for text, p in zip(texts, logp) if text[0] != eos}
    scores[eos, eos] = logp[eos * V, 0]  # the end alone
    best = max(scores, key=scores.get)
    assert tuple(found["tokens"][0].tolist()) == best
    np.testing.assert_allclose(found["score"][0], scores[best], atol=1e-4)


def test_one_beam_is_greedy_and_more_are_never_worse():
    greedy = write(Sampler(temperature=0, length=8), "rotary", padded("left"))["tokens"]
    one, eight = (write(Beam(beams=beams, length=8), "rotary", padded("left")) for beams in (1, 8))
    np.testing.assert_array_equal(one["tokens"], greedy)
    assert (eight["score"] >= one["score"] - 1e-5).all()


@pytest.mark.parametrize("name", ["window", "translator"])
def test_a_draft_changes_no_greedy_word(name):
    greedy = write(Sampler(temperature=0, length=14, eos=3), name, padded("left"))["tokens"]
    decoder = Speculative(temperature=0, length=14, drafted=3, eos=3)
    other, itself = (write(decoder, name, padded("left"), draft=net(name, seed=seed)) for seed in (7, 1))
    np.testing.assert_array_equal(other["tokens"], greedy)
    np.testing.assert_array_equal(itself["tokens"], greedy)
    np.testing.assert_allclose(itself["accepted"], 1.0)
    assert (other["accepted"] < 1).all()


def test_a_draft_changes_no_distribution():
    rows, length = 3000, 2
    nets = {"model": net("rotary", scale=2.0), "draft": net("rotary", seed=7, scale=2.0)}
    batch = {"tokens": np.tile(TOKENS[:1, :3], (rows, 1))}
    how = {"temperature": 0.9, "top_k": 6}
    drawn = write(Speculative(length=length, drafted=2, **how), "rotary", batch, **nets)["tokens"]
    logits, cache = read(nets["model"], {"tokens": TOKENS[:1, :3]})
    first = jax.nn.softmax(_shaped(Choice(**how), logits))[0]
    second = 0.0
    for token in np.flatnonzero(np.asarray(first)):
        after = more(nets["model"], np.array([[token]], np.int32), cache)[0][:, -1]
        second = second + first[token] * jax.nn.softmax(_shaped(Choice(**how), after))[0]
    for at, expected in enumerate((first, second)):
        seen = np.bincount(np.asarray(drawn[:, at]), minlength=V) / rows
        np.testing.assert_allclose(seen, expected, atol=4 * np.sqrt(0.25 / rows))


def test_wrong_decoders_are_one_line():
    with pytest.raises(ConfigError, match="beams is 0"):
        Beam(beams=0)
    with pytest.raises(ConfigError, match="vocabulary has 24"):
        write(Beam(beams=25), "rotary", {"tokens": TOKENS})
    with pytest.raises(ConfigError, match="do not fit the model's 32 learned positions"):
        write(Sampler(length=30), "learned", {"tokens": TOKENS})
    with pytest.raises(ConfigError, match="cannot take tokens back"):
        write(Speculative(length=4), "lstm", {"tokens": TOKENS}, draft=net("lstm"))
    with pytest.raises(ConfigError, match="second net"):
        write(Speculative(length=4), "rotary", {"tokens": TOKENS})
    for kw in (dict(min_p=2.0), dict(repetition_penalty=0.0), dict(top_p=float("nan"))):
        with pytest.raises(ConfigError):
            Choice(**kw)
