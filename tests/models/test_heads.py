"""Heads: padding and what is packed behind change nothing, weights are the backbone's own, whatever the backbone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.core.errors import ConfigError
from fmjax.core.trees import addresses, count
from fmjax.models.heads import Classifier, TokenClassifier
from fmjax.models.rnn import LanguageModel
from fmjax.models.transformer import Decoder, Encoder, EncoderDecoder

KEY = jax.random.key(0)
TOKENS = jax.random.randint(KEY, (3, 8), 1, 20)
SEGMENTS = (jnp.arange(8) < jnp.array([[8], [5], [3]])).astype(jnp.int32)
TYPES = (jnp.arange(8) > 3).astype(jnp.int32)[None] * SEGMENTS
SMALL = dict(vocab=20, width=8, depth=1, heads=2)
BERT = dict(length=8, token_types=2, pairs=True, norm="layer", use_bias=True, embed_norm=True)
BARE = {Encoder: lambda x: x.clone(output="masked"), Decoder: lambda x: x, LanguageModel: lambda x: x}
HEADS = {
    "encoder": Classifier(Encoder(**SMALL, position="rotary"), 3, hidden=5),
    "pooler": Classifier(Encoder(**SMALL, **BERT), 3, pool="pooler"),
    "roberta": Classifier(Encoder(**SMALL, length=16, token_types=1, first_position=2), 3, pool="mean"),
    "decoder": Classifier(Decoder(**SMALL, tied=False), 3, pool="last"),
    "recurrent": Classifier(LanguageModel(20, width=8, depth=1, ngrams=(2,), buckets=16), 3, pool="max"),
    "tags": TokenClassifier(Encoder(**SMALL, **BERT), 3),
    "tags of a decoder": TokenClassifier(Decoder(**SMALL), 3),
    "tags of a recurrent": TokenClassifier(LanguageModel(20, width=8, depth=1, tied=False), 3),
}


@pytest.fixture(scope="module", params=HEADS)
def head(request):
    model = HEADS[request.param]
    shapes = jax.eval_shape(model.init, KEY, TOKENS)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: jnp.asarray(0.4 * rng.normal(size=x.shape), jnp.float32), shapes)
    apply = jax.jit(lambda tokens, segments=SEGMENTS, types=TYPES: model.apply(
        variables, tokens, segment_ids=segments, token_types=types
    ))  # fmt: skip
    return model, variables, apply


def test_logits_have_a_row_for_each_row_or_token_and_padding_changes_nothing(head):
    model, _, apply = head
    out = apply(TOKENS)
    assert out.shape == ((3, 3) if isinstance(model, Classifier) else (3, 8, 3))
    other = apply(jnp.where(SEGMENTS == 0, 7, TOKENS))
    real = np.asarray(SEGMENTS) > 0 if out.ndim == 3 else slice(None)
    np.testing.assert_array_equal(np.asarray(out)[real], np.asarray(other)[real])
    assert not np.allclose(out, apply(TOKENS.at[:, 1].add(1) % 20))


def test_sentence_types_reach_a_backbone_that_knows_two(head):
    model, _, apply = head
    same = np.allclose(apply(TOKENS), apply(TOKENS, types=jnp.zeros_like(TYPES)))
    assert same == (getattr(model.backbone, "token_types", 0) < 2)


def test_the_weights_are_those_of_the_backbone_alone_and_a_head(head):
    model, variables, _ = head
    own = variables["params"]["backbone"]
    alone = jax.eval_shape(BARE[type(model.backbone)](model.backbone).init, KEY, TOKENS)["params"]
    needed = jax.eval_shape(lambda: model.backbone.init(KEY, TOKENS, method="hidden"))["params"]
    pooler = {"pooler/kernel", "pooler/bias"} if getattr(model, "pool", "") == "pooler" else set()
    assert set(addresses(own)) == set(addresses(needed)) | pooler
    assert set(addresses(own)) < set(addresses(alone)) | {"a head"}
    assert "head_bias" not in own
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.shape, b.shape), own, {key: alone[key] for key in own})
    assert variables["params"].keys() <= {"backbone", "head", "dense"}


def test_the_logits_of_tokens_are_a_linear_map_of_the_backbones_hidden_states():
    model = HEADS["tags"]
    types = {"segment_ids": SEGMENTS, "token_types": TYPES}

    @jax.jit
    def both():
        variables = model.init(KEY, TOKENS)
        backbone, head = (variables["params"][key] for key in ("backbone", "head"))
        hidden = model.backbone.apply({"params": backbone}, TOKENS, method="hidden", **types)
        return model.apply(variables, TOKENS, **types), hidden @ head["kernel"] + head["bias"]

    np.testing.assert_allclose(*both(), atol=2e-5)


@pytest.mark.parametrize("name", ["encoder", "tags"])
def test_dropout_of_a_head_acts_in_training_only(name):
    model = HEADS[name].clone(dropout=0.5)

    @jax.jit
    def drop(key):
        variables = model.init(KEY, TOKENS)
        trained = model.apply(variables, TOKENS, train=True, rngs={"dropout": key})
        return trained, model.apply(variables, TOKENS)  # which needs no key

    one, two = drop(jax.random.key(1)), drop(jax.random.key(2))
    assert not np.allclose(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])


def test_flops_leave_the_vocabulary_out():
    one = 2 * 3 * 8 * 8 * 3  # a linear layer of three classes over each of (3, 8) tokens of width 8
    for backbone in (Encoder(**SMALL), Decoder(**SMALL), LanguageModel(20, width=8, depth=1)):
        wide = backbone.clone(vocab=1000)
        flops = TokenClassifier(backbone, 3).flops({"tokens": (3, 8)})
        assert flops == TokenClassifier(wide, 3).flops({"tokens": (3, 8)}) > one
        assert Classifier(backbone, 3, pool="last").flops({"tokens": (3, 8)}) == flops - one + 2 * 3 * 8 * 3
    plain = Encoder(**SMALL, output="none")
    assert TokenClassifier(plain, 3).flops({"tokens": (3, 8)}) == plain.flops({"tokens": (3, 8)}) + one
    assert count(jax.eval_shape(Classifier(plain, 3).init, KEY, TOKENS)["params"]["head"]) == 8 * 3 + 3


def test_a_head_knows_the_vocabulary_and_the_coupling_of_its_backbone():
    experts = Decoder(**SMALL, experts=2)
    assert (TokenClassifier(experts, 3).vocab, TokenClassifier(experts, 3).couples_batch) == (20, True)
    assert not TokenClassifier(Decoder(**SMALL), 3).couples_batch


@pytest.mark.parametrize(("model", "says"), [
    (Classifier(Encoder(**SMALL), 2, pool="frist"), "did you mean 'first'"),
    (Classifier(EncoderDecoder(**SMALL), 2, pool="mean"), "a EncoderDecoder reads two"),
    (Classifier(Decoder(**SMALL), 2), "reads from left to right has seen one token: use 'last'"),
    (Classifier(Encoder(**SMALL), 2, pool="pooler"), "an Encoder with pairs=True"),
])  # fmt: skip
def test_wrong_options_are_one_line(model, says):
    with pytest.raises(ConfigError, match=says):
        jax.eval_shape(model.init, KEY, TOKENS)
