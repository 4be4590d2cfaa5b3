"""lm-eval on a run: its numbers are sums of log-softmax by hand, and those of fmjax's own multiple choice."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

pytest.importorskip("lm_eval")
from lm_eval.api.instance import Instance
from ml_collections import ConfigDict
from stand_ins import tiny

from fmjax import harness
from fmjax.core.config import call
from fmjax.core.errors import DataError, UserError
from fmjax.data import choices, pipeline, text, tokenizers
from fmjax.data.corpora import TextFiles
from fmjax.evals import evaluators, metrics
from fmjax.harness_model import Scorer, adapter, cut
from fmjax.models import transformer
from fmjax.objectives import choice, language
from fmjax.run import Run, fit

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "experiments" / "harness_example"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of a few steps over bytes, whose context is 48."""
    home = tmp_path_factory.mktemp("harness")
    (home / "text.txt").write_text("The capital of France is Paris. " * 40)
    config = tiny(steps=6)
    config.model = call(transformer.Decoder, vocab=257, width=16, depth=1, heads=2)
    config.objective = call(language.NextToken)
    corpus = call(TextFiles, paths=str(home / "text.txt"))
    windows = call(text.Windows, corpus=corpus, tokenizer=call(tokenizers.byte), length=48, stride=1)
    config.data = call(pipeline.stream, source=windows, batch_size=8, threads=0)
    questions = call(choices.Choices, paths=str(EXAMPLE / "capitals.jsonl"), tokenizer=call(tokenizers.byte), length=48)
    one_pass = call(pipeline.one_pass, source=questions, batch_size=8, threads=0)
    config.evals = ConfigDict({
        f"per_{per}": call(
            evaluators.average, data=one_pass, metrics={"accuracy": metrics.accuracy},
            predict=call(choice.Chooser, per=per),
        )
        for per in ("answer", "character")
    })  # fmt: skip
    run = fit(config, workdir=home / "run", progress=False)
    return home / "run", run.numbers


@pytest.fixture(scope="module")
def scorer(folder):
    return Scorer.of(Run.load(folder[0]), batch=4)


@pytest.fixture(scope="module")
def logits(scorer):
    """Of a text alone; the net is causal, so that what fills the row up to one shape changes nothing."""
    net = scorer.run.nets()["model"]
    run = jax.jit(lambda tokens: net(tokens))
    return lambda ids: np.asarray(run(np.pad(ids, (0, 64 - len(ids)))[None])[0, : len(ids)], np.float64)


def by_hand(logits, before, after):
    """The log-likelihood of a continuation, and whether it is greedy."""
    found = logits([*before, *after][:-1])[-len(after) :]
    logp = found - np.log(np.exp(found).sum(-1, keepdims=True))
    return logp[np.arange(len(after)), after].sum(), (found.argmax(-1) == after).all()


def asked(kind, *args):
    return [Instance(kind, {}, arg, i) for i, arg in enumerate(args)]


def test_log_likelihoods_are_sums_of_log_softmax_in_any_batch(scorer, logits):
    pairs = [
        ("The capital of France is", " Paris"),
        ("a ", "b"),
        ("", "The cap"),
        ("x" * 60, " end"),
        ("The c", "apit"),
    ]
    found = adapter(scorer).loglikelihood(asked("loglikelihood", *pairs))
    for (before, after), (total, greedy) in zip(pairs, found, strict=True):
        kept, spaces = before.rstrip(), before[len(before.rstrip()) :]
        ids = list(kept.encode()) or [256]
        own = list((spaces + after).encode())
        wanted = by_hand(logits, (ids + own)[-49:][: -len(own)], own)
        assert (total, greedy) == (pytest.approx(wanted[0], rel=1e-4), wanted[1])


def test_a_whole_text_is_scored_once_token_by_token_however_long(scorer, logits):
    texts = ["short", "The capital of France is Paris. " * 4]
    found = adapter(scorer).loglikelihood_rolling(asked("loglikelihood_rolling", *((t,) for t in texts)))
    for one, total in zip(texts, found, strict=True):
        ids, wanted = list(one.encode()), 0.0
        for start in range(0, len(ids), 48):
            after = ids[start : start + 48]
            first = 256 if start == 0 else ids[start - 1]
            if start and len(after) < 48:  # the last window is filled up with what stands before it
                wanted += by_hand(logits, ids[len(ids) - 49 : start], after)[0]
            else:
                wanted += by_hand(logits, [first], after)[0]
        assert total == pytest.approx(wanted, rel=1e-4)


def test_what_is_written_is_the_likeliest_token_by_token_for_prompts_of_any_length(scorer, logits):
    prompts = ["The capital of", "Fr", "is Paris. The capital"]
    settings = {"until": ["!"], "max_gen_toks": 6}
    found = adapter(scorer).generate_until(asked("generate_until", *((p, dict(settings)) for p in prompts)))
    for prompt, wrote in zip(prompts, found, strict=True):
        ids = list(prompt.encode())
        for _ in range(6):
            ids.append(int(logits(ids)[-1].argmax()))
        assert wrote == cut(scorer.tokenizer.decode(ids[-6:]), ["!"])


def test_half_of_the_context_is_kept_for_the_question_however_much_is_to_be_written(scorer):
    text = "The capital of France is Paris. The capital of"
    assert scorer.continuations([text], 256, ()) == scorer.continuations([text[-24:]], 24, ())


def test_the_command_agrees_with_fmjaxs_own_multiple_choice(folder, capsys):
    home, numbers = folder
    argv = [f"--workdir={home}", "--tasks=capitals,sentences", f"--tasks_folder={EXAMPLE}", "--batch=4"]
    assert harness.main(argv) == 0
    found = json.loads((home / "harness.json").read_text())
    assert found["tasks"]["capitals"]["acc"] == pytest.approx(numbers["per_answer/accuracy"])
    assert found["tasks"]["capitals"]["acc_norm"] == pytest.approx(numbers["per_character/accuracy"])
    assert found["tasks"]["capitals"]["acc_stderr"] > 0 or numbers["per_answer/accuracy"] in (0, 1)
    assert found["versions"] == {"capitals": 1, "sentences": 1}
    assert 1 < found["tasks"]["sentences"]["bits_per_byte"] < 12
    shown = capsys.readouterr().out
    assert "capitals" in shown
    assert "bits_per_byte" in shown
    assert harness.main([*argv[:1], "--tasks=capitals", argv[2], "--limit=2"]) == 0
    assert json.loads((home / "harness.json").read_text())["limit"] == 2


def test_bad_input_is_one_line(folder, scorer, tmp_path):
    start = [f"--workdir={folder[0]}", f"--tasks_folder={EXAMPLE}"]
    with pytest.raises(UserError, match=r"no task 'capital' in .*; did you mean 'capitals'"):
        harness.main([*start, "--tasks=capital"])
    with pytest.raises(UserError, match="there is no such folder"):
        harness.main([start[0], "--tasks=capitals", "--tasks_folder=/nowhere"])
    with pytest.raises(UserError, match="1 or more"):
        harness.main([*start, "--tasks=capitals", "--limit=0"])
    with pytest.raises(DataError, match="text 0 has 60 tokens to score, and the model reads 48"):
        adapter(scorer).loglikelihood(asked("loglikelihood", ("a", "b" * 60)))
    with pytest.raises(UserError, match="may not ask for do_sample"):
        adapter(scorer).generate_until(asked("generate_until", ("a", {"do_sample": True})))


def test_a_text_ends_at_the_first_stop_string():
    assert cut("one, two. three", (".", ",")) == "one"
    assert cut("one", ("", "x")) == "one"
