"""The tokenizer of a run: saved with it, and no other one continues, evaluates or generates."""

import json
import shutil

import pytest
from ml_collections import ConfigDict

from fmjax import generate, run_tokenizer
from fmjax.assembly import assemble, prepare
from fmjax.core.config import call
from fmjax.core.errors import CheckpointError, ConfigError, DataError
from fmjax.data import corpora, pipeline, text, tokenizers
from fmjax.data.sources import Mixture
from fmjax.data.splits import Subset
from fmjax.evals import evaluators, metrics
from fmjax.models import transformer
from fmjax.objectives import language
from fmjax.optim import optimizers
from fmjax.run import Run, fit
from fmjax.training.checkpoint import Policy
from fmjax.training.policies import Log

WORDS = "some words and more of the same words\n" * 20


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    (folder / "a.txt").write_text(WORDS)
    tokenizers.characters([WORDS]).save(folder / "tokenizer")
    tokenizers.Characters("".join(set(WORDS)) + "X").save(folder / "another")
    return folder


def config(here, vocab=32, tokenizer="tokenizer"):
    made = ConfigDict({"seed": 0, "steps": 2})
    made.model = call(transformer.Decoder, vocab=vocab, width=8, depth=1, heads=1)
    made.objective = call(language.NextToken)
    made.optimizer = call(optimizers.sgd, rate=0.1)
    corpus = call(corpora.TextFiles, paths=str(here / "a.txt"))

    def windows(name, stride):
        loaded = call(tokenizers.load, path=str(here / name))
        return call(text.Windows, corpus=corpus, tokenizer=loaded, length=8, stride=stride)

    made.data = call(pipeline.stream, source=windows(tokenizer, 1), batch_size=4, threads=0)
    held_out = call(pipeline.one_pass, source=windows("tokenizer", None), batch_size=4, limit=4)
    made.evals = {"validation": call(evaluators.average, data=held_out, metrics={"loss": metrics.loss})}
    made.checkpoint = call(Policy, every=2)
    made.log = call(Log, every=1, tensorboard=False, progress=False)
    return made


@pytest.fixture(scope="module")
def run(here):
    return fit(config(here), workdir=here / "run")


def test_it_lies_in_the_folder_and_in_the_manifest(here, run):
    kept = tokenizers.load(str(run.folder / "tokenizer"))
    assert kept.fingerprint == tokenizers.load(str(here / "tokenizer")).fingerprint
    manifest = json.loads((run.folder / "checkpoints" / "2" / "manifest.json").read_text())
    assert manifest["tokenizer"] == kept.fingerprint
    assert Run.load(run.folder).step == 2


@pytest.fixture
def swapped(here, run):
    """The file that the config names holds another tokenizer, until the test is over."""
    shutil.move(here / "tokenizer", here / "first")
    shutil.copytree(here / "another", here / "tokenizer")
    yield run.folder
    shutil.rmtree(here / "tokenizer")
    shutil.move(here / "first", here / "tokenizer")


def test_another_tokenizer_is_refused_and_the_kept_one_stays(here, swapped):
    kept = tokenizers.load(str(swapped / "tokenizer")).fingerprint
    for start in (
        lambda: fit(config(here), workdir=swapped),
        lambda: Run.load(swapped),
    ):
        with pytest.raises(CheckpointError, match=r"tokenizer.* is another one than the data's") as caught:
            start()
        assert "\n" not in str(caught.value)
    assert tokenizers.load(str(swapped / "tokenizer")).fingerprint == kept


def test_a_folder_whose_tokenizer_was_replaced_is_refused(here, run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    tokenizers.load(str(here / "another")).save(folder / "tokenizer")
    for start in (
        lambda: fit(config(here), workdir=folder),
        lambda: Run.load(folder),
        lambda: generate.main([f"--workdir={folder}", "--prompt=so", "--length=2"]),
    ):
        with pytest.raises(CheckpointError, match="is another one than the"):
            start()
    file = folder / "tokenizer" / tokenizers.FILE
    file.write_text(file.read_text().replace("X", "Y"))
    with pytest.raises(DataError, match="its fingerprint differs"):
        Run.load(folder)
    shutil.rmtree(folder / "tokenizer")
    assert Run.load(folder).step == 2  # as a run from before tokenizers were kept


def test_a_manifest_of_another_tokenizer_is_refused(here, run, tmp_path):
    source = run.parts.data.source
    with pytest.raises(CheckpointError, match="the tokenizer of the checkpoint"):
        run_tokenizer.agree(tmp_path, source, {"tokenizer": "0" * 32})
    run_tokenizer.agree(tmp_path, source, {})


def test_a_model_with_too_few_ids_is_refused_before_the_first_step(here):
    vocab = tokenizers.load(str(here / "tokenizer")).vocab
    with pytest.raises(ConfigError, match=rf"--config.model.vocab=5: the data has {vocab} token ids; set .*={vocab}"):
        assemble(prepare(config(here, vocab=5))[0])
    # also where no batch happens to hold one of the ids that are missing
    with pytest.raises(ConfigError, match=f"vocab={vocab - 1}"):
        assemble(prepare(config(here, vocab=vocab - 1))[0])


def test_an_evaluator_in_other_tokens_is_refused(here):
    with pytest.raises(ConfigError, match=r"config.evals.validation: its tokenizer .* another one than the training"):
        assemble(prepare(config(here, tokenizer="another"))[0])


def test_it_is_found_through_mixtures_and_parts(here):
    corpus = corpora.TextFiles(str(here / "a.txt"))
    one, two = (text.Windows(corpus, tokenizers.load(str(here / n)), 8, stride=1) for n in ("tokenizer", "another"))
    assert run_tokenizer.of(Mixture((one, Subset(one, 0, 9)), (1.0, 1.0)))["tokenizer"] is one.tokenizer
    assert run_tokenizer.of(None) == {}
    with pytest.raises(DataError, match="different tokenizers"):
        run_tokenizer.of(Mixture((one, two), (1.0, 1.0)))
