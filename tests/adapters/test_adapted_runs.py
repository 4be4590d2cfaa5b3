"""`config.adapt` in a run: what is saved, resumed, loaded, started from and counted; any objective, any model."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from stand_ins import MLP, Crash, Distill, course, crash, records, same, tiny, tiny_language

from fmjax import adaptation, convert, fit, plan, pretrained
from fmjax.adapters import low_rank, parts
from fmjax.assembly import assemble, complete
from fmjax.core import trees
from fmjax.core.config import call
from fmjax.core.errors import CheckpointError, ConfigError
from fmjax.interop import hugging_face
from fmjax.optim import optimizers
from fmjax.run import Run
from fmjax.training import checkpoint_folder

KERNELS = ("(up|down)/kernel$",)


def adapted(steps=8, **options) -> ConfigDict:
    """The run of stand_ins.tiny (dropout, noise, microbatches, averages), adapted."""
    config = tiny(steps)
    config.adapt = call(low_rank.lora, **{"rank": 2, "targets": KERNELS, **options})
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fit(adapted(), tmp_path_factory.mktemp("adapted"), progress=False)


def test_a_run_resumes_as_if_it_had_not_stopped(run, tmp_path):
    with pytest.raises(Crash):
        fit(adapted(), tmp_path, hooks=[crash(6)])
    again = fit(adapted(), tmp_path, progress=False)
    same(again.state, run.state)
    assert course(tmp_path) == course(run.folder)


def test_only_what_moves_has_moments_and_is_saved_every_time(run):
    own = set(trees.addresses(run.state.params))
    assert {name.rpartition("/")[2] for name in own} == {"down", "up"}
    step = checkpoint_folder.read_manifest(run.folder / "checkpoints" / "8")["leaves"]
    assert {name for name in step if name.startswith("params/")} == {f"params/{name}" for name in own}
    assert not [name for name in step if name.startswith("frozen/")]
    [base] = (run.folder / "checkpoints" / "frozen").iterdir()
    assert checkpoint_folder.read_manifest(base)["leaves"].keys() == set(trees.addresses(run.state.frozen))
    begun = run.parts.program.begin()
    same(run.state.frozen, begun.frozen)  # not a bit of the base has moved
    moments = [x for x in jax.tree.leaves(run.state.opt_state) if x.ndim]
    assert sum(x.size for x in moments) == 2 * trees.count(run.state.params)


def test_the_folder_says_what_moves_and_what_it_costs(run):
    told = json.loads((run.folder / "adapt.json").read_text())
    assert told["trainable"] == trees.count(run.state.params)
    assert told["total"] == trees.count(run.state.frozen)
    assert told["optimizer_bytes"] == trees.nbytes(run.state.opt_state)
    assert all(name.endswith("kernel") for name in told["adapted"])
    [start] = records(run.folder, "start")
    assert (start["parameters"], start["frozen_parameters"]) == (told["trainable"], told["total"])
    page = plan.text(plan.make_plan(assemble(complete(adapted()))))
    assert f"{told['trainable']:,} parameters move" in page


def test_a_run_is_loaded_from_its_folder_alone_and_its_merged_weights_too(run):
    loaded = Run.load(run.folder)
    same(loaded.state, run.state)
    batch = run.parts.data.batch(0, seed=1)
    want = run.predict(batch)["logits"]
    np.testing.assert_array_equal(loaded.predict(batch)["logits"], want)
    merged = pretrained.load(str(run.folder))
    seen = merged.module.apply({"params": merged.params}, batch["features"])
    np.testing.assert_allclose(seen, want, rtol=1e-5, atol=1e-6)


def test_another_run_starts_from_the_merged_weights(run):
    config = tiny(2)
    config.init = call(pretrained.weights, path=str(run.folder))
    begun = assemble(complete(config)).program.begin()
    same(begun.params["model"], run.nets()["model"].params, tol=1e-6)


def test_what_the_start_did_not_fill_moves_too_and_a_resume_does_not_ask_for_the_start(run, tmp_path):
    start = tmp_path / "start"
    start.symlink_to(run.folder)
    config = tiny(2)
    config.model.out = 5
    config.data.transforms = ()
    config.init = call(pretrained.weights, path=str(start), fresh=("down/",))
    config.adapt = call(low_rank.lora, rank=2, targets=("up/kernel$",))
    first = fit(config.copy_and_resolve_references(), tmp_path / "run", progress=False)
    told = json.loads((tmp_path / "run" / "adapt.json").read_text())
    assert told["fresh"] == told["whole"] == ["model/down/bias", "model/down/kernel"]
    start.unlink()
    same(Run.load(tmp_path / "run").state, first.state)
    assert fit(config.copy_and_resolve_references(), tmp_path / "run", progress=False).word == "finished"
    with pytest.raises(CheckpointError):
        fit(config.copy_and_resolve_references(), tmp_path / "other", progress=False)


def test_full_is_the_run_without_an_adapter(tmp_path):
    config = tiny(4)
    config.adapt = call(parts.full)
    moved, plain = fit(config, progress=False), fit(tiny(4), progress=False)
    same(moved.state.params, plain.state.params)
    assert not trees.addresses(moved.state.frozen)


@pytest.mark.parametrize(
    ("adapt", "message"),
    [
        (call(low_rank.lora, targets=("upp/kernel$",)), r"--config.adapt: targets: 'upp/kernel\$' matches no matrix"),
        (call(low_rank.lora, rank=7, targets=KERNELS), "--config.adapt: rank=7 is above that of"),
        (call(tiny), "--config.adapt gives a ConfigDict: name a factory of fmjax/adapters"),
    ],
)
def test_a_wrong_adapter_is_one_line_before_anything_is_written(tmp_path, adapt, message):
    config = tiny(2)
    config.adapt = adapt
    with pytest.raises(ConfigError, match=message):
        fit(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "config.json").exists()


def test_an_adapted_model_of_transformers_is_written_as_an_adapter_and_as_a_model(tmp_path):
    base = str(Path(__file__).parents[1] / "interop" / "goldens" / "gpt2")
    config = tiny_language(1)
    config.model = pretrained.model(base)
    config.init = call(pretrained.weights, path=base)
    config.adapt = call(low_rank.lora, rank=2)
    config.optimizer = call(optimizers.adamw, rate=1e-2)
    config.accumulation.steps, config.ema, config.evals = 1, None, {}
    done = fit(config, tmp_path / "run", progress=False)
    want = trees.flatten(done.nets()["model"].params)
    for name, flags in (("adapter", ["--adapter"]), ("whole", [])):
        assert convert.main([f"--source={tmp_path / 'run'}", f"--out={tmp_path / name}", *flags]) == 0
        for address, x in trees.flatten(hugging_face.load(tmp_path / name)[1]).items():
            np.testing.assert_allclose(x, want[address], rtol=1e-5, atol=1e-6, err_msg=f"{name} {address}")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == base


def test_adapters_swap_on_one_base(run, tmp_path):
    """Another alpha is another scale: what is swapped in says what it says at home."""
    second = fit(adapted(4, alpha=4.0), tmp_path / "second", progress=False)
    batch = run.parts.data.batch(0, seed=1)
    swapped = run.swapped(second.folder)
    np.testing.assert_allclose(swapped.predict(batch)["logits"], second.predict(batch)["logits"], rtol=1e-5, atol=1e-6)
    assert not np.allclose(run.predict(batch)["logits"], second.predict(batch)["logits"], atol=1e-4)
    same(run.swapped(run.folder).state, run.state)


def test_an_adapter_of_another_base_or_shape_is_refused(run, tmp_path):
    other = adapted(2)
    other.seed = 4
    with pytest.raises(CheckpointError, match="is an adapter for another base"):
        run.swapped(fit(other, tmp_path / "base", progress=False).folder)
    with pytest.raises(CheckpointError, match=r"adapts other weights, or by another rank: .*; load it by itself"):
        run.swapped(fit(adapted(2, rank=1), tmp_path / "rank", progress=False).folder)


def test_a_teacher_is_no_part_of_what_is_adapted():
    config = adapted()
    config.objective = call(Distill)
    config.models = {"model": call(MLP), "teacher": call(MLP, width=5)}
    del config.model
    config.evals = {}
    program = assemble(complete(config)).program
    assert program.abstract.params.keys() == {"model"}
    assert program.abstract.frozen["teacher"]["up"]["kernel"].shape == (6, 5)
    assert adaptation.summary(program)["total"] == trees.count(program.abstract.frozen["model"])
    config.adapt.nets = ("teacher",)
    with pytest.raises(ConfigError, match="there is no net 'teacher' that learns"):
        assemble(complete(config))
