"""Starting from weights: the same at the same addresses, heads fresh, everything else refused by name."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from fmjax import fit, pretrained, starts
from fmjax.assembly import assemble, complete, flops_per_step
from fmjax.core import trees
from fmjax.core.config import build, call
from fmjax.core.errors import CheckpointError, ConfigError
from fmjax.data import corpora, pipeline, text, tokenizers
from fmjax.models import transformer
from fmjax.objectives import distillation, language
from fmjax.optim import optimizers
from fmjax.training.policies import Log

GOLDEN = Path(__file__).parent / "interop" / "goldens"


def config_of(tmp_path, vocab=257, depth=1, tokenizer=None, **more):
    """A tiny language model of bytes on a little text."""
    words = tmp_path / "words.txt"
    words.write_text("the cat sat on the mat and the dog sat on the log. " * 40)
    config = ConfigDict({"seed": 0, "steps": 2})
    config.model = call(transformer.Decoder, vocab=vocab, width=16, depth=depth, heads=2)
    config.objective = call(language.NextToken)
    config.optimizer = call(optimizers.adamw, rate=1e-2)
    corpus = call(corpora.TextFiles, paths=str(words))
    rows = call(text.Windows, corpus=corpus, tokenizer=tokenizer or call(tokenizers.byte), length=16)
    config.data = call(pipeline.stream, source=rows, batch_size=4, threads=0)
    config.log = call(Log, every=1, tensorboard=False, progress=False)
    for key, value in more.items():
        config[key] = value
    return config


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """(folder, run) of a finished run."""
    folder = tmp_path_factory.mktemp("first")
    return folder, fit(config_of(folder), folder / "run", progress=False)


def test_a_run_starts_where_another_ended_and_says_so(first, tmp_path):
    folder, run = first
    init = call(pretrained.weights, path=str(folder / "run"))
    config = config_of(tmp_path, init=init)
    parts = fit(config, tmp_path / "second", progress=False).parts
    begun = parts.program.begin()
    for name, x in trees.flatten(run.state.params).items():
        np.testing.assert_array_equal(trees.flatten(begun.params)[name], x)
    told = json.loads((tmp_path / "second" / "init.json").read_text())
    assert told["path"] == str(folder / "run")
    assert len(told["digest"]) == 32
    assert told["nets"]["model"]["loaded"] == len(trees.flatten(run.state.params["model"]))


def test_a_resumed_run_does_not_ask_for_the_weights_again(first, tmp_path):
    folder, _ = first
    moved = tmp_path / "moved"
    moved.symlink_to(folder / "run")
    config = config_of(tmp_path, init=call(pretrained.weights, path=str(moved)))
    fit(config.copy_and_resolve_references(), tmp_path / "run", progress=False)
    moved.unlink()
    assert fit(config.copy_and_resolve_references(), tmp_path / "run", progress=False).word == "finished"
    with pytest.raises(CheckpointError, match="there is no folder"):
        fit(config.copy_and_resolve_references(), tmp_path / "other", progress=False)


def test_a_model_a_tokenizer_and_weights_come_from_one_folder(first):
    folder, run = first
    found = pretrained.load(str(folder / "run"))
    assert found.module == run.parts.modules["model"]
    assert found.tokenizer.vocab == 257
    np.testing.assert_array_equal(found.params["embed"]["embedding"], run.state.params["model"]["embed"]["embedding"])
    assert build(pretrained.tokenizer(str(folder / "run"))).fingerprint == found.tokenizer.fingerprint
    described = pretrained.model(str(folder / "run"), dropout=0.25)
    assert described.dropout == 0.25
    assert described.width == 16
    with pytest.raises(ConfigError, match="did you mean 'dropout'"):
        pretrained.model(str(folder / "run"), dropuot=0.1)


def test_a_hugging_face_folder_is_one_too(tmp_path):
    golden = GOLDEN / "gpt2"
    described = pretrained.model(str(golden))
    found = pretrained.load(str(golden))
    assert found.module == build(described)
    init = pretrained.weights(path=str(golden))
    params = jax.eval_shape(found.module.init, jax.random.key(0), np.zeros((1, 4), np.int32))["params"]
    read = init.read({"model": params})["model"]
    assert read.keys() == trees.flatten(params).keys()


def test_weights_that_do_not_fit_are_listed(first, tmp_path):
    folder, _ = first
    path = str(folder / "run")
    deeper = config_of(tmp_path, depth=2, init=call(pretrained.weights, path=path))
    with pytest.raises(CheckpointError, match="it lacks model/block_1/attention"):
        fit(deeper, progress=False)
    wider = config_of(tmp_path, vocab=300, init=call(pretrained.weights, path=path))
    with pytest.raises(CheckpointError, match=r"embed/embedding is \(257, 16\) there and \(300, 16\) here"):
        fit(wider, progress=False)
    with pytest.raises(CheckpointError, match="has no checkpoint 7"):
        pretrained.load(path, 7)
    with pytest.raises(ConfigError, match="path is empty"):
        pretrained.weights("")


def test_a_file_of_arrays_under_other_names_is_enough_and_the_run_says_what_became_of_them(first, tmp_path, capsys):
    flat = trees.flatten(first[1].state.params["model"])
    theirs = {name.replace("block_0", "layers.0").replace("/", "."): np.asarray(x) for name, x in flat.items()}
    np.savez(tmp_path / "theirs.npz", **theirs, **{"rotary.table": np.ones(3)})
    renames = ((r"\.", "/"), ("^layers/", "block_"))
    init = call(pretrained.weights, path=str(tmp_path / "theirs.npz"), rename=renames, ignore=("^rotary/",))
    init.fresh, init.resize = ("block_1/",), True
    done = fit(config_of(tmp_path, depth=2, vocab=300, init=init), tmp_path / "run", progress=True)
    assert "given" not in vars(done.parts.program)  # the host's copy is let go
    begun = trees.flatten(done.parts.program.begin().params["model"])
    for name, x in flat.items():
        np.testing.assert_array_equal(begun[name][: len(x)], x, err_msg=name)
    told = json.loads((tmp_path / "run" / "init.json").read_text())["nets"]["model"]
    assert told["loaded"] == len(flat)
    assert told["resized"] == {"embed/embedding": "(257, 16) -> (300, 16)"}
    assert told["ignored"] == ["rotary/table"]
    assert {name.partition("/")[0] for name in told["fresh"]} == {"block_1"}
    said = capsys.readouterr().err
    assert f"init  model: {len(flat)} weights loaded" in said
    assert "resized 1: embed/embedding (257, 16) -> (300, 16)" in said
    assert said.index("init  model") < said.index("start from step 0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ignore": ("rotery/",)}, r"ignore: 'rotery/' matches no weight of .*theirs.npz; nearest: rotary/table"),
        ({"rename": (("lairs", "block"),)}, "rename: 'lairs' matches no weight of .*; nearest: "),
        ({"rename": ((".*/", "x"),)}, "rename: .* and .* would both be x"),
        ({}, "it has rotary/table, which have no place here; .*, or name in ignore what may be left out"),
    ],
)
def test_what_the_source_has_and_nobody_explains_is_refused(first, tmp_path, options, message):
    flat = trees.flatten(first[1].state.params["model"])
    np.savez(tmp_path / "theirs.npz", **flat, **{"rotary/table": np.ones(3)})
    with pytest.raises((CheckpointError, ConfigError), match=message):
        pretrained.weights(path=str(tmp_path / "theirs.npz"), **options).read({"model": trees.nested(flat)})


def test_a_pickle_is_refused_by_its_name():
    with pytest.raises(ConfigError, match="is a pickle"):
        pretrained.weights(path="model.pt")


def test_the_wrong_tokenizer_is_refused_unless_one_insists(first, tmp_path):
    folder, _ = first
    letters = call(tokenizers.characters, corpus=("abcdefghijklmnopqrstuvwxyz. \n",))
    init = call(pretrained.weights, path=str(folder / "run"))
    with pytest.raises(ConfigError, match="speak the byte of 257 ids"):
        fit(config_of(tmp_path, tokenizer=letters, init=init), progress=False)
    init.any_tokenizer = True
    fit(config_of(tmp_path, tokenizer=letters, init=init), progress=False)


def test_a_model_without_a_head_takes_what_a_head_stood_on(first, monkeypatch):
    folder, _ = first
    found = pretrained.load(str(folder / "run"))
    headed = {"backbone": found.params, "head": {"kernel": np.zeros((16, 2), np.float32)}}
    monkeypatch.setattr(pretrained, "load", lambda *_: pretrained.Pretrained(folder, found.module, headed, None))
    read = pretrained.weights(path=str(folder / "run")).read({"model": found.params})["model"]
    assert read.keys() == trees.flatten(found.params).keys()


def test_a_teacher_and_a_student_start_from_folders_of_their_own_in_the_same_tokens(first, tmp_path):
    folder, run = first
    path = str(folder / "run")
    student = call(pretrained.weights, path=path, nets=("model",), fresh=("block_1/",))
    teacher = call(pretrained.weights, path=path, nets=("teacher",))

    def config(**more):
        made = config_of(tmp_path, init=call(starts.several, starts=(student, teacher)), **more)
        made.models = {
            "model": call(transformer.Decoder, vocab=257, width=16, depth=2, heads=2),
            "teacher": pretrained.teacher(path),
        }
        made.objective = call(distillation.DistillTokens, of=made.objective)
        del made.model
        return assemble(complete(made)).program

    program = config()
    assert program.given.keys() == {"model", "teacher"}
    for name, x in trees.flatten(run.state.params["model"]).items():
        np.testing.assert_array_equal(program.given["teacher"][name], x)
    assert "divergence" in program.metric_names
    shapes = {"tokens": (4, 17)}
    forward = {name: module.flops(shapes) for name, module in program.modules.items()}
    assert flops_per_step(program) == 3 * forward["model"] + forward["teacher"]
    with pytest.raises(ConfigError, match="speak the byte of 257 ids"):
        config(tokenizer=call(tokenizers.characters, corpus=("abcdefghijklmnopqrstuvwxyz. \n",)))
