"""A character GPT on tiny Shakespeare, at the size that is published for a CPU.

Run:      python -m fmjax.train --config=configs/language/gpt_shakespeare_char.py --config.seed=0
Data:     tinyshakespeare.txt (or .gz), under $FMJAX_DATA/text unless the overrides below say another place.
Reaches:  1.69 nats on the whole validation part (mean of 3 seeds).
Compare:  nanoGPT's CPU recipe (4 layers, 4 heads, width 128, context 64, batch 12, 2000 steps): validation loss 1.88.
"""

from typing import Literal

from ml_collections import ConfigDict

from fmjax.core.config import call
from fmjax.data import corpora, pipeline, text, tokenizers
from fmjax.decoding import sampling
from fmjax.evals import evaluators, metrics, samples
from fmjax.models import transformer
from fmjax.objectives import language
from fmjax.optim import optimizers, schedules


def get_config(size: Literal["full", "smoke"] = "full") -> ConfigDict:
    """`size` is "full", or "smoke" for the two steps that the tests take."""
    full = size == "full"
    config = ConfigDict({"seed": 0, "steps": 2000 if full else 2})
    config.model = call(transformer.Decoder, vocab=65, width=128, depth=4, heads=4)
    config.objective = call(language.NextToken)
    rate = call(schedules.warmup_cosine, peak=1e-3, end=1e-4, steps=config.get_oneway_ref("steps"), warmup="5%")
    config.optimizer = call(optimizers.adamw, rate=rate, decay=0.1, b2=0.99)
    config.clip = 1.0
    whole = call(corpora.TextFiles, paths="$FMJAX_DATA/text/tinyshakespeare.txt.gz")
    characters = call(tokenizers.characters, corpus=whole)
    train = call(corpora.Part, corpus=whole, stop=0.9)
    held_out = call(corpora.Part, corpus=whole, start=0.9)
    crops = call(text.Windows, corpus=train, tokenizer=characters, length=64, stride=1)
    config.data = call(pipeline.stream, source=crops, batch_size=12)
    every_token = call(text.Windows, corpus=held_out, tokenizer=characters, length=64)
    one_pass = call(pipeline.one_pass, source=every_token, batch_size=64, limit=None if full else 64)
    numbers = {"loss": metrics.loss, "bits_per_byte": metrics.BitsPerByte, "accuracy": metrics.accuracy}
    config.evals = {
        "validation": call(evaluators.average, data=one_pass, metrics=numbers, every=500 if full else 0),
        "samples": call(
            samples.samples, tokenizer=characters, prompts=("ROMEO:\n",),
            predict=call(sampling.Sampler, length=400 if full else 8),
        ),
    }  # fmt: skip
    return config
