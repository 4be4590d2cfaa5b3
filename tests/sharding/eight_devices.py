"""Run by test_on_eight_devices.py in a process that has eight: what one device gives, eight give."""

import os
import shutil
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from safetensors.numpy import save_file
from stand_ins import BATCH, CASES, leaves, optimizer, records, tiny

from fmjax import pretrained
from fmjax.core.errors import ConfigError
from fmjax.core.nets import Net
from fmjax.core.trees import flatten
from fmjax.decoding.sampling import Sampler
from fmjax.models.rnn import LanguageModel
from fmjax.models.transformer import Decoder, Encoder, EncoderDecoder
from fmjax.nn.experts import MixtureOfExperts
from fmjax.objectives.language import NextToken
from fmjax.objectives.masked import MaskedTokens
from fmjax.objectives.sequence import SequenceToSequence
from fmjax.optim import optimizers
from fmjax.run import Run, fit
from fmjax.sharding.mesh import make_mesh, replicated, row_sharding
from fmjax.sharding.rules import shard_params
from fmjax.training.checkpoint import Checkpoints
from fmjax.training.program import Accumulation, Program

EIGHT = {"data": 4, "fsdp": 2}


def program(mesh, name, **kw):
    objective = CASES[name]["objective"]
    # Gradient descent: the bias before batch norm has no gradient but rounding, which Adam would blow up.
    txs = {p.name: optimizer(optax.sgd(0.05)) for p in objective.players}
    mesh = make_mesh(mesh, jax.devices()[: np.prod(list(mesh.values()))])
    return Program(**CASES[name], optimizers=txs, mesh=mesh, example=BATCH, sharding="fsdp", ema=0.9, **kw)


def train(p, steps):
    state, batch, compiled, losses = p.begin(), p.put(p.example), p.compile(), []
    for _ in range(steps):
        state, packed = compiled(state, batch)
        losses.append(compiled.unpack(jax.device_get(packed)))
    return state, losses


def close(a, b, tol):
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tol, atol=tol)


def test_there_are_eight():
    assert jax.device_count() == 8


@pytest.mark.parametrize("name", CASES)
def test_every_objective_is_the_same_on_eight_devices(name):
    one, a = train(program({"data": 1}, name), 4)
    eight, b = train(program(EIGHT, name), 4)
    assert [m.keys() for m in a] == [m.keys() for m in b]
    for m, n in zip(a, b):
        assert n == pytest.approx(m, rel=2e-4, abs=2e-5)
    close(one, eight, 2e-4)


def test_accumulation_on_eight_devices_is_the_same():
    one, _ = train(program({"data": 1}, "distill"), 3)
    eight, _ = train(program(EIGHT, "distill", accumulation=Accumulation(2)), 3)
    close(one, eight, 2e-4)


ROWS = {"tokens": (np.arange(8)[:, None] + np.arange(9)).astype(np.int32) % 32, "valid": np.ones(8, np.float32)}
SMALL = dict(vocab=32, width=32, depth=1, heads=4)


def decoder(mesh, recipe, model=None, objective=None, seed=0, initial=None, **more):
    return Program(
        modules={"model": model or Decoder(**SMALL)},
        objective=objective or NextToken(),
        optimizers={"model": optimizers.adamw(rate=1e-2)},
        mesh=make_mesh(mesh, jax.devices()[: np.prod(list(mesh.values()))]),
        example={**ROWS, **more},
        sharding=recipe,
        ema=0.9,
        clip=1.0,
        seed=seed,
        initial=initial,
    )


@pytest.fixture(scope="module")
def on_one():
    return train(decoder({"data": 1}, "replicate"), 3)


@pytest.mark.parametrize(("mesh", "recipe"), [
    pytest.param(EIGHT, "fsdp", marks=pytest.mark.nightly),
    pytest.param({"data": 2, "tensor": 4}, "tensor", marks=pytest.mark.nightly),
    ({"data": 2, "fsdp": 2, "tensor": 2}, "fsdp_tensor"),
    pytest.param({"data": 8}, "replicate", marks=pytest.mark.nightly),
], ids=["fsdp", "tensor", "fsdp_tensor", "replicate"])  # fmt: skip
def test_a_decoder_learns_the_same_wherever_its_weights_lie(on_one, mesh, recipe):
    p = decoder(mesh, recipe)
    state, losses = train(p, 3)
    for m, n in zip(on_one[1], losses):
        assert n == pytest.approx(m, rel=1e-3, abs=1e-5)
    close(state.params, on_one[0].params, 1e-3)
    for want, x in zip(jax.tree.leaves(p.shardings), jax.tree.leaves(state), strict=True):
        assert x.sharding.is_equivalent_to(want, x.ndim)


