"""Texts against references: the row a text belongs to, what padding and ends do, and what the scores say."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("sacrebleu")
pytest.importorskip("rouge_score")
import sacrebleu
from rouge_score import rouge_scorer

from fmjax.core.config import build, call
from fmjax.core.errors import ConfigError, DataError
from fmjax.data import pairs, pipeline, tokenizers
from fmjax.evals import generation, text_scores

BYTE = tokenizers.byte()
TEXTS = [
    "a dog runs over the wet green grass", "two cats sleep on a warm red sofa", "a man reads. He sits on a bench.",
    "children play football in the park", "a woman with a hat looks at the old sea", "the train leaves a small station",
    "a boy eats an apple under a tree",
]  # fmt: skip


class Written:
    """A source whose tokens are what is written: row i holds `texts[i]`."""

    tokenizer = BYTE
    fingerprint = "0"

    def __init__(self, texts, references):
        self.texts, self.references = texts, references

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, i):
        ids = BYTE.encode(self.texts[i])
        return {"tokens": np.append(ids, np.full(60 - len(ids), BYTE.eos)).astype(np.int32)}

    def reference(self, i):
        return self.references[i]


def echo(nets, batch):
    """Writes what it reads; a padded row writes nonsense."""
    return {"tokens": jnp.where(batch["valid"][:, None] == 0, 65, batch["tokens"])}


def feed(data):
    return (jax.device_put(batch) for batch in data.iterate())


def report(texts, references, batch_size=3, limit=None, **settings):
    data = pipeline.one_pass(Written(texts, references), batch_size, limit=limit, threads=0)
    return generation.generation(data, echo, **settings).evaluate(echo, {}, feed)


def test_identical_texts_score_everything_and_padding_is_left_out():
    found = report(TEXTS, TEXTS)
    for name in ("bleu", "chrf", "rouge_1", "rouge_2", "rouge_L", "rouge_Lsum"):
        assert found.numbers[name] == pytest.approx(100), name
        assert found.numbers[f"{name}_se"] == pytest.approx(0, abs=1e-6)
    assert found.numbers["exact_match"] == 1
    assert found.numbers["length"] == np.mean([len(t) for t in TEXTS])  # the end is no token of the text
    assert [row["text"] for row in found.artifacts["texts"]] == TEXTS
    assert "version:" in found.artifacts["bleu_signature"][0]
    json.dumps(found.artifacts)


def test_a_model_that_writes_nothing_scores_nothing():
    found = report([""] * 7, TEXTS)
    scores = {name: value for name, value in found.numbers.items() if name != "length"}
    assert not any(scores.values())


def test_each_text_is_compared_with_the_reference_of_its_own_row():
    found = report(TEXTS, [*TEXTS[1:], TEXTS[0]])
    assert found.numbers["exact_match"] == 0
    one = report(TEXTS, [TEXTS[0], *["no"] * 6], metrics={"same": text_scores.exact_match})
    assert one.numbers["same"] == pytest.approx(1 / 7)
    assert one.numbers["same_se"] == pytest.approx(np.std([1, 0, 0, 0, 0, 0, 0], ddof=1) / np.sqrt(7))


def test_a_limit_scores_the_first_rows_only():
    found = report(TEXTS, [*TEXTS[:4], "x", "x", "x"], limit=4)
    assert found.numbers["exact_match"] == 1
    assert len(found.artifacts["texts"]) == 4


def test_the_scores_are_those_of_the_libraries_and_do_not_depend_on_batches():
    references = [text.replace("a ", "the ").replace("on", "in") for text in TEXTS]
    found, other = report(TEXTS, references), report(TEXTS, references, batch_size=7)
    assert found.numbers == other.numbers
    assert found.numbers["bleu"] == pytest.approx(sacrebleu.corpus_bleu(TEXTS, [references]).score)
    assert found.numbers["chrf"] == pytest.approx(sacrebleu.corpus_chrf(TEXTS, [references]).score)
    one = rouge_scorer.RougeScorer(["rouge2"])
    f1 = [100 * one.score(r, t)["rouge2"].fmeasure for r, t in zip(references, TEXTS, strict=True)]
    assert found.numbers["rouge_2"] == pytest.approx(np.mean(f1))
    assert 0 < found.numbers["bleu_se"] < 20


def test_the_best_of_several_references_counts_and_their_number_may_differ():
    several = [("nothing alike here at all", text) if i % 2 else (text,) for i, text in enumerate(TEXTS)]
    found = report(TEXTS, several)
    assert found.numbers["bleu"] == pytest.approx(100)
    assert found.numbers["rouge_L"] == pytest.approx(100)
    assert found.numbers["exact_match"] == 1


def test_case_and_tokenization_are_settings_that_the_signature_names():
    upper = [text.upper() for text in TEXTS]
    loud = text_scores.Bleu(lowercase=True, tokenize="char")(upper, [(text,) for text in TEXTS])
    assert loud[""] == pytest.approx(100)
    assert "case:lc" in loud["signature"][0]
    assert "tok:char" in loud["signature"][0]
    with pytest.raises(ConfigError, match="sacreBLEU takes no"):
        text_scores.Bleu(tokenize="nonsense")(TEXTS, [(text,) for text in TEXTS])


def test_pairs_remember_their_targets_whole(tmp_path):
    path = tmp_path / "a.jsonl"
    both = [("x", "short"), ("y", "a target that is far longer than a row"), ("z" * 30, "dropped"), ("w", "Ünï")]
    path.write_text("".join(json.dumps({"a": a, "b": b}) + "\n" for a, b in both))
    cut = pairs.Pairs(str(path), "a", "b", BYTE, source_length=64, target_length=8, long="truncate")
    assert [cut.reference(i) for i in range(4)] == [b for _, b in both]
    dropped = pairs.Pairs(str(path), "a", "b", BYTE, source_length=20, target_length=64, long="drop")
    assert [dropped.reference(i) for i in range(3)] == ["short", both[1][1], "Ünï"]
    assert len(dropped) == 3


def test_it_is_named_by_a_config_and_checked_before_it_runs(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": "x", "b": "y"}\n')
    source = call(pairs.Pairs, paths=str(path), source="a", target="b", tokenizer=call(tokenizers.byte))
    data = call(pipeline.one_pass, source=source, batch_size=2)
    scores = {"bleu": call(text_scores.Bleu, lowercase=True), "same": text_scores.exact_match}
    made = build(call(generation.generation, data=data, predict=echo, metrics=scores))
    made.check(echo, {}, made.data.batch(0))
    with pytest.raises(ConfigError, match="must give 'tokens'"):
        made.check(lambda nets, batch: {"logits": batch["valid"]}, {}, made.data.batch(0))
    with pytest.raises(DataError, match="saw 0 rows of 1"):
        made.evaluate(echo, {}, lambda data: [])


def test_what_cannot_be_compared_is_refused():
    source = Written(TEXTS, TEXTS)
    with pytest.raises(ConfigError, match="use one_pass"):
        generation.generation(pipeline.stream(source, 2, threads=0), echo)
    with pytest.raises(ConfigError, match="leave it at 'fail'"):
        generation.generation(pipeline.one_pass(source, 2, corrupt="skip"), echo)
    with pytest.raises(ConfigError, match="needs metrics"):
        generation.generation(pipeline.one_pass(source, 2), echo, metrics={})
    plain = pipeline.one_pass(type("Plain", (), {"__len__": lambda self: 3, "fingerprint": "1"})(), 2)
    with pytest.raises(ConfigError, match="has no reference"):
        generation.generation(plain, echo)
