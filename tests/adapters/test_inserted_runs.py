"""A run whose layers are called through adapters: saved, resumed, swapped as others are, and never merged."""

import json
import shutil

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from stand_ins import Crash, course, crash, same, tiny, tiny_language

from fmjax import adaptation, convert, fit, pretrained
from fmjax.adapters import bottleneck, prefix
from fmjax.assembly import assemble, complete
from fmjax.core import trees
from fmjax.core.config import call
from fmjax.core.errors import CheckpointError, ConfigError
from fmjax.models import rnn
from fmjax.run import Run
from fmjax.training import checkpoint_folder


def adapted(**options) -> ConfigDict:
    """The run of stand_ins.tiny (dropout, noise, microbatches, averages), adapted."""
    config = tiny(8)
    config.adapt = call(bottleneck.houlsby, **{"size": 2, "targets": ("up/kernel$",), **options})
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


def test_only_the_small_layers_move_are_saved_and_are_counted(run):
    own = trees.flatten(run.state.params)
    assert {name.rpartition("/")[0] for name in own} == {"model/up/bottleneck"}
    step = checkpoint_folder.read_manifest(run.folder / "checkpoints" / "8")["leaves"]
    assert {name for name in step if name.startswith("params/")} == {f"params/{name}" for name in own}
    begun = run.parts.program.begin()
    same(run.state.frozen, begun.frozen)  # not a bit of the base has moved
    assert all(np.any(np.asarray(x) != y) for x, y in zip(own.values(), jax.tree.leaves(begun.params)))
    told = json.loads((run.folder / "adapt.json").read_text())
    assert told["trainable"] == trees.count(run.state.params) == 2 * 8 * 2 + 8 + 2
    assert told["total"] == trees.count(run.state.frozen)
    assert (told["adapted"], told["whole"]) == (["model/up/bottleneck"], [])
    assert told["optimizer_bytes"] == trees.nbytes(run.state.opt_state)


def test_a_run_is_loaded_from_its_folder_and_so_is_its_model(run):
    loaded, batch = Run.load(run.folder), run.parts.data.batch(0, seed=1)
    same(loaded.state, run.state)
    want = loaded.predict(batch)["logits"]
    found = pretrained.load(str(run.folder))
    np.testing.assert_allclose(found.module.apply({"params": found.params}, batch["features"]), want, rtol=1e-5)
    plain = {name: x for name, x in trees.flatten(found.params).items() if "bottleneck" not in name}
    same(trees.nested(plain), trees.nested(trees.flatten(run.state.frozen["model"])))


def test_adapters_swap_on_one_base(run, tmp_path):
    earlier, batch = Run.load(run.folder, step=4), run.parts.data.batch(0, seed=1)
    swapped = run.swapped(run.folder, step=4)
    np.testing.assert_array_equal(swapped.predict(batch)["logits"], earlier.predict(batch)["logits"])
    assert not np.allclose(swapped.predict(batch)["logits"], run.predict(batch)["logits"], atol=1e-4)
    other = shutil.copytree(run.folder, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    assert json.dumps(config).count('"gelu"') == 1
    (other / "config.json").write_text(json.dumps(config).replace('"gelu"', '"relu"'))
    with pytest.raises(CheckpointError, match=r"adapts in another way, .*relu.*gelu"):
        run.swapped(other)


def test_weights_that_are_not_there_are_not_given(run, tmp_path):
    config = tiny(2)
    config.init = call(pretrained.weights, path=str(run.folder))
    with pytest.raises(CheckpointError, match="there are no merged weights to start from: generate from it"):
        fit(config, progress=False)
    with pytest.raises(CheckpointError, match="there are no merged weights to convert"):
        convert.main([f"--source={run.folder}", f"--out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


def test_a_kernel_that_another_layer_uses_is_refused():
    config = tiny_language()
    config.model = call(rnn.LanguageModel, vocab=16, width=16, depth=1)
    config.adapt = call(bottleneck.houlsby, targets=("/recurrent/kernel$",))
    with pytest.raises(ConfigError, match=r"targets: a bottleneck has no effect in model/block_0/lstm/recurrent"):
        assemble(complete(config))


def test_a_prefix_is_counted_like_any_adapter():
    config = tiny_language()
    config.adapt = call(prefix.prefix, length=3)
    told = adaptation.summary(assemble(complete(config)).program)
    assert told["adapted"] == ["model/block_0/attention/prefix"]
    assert told["trainable"] == 2 * 3 * 16 + 2  # keys and values of 2 heads of 8, and a gate for each