class Parts:
    """An array that notes how much of it is asked for at a time."""

    def __init__(self, x):
        self.x, self.shape, self.dtype, self.asked = x, x.shape, x.dtype, []

    def __getitem__(self, index):
        self.asked.append(self.x[index].size)
        return self.x[index]


class Given:
    """Weights to start from, for Program.initial."""

    def __init__(self, flat):
        self.flat = {name: Parts(x) for name, x in flat.items()}

    def read(self, params):
        return {"model": self.flat}


def test_weights_from_a_file_are_read_in_parts_and_learn_the_same_wherever_they_lie(tmp_path):
    other = flatten(decoder({"data": 1}, "replicate", seed=5).begin().params["model"])
    save_file({name: np.asarray(x) for name, x in other.items()}, tmp_path / "w.safetensors")
    initial = pretrained.weights(path=str(tmp_path / "w.safetensors"))
    states = {}
    for recipe, mesh in (("replicate", {"data": 1}), ("fsdp_tensor", {"data": 2, "fsdp": 2, "tensor": 2})):
        p = decoder(mesh, recipe, initial=initial)
        begun = p.begin()
        for name, x in flatten(begun.params["model"]).items():
            np.testing.assert_array_equal(x, other[name], err_msg=name)
        close(begun.params, begun.ema, 0)
        states[recipe] = train(p, 3)[0]
    close(states["fsdp_tensor"].params, states["replicate"].params, 1e-3)
    given = Given(other)
    p = decoder({"data": 2, "fsdp": 2, "tensor": 2}, "fsdp_tensor", initial=given)
    p.begin()
    for name, x in given.flat.items():
        split = p.shardings.params["model"]
        for word in name.split("/"):
            split = split[word]
        assert set(x.asked) == {np.prod(split.shard_shape(x.shape))}, name
    assert max(given.flat["block_0/feed_forward/up/kernel"].asked) == 32 * 128 // 4


@pytest.mark.parametrize("dispatch", ["dense", "ragged", "buffers"])
def test_experts_on_eight_devices_give_what_one_gives(dispatch):
    model = MixtureOfExperts(4, 64, capacity=1.0 if dispatch == "buffers" else None, use_bias=True, dispatch=dispatch)
    x = jax.random.normal(jax.random.key(0), (8, 16, 32))

    def gradient(params, x):
        def loss(params):
            out, seen = model.apply(params, x, train=True, mutable=["losses"])
            return (out**2).mean() + sum(jax.tree.leaves(seen))

        return jax.value_and_grad(loss)(params)

    params = jax.jit(model.init)(jax.random.key(1), x)
    mesh = make_mesh({"data": 2, "expert": 4})
    places = shard_params(params, mesh, "expert")
    split = jax.jit(gradient, in_shardings=(places, row_sharding(mesh)), out_shardings=(replicated(mesh), places))
    one, eight = jax.jit(gradient)(params, x), split(params, x)
    assert eight[1]["params"]["experts"]["up"]["kernel"].addressable_shards[0].data.shape == (1, 32, 64)
    close(one, eight, 1e-5)


