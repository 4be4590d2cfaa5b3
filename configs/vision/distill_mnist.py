"""A network of 128 hidden units learns 2,000 images of MNIST from a better one, or from their labels alone.

Run:      python -m fmjax.train --config=configs/vision/distill_mnist.py:teacher --workdir=runs/teacher
          python -m fmjax.train --config=configs/vision/distill_mnist.py:start=runs/teacher
          python -m fmjax.train --config=configs/vision/distill_mnist.py (the same student, labels alone)
Data:     TFDS "mnist" in ArrayRecord format, under $FMJAX_DATA/tfds or ~/tensorflow_datasets.
Takes:    half a minute on two CPU cores, the teacher two.
Reaches:  test accuracy 0.922 with the teacher (0.989), 0.913 from the labels alone (means of 3 seeds).

The teacher is larger, and learned from 55,000 images that were moved and turned. The student sees the same batches with
and without a teacher, for as many steps at the same rate.
"""

from ml_collections import ConfigDict

from fmjax import pretrained
from fmjax.core.config import call
from fmjax.core.errors import ConfigError
from fmjax.data import augment, pipeline, sources
from fmjax.evals import evaluators, metrics
from fmjax.models import mlp
from fmjax.objectives import distillation, supervised
from fmjax.optim import optimizers, schedules


def get_config(variant: str = "labels") -> ConfigDict:
    """`variant` is "labels", "teacher", "start=RUN" of a teacher, or "smoke" for the two steps that the tests take."""
    name, _, path = variant.partition("=")
    if name not in ("labels", "teacher", "smoke", "start") or (name == "start") != bool(path):
        raise ConfigError(f"there is no variant {variant!r}; there is labels, teacher, smoke, and start=RUN")
    config = ConfigDict({"seed": 0, "steps": {"smoke": 2, "teacher": "10epochs"}.get(name, 1000)})
    large = call(mlp.MLP, features=(512, 512), classes=10, dropout=0.2)
    student = call(mlp.MLP, features=(128,), classes=10)
    moved = call(augment.affine, rotate=8.0, zoom=0.08, translate=0.07)
    if name == "start":
        config.models = {"model": student, "teacher": large}
        config.objective = call(distillation.Distill, temperature=4.0, share=0.9)
        config.init = call(pretrained.weights, path=path, nets=("teacher",))
    else:
        config.model = large if name == "teacher" else student
        config.objective = call(supervised.Classify, augment=(moved,) if name == "teacher" else ())
    steps = config.get_oneway_ref("steps")
    rate = call(schedules.warmup_cosine, peak=1e-3, steps=steps, warmup="5%" if name != "smoke" else 0)
    config.optimizer = call(optimizers.adamw, rate=rate)

    def images(split: str) -> ConfigDict:
        return call(sources.Tfds, name="mnist", split=split)

    parts = ("train[:55000]" if name == "teacher" else "train[:2000]", "train[55000:]", "test")
    train, validation, test = ("train[:256]", "train[-500:]", "test[:500]") if name == "smoke" else parts
    config.data = call(pipeline.stream, source=images(train), batch_size=128, resident=True)
    numbers = {"accuracy": metrics.accuracy, "loss": metrics.loss}
    config.evals = {
        part: call(
            evaluators.average, data=call(pipeline.one_pass, source=images(split), batch_size=500), metrics=numbers
        )
        for part, split in (("validation", validation), ("test", test))
    }
    return config
