"""`python -m fmjax.convert`: a run, or a folder, becomes a folder that says the same; the tokenizer goes with it."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from fmjax import convert, convert_tokenizer
from fmjax.core.config import build, call
from fmjax.core.errors import CheckpointError, ConfigError
from fmjax.data import corpora, pipeline, text, tokenizers
from fmjax.interop import hugging_face, tensors
from fmjax.models import bert, gpt2, llama
from fmjax.objectives import language
from fmjax.optim import optimizers
from fmjax.run import fit
from fmjax.training.checkpoint import Policy
from fmjax.training.policies import Log

sys.path.insert(0, str(Path(__file__).parent / "interop"))
from tiny_models import equal, weights

WORDS = "some words and more of the same words, cafe\u0301\n" * 20


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("convert")
    (folder / "a.txt").write_text(WORDS)
    config = ConfigDict({"seed": 0, "steps": 2})
    config.model = call(llama.llama, vocab=264, width=8, depth=1, heads=1, inner=8, length=64, dropout=0.1)
    config.objective = call(language.NextToken)
    config.optimizer = call(optimizers.sgd, rate=0.1)
    corpus = call(corpora.TextFiles, paths=str(folder / "a.txt"))
    byte = call(tokenizers.with_specials, tokenizer=call(tokenizers.byte), names=("pad", "bos"))
    source = call(text.Windows, corpus=corpus, tokenizer=byte, length=8, stride=1)
    config.data = call(pipeline.stream, source=source, batch_size=4, threads=0)
    config.checkpoint = call(Policy, every=1, keep=5)
    config.log = call(Log, every=1, tensorboard=False, progress=False)
    return fit(config, workdir=folder / "run")


def test_a_run_becomes_a_folder_with_its_tokenizer(run, tmp_path, capsys):
    out = tmp_path / "deep" / "out"
    assert convert.main([f"--source={run.folder}", f"--out={out}"]) == 0
    assert "a llama model of 4,696 numbers in float32" in capsys.readouterr().out
    module, params = hugging_face.load(out)
    trained = run.nets()["model"]
    assert hugging_face.family_of(module).differs(trained.module) == {}
    assert equal(params, jax.device_get(trained.params))
    config = json.loads((out / "config.json").read_text())
    assert (config["eos_token_id"], config["bos_token_id"], config["pad_token_id"]) == (256, 258, 257)
    settings = json.loads((out / "tokenizer_config.json").read_text())
    assert (settings["eos_token"], settings["pad_token"], settings["model_max_length"]) == (
        "<|endoftext|>",
        "<pad>",
        64,
    )
    assert tokenizers.load(str(out)).encode(WORDS).tolist() == list(WORDS.encode())
    assert not [path for path in out.parent.iterdir() if path != out]


def test_an_earlier_step_is_another_model(run, tmp_path):
    for step in (1, 2):
        convert.main([f"--source={run.folder}", f"--out={tmp_path / str(step)}", f"--step={step}"])
    one, two = (hugging_face.load(tmp_path / str(step))[1] for step in (1, 2))
    assert not equal(one, two)


def test_a_folder_becomes_shards_in_bfloat16_with_what_it_had(tmp_path):
    module = build(call(bert.minilm_l6, vocab=400, width=16, depth=1, heads=2, inner=8, length=16))
    source, out = tmp_path / "source", tmp_path / "out"
    hugging_face.save(
        source, module, weights(module) | {"pair_head": {"kernel": np.zeros((16, 2)), "bias": np.zeros(2)}}
    )
    words = tokenizers.Subwords.train_wordpiece([WORDS], 60)
    (source / "tokenizer.json").write_text(words.source)
    (source / "vocab.txt").write_text("x")
    convert.main([f"--source={source}", f"--out={out}", "--dtype=bfloat16", "--shard_size=4KB"])
    assert {"tokenizer.json", "vocab.txt", "config.json", tensors.INDEX} < {path.name for path in out.iterdir()}
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert tokenizers.load(str(out)).fingerprint == words.fingerprint


def test_what_is_wrong_is_said_and_nothing_is_left(run, tmp_path):
    module = build(call(gpt2.gpt2, vocab=20, width=8, depth=1, heads=1, length=8))
    small = tmp_path / "small"
    hugging_face.save(small, module, weights(module))
    (small / "tokenizer.json").write_text(tokenizers.BPE.train([WORDS], 300).source)
    out = f"--out={tmp_path / 'out'}"
    for argv, words in (
        ([f"--source={small}", out], "do not belong together"),
        ([f"--source={tmp_path / 'nothing'}", out], "there is no folder"),
        ([f"--source={run.folder}", f"--out={small}"], "holds something already"),
        ([f"--source={small}", out, "--step=1"], "--step is for a run"),
        ([f"--source={run.folder}", out, "--dtype=float8"], "there is no dtype"),
        ([f"--source={run.folder}", out, "--shard_size=big"], "no size of a file"),
        ([f"--source={run.folder}", out, "--net=modle"], "did you mean 'model'"),
        ([f"--source={run.folder}", out, "--step=7"], "7"),
    ):
        with pytest.raises((ConfigError, CheckpointError), match=words):
            convert.main(argv)
        assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_a_model_that_no_family_holds_is_named(run, tmp_path, monkeypatch):
    class Head:
        backbone = None

    for module, words in (
        (Head(), "only its backbone"),
        (build(call(gpt2.gpt2, vocab=300, width=8, depth=1, heads=1, ngrams=(2, 3))), r"ngrams=\(2, 3\)"),
    ):
        monkeypatch.setattr(convert, "_of_run", lambda args, module=module: (module, {}, {}, {}, None))
        with pytest.raises(ConfigError, match=words):
            convert.main([f"--source={run.folder}", f"--out={tmp_path / 'out'}"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "make",
    [
        tokenizers.byte,
        lambda: tokenizers.characters([WORDS]),
        lambda: tokenizers.BPE.train([WORDS], 280),
        lambda: tokenizers.Subwords.train_wordpiece([WORDS], 60),
        lambda: tokenizers.with_specials(tokenizers.byte(), ("mask", "pad", "cls", "sep", "unk", "bos"), sentinels=3),
        lambda: tokenizers.with_specials(tokenizers.BPE.train([WORDS], 280), ("pad",), sentinels=2),
    ],
)
def test_tokenizers_say_the_same_ids_in_the_library(make):
    tokenizer = make()
    made = convert_tokenizer.as_library(tokenizer)
    assert made.get_vocab_size() == tokenizer.vocab
    ids = made.encode(WORDS, add_special_tokens=False).ids
    assert ids == tokenizer.encode(WORDS).tolist()
    assert made.decode(ids) == tokenizer.decode(ids)
    for part, i in tokenizer.special.items():
        assert made.id_to_token(i) is not None, part
    assert [made.id_to_token(i) for i in tokenizer.sentinels] == [
        f"<extra_id_{n}>" for n in range(len(tokenizer.sentinels))
    ]


def test_a_pad_that_roberta_would_count_is_refused():
    module = build(call(bert.roberta_base, vocab=400, width=8, depth=1, heads=1))
    with pytest.raises(ConfigError, match="first_position=258"):
        convert_tokenizer.fits(tokenizers.with_specials(tokenizers.byte(), ("pad",)), module, "roberta")


def test_what_has_no_equal_is_kept_for_fmjax(tmp_path):
    class Odd(tokenizers.Bytes):
        def encode(self, text):
            return super().encode(text)[::-1]

    said = convert_tokenizer.write(tmp_path, Odd(), None)
    assert "AutoTokenizer cannot read" in said
    assert not (tmp_path / "tokenizer.json").exists()
    assert "none" in convert_tokenizer.write(tmp_path, None, None)
