"""Domains: each domain's numbers are those of its own evaluator, and the mean counts each domain once."""

import jax
import numpy as np
import pytest

from fmjax.core.config import build, call
from fmjax.core.errors import ConfigError
from fmjax.data import pipeline, tokenizers
from fmjax.data.corpora import TextFiles
from fmjax.data.text import Windows
from fmjax.evals import domains, evaluators, metrics


def uniform(state, batch):
    """A guess over 256 bytes, better on the letter a by a factor of four."""
    targets = batch["tokens"][:, 1:]
    weights = batch["valid"][:, None] * batch["weights"]
    return {"nll": jax.numpy.where(targets == 97, np.log(64), np.log(256)), "weights": weights}


def feed(data):
    return (jax.device_put(batch) for batch in data.iterate())


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("domains")
    out = {}
    for name, text in (("letters", "a" * 700), ("words", "bcde " * 60)):
        (folder / f"{name}.txt").write_text(text)
        windows = call(
            Windows,
            corpus=call(TextFiles, paths=str(folder / f"{name}.txt")),
            tokenizer=call(tokenizers.byte),
            length=32,
        )
        out[name] = call(pipeline.one_pass, source=windows, batch_size=4, threads=0)
    return out


NUMBERS = {"bits_per_byte": metrics.BitsPerByte, "perplexity": metrics.Perplexity, "loss": metrics.loss}


def test_numbers_are_those_of_each_domain_and_the_mean_counts_each_once(both):
    made = build(call(domains.domains, data=both, metrics=NUMBERS))
    made.check(uniform, {}, None)
    found = made.evaluate(uniform, {}, feed).numbers
    for name, data in both.items():
        alone = evaluators.average(build(data), NUMBERS).evaluate(uniform, {}, feed).numbers
        assert {k.removeprefix(f"{name}_"): v for k, v in found.items() if k.startswith(f"{name}_")} == alone
    assert found["letters_perplexity"] == pytest.approx(64, rel=0.01)  # all but the end of the text
    assert found["words_perplexity"] == pytest.approx(256, rel=1e-4)  # the sum is float32, and its exponential
    assert found["mean_bits_per_byte"] == (found["letters_bits_per_byte"] + found["words_bits_per_byte"]) / 2
    errors = [found["letters_loss_se"], found["words_loss_se"]]
    assert found["mean_loss_se"] == pytest.approx(np.hypot(*errors) / 2)


def test_a_domain_that_lacks_what_a_metric_needs_is_named_and_bad_settings_refused(both):
    made = build(call(domains.domains, data=both, metrics=NUMBERS))
    with pytest.raises(ConfigError, match="domain 'letters'"):
        made.check(lambda state, batch: {"values": batch["valid"]}, {}, None)
    with pytest.raises(ConfigError, match="needs data"):
        domains.domains({}, NUMBERS)
    with pytest.raises(ConfigError, match="may not be called 'mean'"):
        domains.domains({"mean": build(both["words"])}, NUMBERS)
