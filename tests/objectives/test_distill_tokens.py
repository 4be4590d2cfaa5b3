"""Distillation of language models: the teacher is heard at every target that counts, and at no other."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax
from token_nets import Small, net_of

from fmjax.core.errors import ConfigError
from fmjax.objectives.distillation import Distill, DistillTokens
from fmjax.objectives.language import NextToken
from fmjax.objectives.masked import MaskedTokens
from fmjax.objectives.sequence import SequenceToSequence

RNG = np.random.default_rng(0)
B, T, V = 4, 7, 11
STUDENT, TEACHER = Small(V, width=6, causal=True), Small(V, width=9, causal=True)
TOKENS = RNG.integers(0, V, (B, T + 1)).astype(np.int32)
SEGMENTS = np.where(np.arange(T + 1) < 3, 1, np.where(np.arange(T + 1) < 6, 2, 0)) + np.zeros((B, 1), np.int32)
VALID = np.array([1, 1, 1, 0], np.float32)
BATCHES = {
    NextToken: {"tokens": TOKENS, "segment_ids": SEGMENTS, "valid": VALID},
    SequenceToSequence: {"tokens": TOKENS, "targets": TOKENS[:, :5], "target_segment_ids": SEGMENTS[:, :5]}
    | {"segment_ids": SEGMENTS, "valid": VALID},
    MaskedTokens: {"tokens": TOKENS, "targets": TOKENS[::-1], "weights": (SEGMENTS == 2) * 0.5, "valid": VALID},
}


def measured(objectives, batch, student=STUDENT, teacher=TEACHER, same=False):
    """[((loss, (weight, metrics)), gradient)] of each objective and both nets' logits, in one program."""
    inputs = objectives[0].inputs({k: jnp.asarray(v) for k, v in batch.items()})

    @jax.jit
    def run():
        mine = student.init(jax.random.key(0), *inputs["model"])["params"]
        theirs = mine if same else teacher.init(jax.random.key(1), *inputs["teacher"])["params"]

        def lost(params, objective):
            nets = {"model": net_of(student, params, train=False), "teacher": net_of(teacher, theirs, train=False)}
            loss, metrics = objective.loss("model", nets, batch, {}, jax.random.key(2))
            return loss.sum, (loss.weight, metrics)

        reading = objectives[0].of.read({k: jnp.asarray(v) for k, v in batch.items()})
        said = [
            model.apply({"params": params}, *reading.tokens, **reading.context)
            for model, params in ((student, mine), (teacher, theirs))
        ]
        grad = jax.value_and_grad(lost, has_aux=True)
        return [grad(mine, objective) for objective in objectives], said, reading.targets, reading.weights

    return jax.device_get(run())


@pytest.mark.parametrize("kind", [NextToken, SequenceToSequence], ids=lambda kind: kind.__name__)
def test_the_loss_is_that_of_labels_and_of_the_teacher_over_targets_that_count(kind):
    of, share, hot = kind(), 0.3, 2.5
    batch = BATCHES[kind]
    objectives = [DistillTokens(of, share=share, temperature=hot)]
    if kind is NextToken:
        objectives.append(DistillTokens(dataclasses.replace(of, chunk=3), share=share, temperature=hot))
    found, logits, targets, counts = measured(objectives, batch)
    (total, (weight, metrics)), slope = found[0]
    own = -np.take_along_axis(log_softmax(logits[0], -1), targets[..., None], -1)[..., 0]
    q, p = (log_softmax(x / hot, -1) for x in logits)
    apart = hot**2 * (np.exp(p) * (p - q)).sum(-1)
    assert 0 < counts.sum() < counts.size
    np.testing.assert_allclose(weight, counts.sum(), rtol=1e-6)
    np.testing.assert_allclose(metrics["divergence"].sum, (apart * counts).sum(), rtol=1e-4)
    np.testing.assert_allclose(total, (((1 - share) * own + share * apart) * counts).sum(), rtol=1e-4)
    for (other, _), other_slope in found[1:]:
        np.testing.assert_allclose(other, total, rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), other_slope, slope)


def test_a_student_that_agrees_has_nothing_to_learn():
    objective = DistillTokens(NextToken(), share=1.0)
    [((total, _), slope)], *_ = measured([objective], BATCHES[NextToken], teacher=STUDENT, same=True)
    assert abs(total) < 1e-5
    jax.tree.map(lambda g: np.testing.assert_allclose(g, 0, atol=1e-5), slope)


def test_what_cannot_teach_is_refused():
    with pytest.raises(ConfigError, match="the student gives 11 logits and the teacher 12"):
        measured([DistillTokens(NextToken())], BATCHES[NextToken], teacher=Small(V + 1))
    with pytest.raises(ConfigError, match="wraps an objective over tokens"):
        DistillTokens(Distill())
    with pytest.raises(ConfigError, match="nothing about pairs"):
        measured([DistillTokens(MaskedTokens())], {**BATCHES[MaskedTokens], "label": np.zeros(B, np.int32)})
    with pytest.raises(ConfigError, match="average is a decay"):
        DistillTokens(NextToken(), average=1.0)