HALVES = np.repeat([[1] * 5 + [2] * 4], 8, 0).astype(np.int32)  # two documents a row
ASKED = {"targets": ROWS["tokens"], "weights": np.tri(8, 9, dtype=np.float32), "segment_ids": HALVES}
FAMILIES = {
    "encoder": (Encoder(**SMALL, length=16, scan=True), MaskedTokens(most=9), ASKED, "tensor"),
    "encoder-decoder": (
        EncoderDecoder(**SMALL, position="relative", experts=2), SequenceToSequence(chunk=16),
        {**ASKED, "target_segment_ids": HALVES}, "fsdp_tensor",
    ),
    "recurrent": (LanguageModel(vocab=32, width=32, depth=1), NextToken(), {"segment_ids": HALVES}, "fsdp"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_every_language_family_learns_the_same_on_eight_devices(name):
    model, objective, more, recipe = FAMILIES[name]
    one, a = train(decoder({"data": 1}, "replicate", model, objective, **more), 2)
    eight, b = train(decoder({"data": 2, "fsdp": 2, "tensor": 2}, recipe, model, objective, **more), 2)
    for m, n in zip(a, b):
        assert n == pytest.approx(m, rel=1e-3, abs=1e-5)
    close(eight.params, one.params, 1e-3)


def test_a_split_model_writes_the_same_and_its_cache_is_split_too():
    model = Decoder(**{**SMALL, "heads": 4}, window=4, full_every=2)
    prompts = {"tokens": ROWS["tokens"][:, :6], "segment_ids": np.tri(8, 6, dtype=np.int32)[:, ::-1] + 1}
    params = jax.tree.map(lambda x: 4 * x, jax.jit(model.init)(jax.random.key(0), prompts["tokens"])["params"])
    sampler = Sampler(temperature=0, length=10)
    begin = jax.jit(lambda params, batch: sampler.begin({"model": Net(model, params)}, batch))
    more = jax.jit(lambda params, state: sampler.more({"model": Net(model, params)}, state, 10))
    whole = more(params, begin(params, prompts))[1]
    mesh = make_mesh({"data": 2, "tensor": 4})
    placed = jax.device_put(params, shard_params({"model": params}, mesh, "tensor")["model"])
    state, split = more(placed, begin(placed, jax.device_put(prompts, row_sharding(mesh))))
    np.testing.assert_array_equal(split, whole)
    assert len(set(np.asarray(whole).ravel().tolist())) > 4
    for block in state["cache"]["blocks"]:
        key = block["own"]["key"]
        assert key.addressable_shards[0].data.size == key.size // 8  # rows over data, heads over tensor


def test_moments_and_averages_lie_where_their_weights_lie_and_memory_is_saved():
    state, _ = train(decoder(EIGHT, "fsdp"), 1)
    flat = flatten({"params": state.params, "ema": state.ema, "opt": state.opt_state})
    name = "model/block_0/feed_forward/up/kernel"
    found = [k for k in flat if k.endswith(name)]
    assert len(found) == 4  # weight, average, two moments
    for k in found:
        assert {s.data.size for s in flat[k].addressable_shards} == {flat[k].size // 2}, k


def test_a_state_saved_by_eight_is_restored_by_one(tmp_path):
    eight, one = program(EIGHT, "supervised"), program({"data": 1}, "supervised")
    state, _ = train(eight, 2)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state, {}, wait=True)
        again, _ = checkpoints.restore(one.abstract)
    for x, y in zip(leaves(state), leaves(again), strict=True):
        np.testing.assert_array_equal(x, y)


def test_rows_that_lie_on_every_device_give_the_run_of_rows_from_the_host():
    common = ["--config.data.transforms=()", "--config.accumulation.steps=1", "--config.mesh.fsdp=2"]
    streamed, resident = (
        fit(tiny(4), None, [*common, "--config.sharding=fsdp", f"--config.data.resident={resident}"])
        for resident in (False, True)
    )
    close(resident.state.params, streamed.state.params, 1e-5)


def test_a_run_begun_on_one_device_goes_on_on_eight(tmp_path):
    """The folder of the uninterrupted run, and that of a run stopped at step 4, come from the process with one."""
    home = Path(os.environ["ONE_DEVICE_RUNS"])
    shutil.copytree(home / "half", tmp_path / "half")
    run = fit(
        tiny(8),
        tmp_path / "half",
        ["--config.accumulation.steps=1", "--config.mesh.fsdp=2", "--config.sharding=fsdp", "--config.data.threads=2"],
    )
    assert (run.word, run.step) == ("finished", 8)
    assert dict(run.parts.program.mesh.shape)["data"] == 4
    there, here = records(home / "whole", "train"), records(tmp_path / "half", "train")
    assert [r["batch"] for r in here] == [r["batch"] for r in there]
    assert [r["loss"] for r in here] == pytest.approx([r["loss"] for r in there], rel=1e-3)
    whole = Run.load(home / "whole")
    close(run.state.params, whole.state.params, 5e-3)


@pytest.mark.parametrize(("overrides", "said"), [
    (["--config.mesh.data=3"], "data=3 does not make 8 devices"),
    (["--config.data.batch_size=12"], "a batch of 12 rows does not divide over 8 devices"),
    (["--config.accumulation.steps=2"], "a batch of 8 rows does not divide into 2 microbatches on 8 devices"),
    (["--config.accumulation.steps=1", "--config.evals.validation.data.batch_size=4"],
     "config.evals.validation: a batch of 4 rows does not divide over 8 devices"),
])  # fmt: skip
def test_what_does_not_divide_is_refused_before_step_0(overrides, said):
    with pytest.raises(ConfigError, match=said):
        fit(tiny(4), overrides=overrides)
