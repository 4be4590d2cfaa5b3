"""Writes run folders as training leaves them, for the tests of what reads them."""

import json
import math
import random
from pathlib import Path

from fmjax.training.writers import JsonLines

CONFIG = {
    "seed": 0,
    "steps": 1000,
    "model": {"call": "fmjax.models.convnet:ConvNet", "widths": [32, 64], "dropout": 0.5, "dtype": None},
    "optimizer": {
        "call": "fmjax.optim.optimizers:adamw",
        "rate": {"call": "fmjax.optim.schedules:warmup_cosine", "peak": 1e-3},
    },
    "early_stop": {"call": "fmjax.training.hooks:early_stop", "metric": "val/accuracy", "patience": 5},
}
ENVIRONMENT = {
    "command": ["python", "-m", "fmjax.train", "--config=configs/vision/convnet_digits.py", "--workdir=runs/a"],
    "versions": {"python": "3.11.7", "jax": "0.10.2", "flax": "0.12.8"},
    "devices": ["TFRT_CPU_0"],
    "git": {"sha": "d80536b217a4355d4b988fa0315217162ee12fcc", "dirty": False},
    "flags": {"XLA_FLAGS": None},
}


def write_run(
    folder: Path,
    steps: int = 400,
    state: str = "finished",
    config: dict | None = None,
    seed: int = 0,
    every: int = 50,
    began: float = 1.79e9,
    peak: float = 1e-3,
    sample: str = "def f(x):\n    return x\n",
    extra: dict | None = None,
) -> Path:
    """A run of `steps` steps with an evaluation every so many, a confusion matrix, bins and samples."""
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    config = {**CONFIG, "steps": steps, **(config or {})}
    (folder / "config.json").write_text(json.dumps({"format": 1, "config": config}))
    (folder / "overrides.json").write_text(json.dumps({"optimizer.rate.peak": peak}))
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT))
    (folder / "state").write_text(state)
    (folder / "heartbeat").write_text(str(began + steps * 0.05))
    lines = JsonLines(folder / "metrics.jsonl")
    start = {"first_step_seconds": 4.2, "compile_seconds": 3.1, "parameters": 1_234_567, "flops_per_step": 2.5e9}
    lines.write({"kind": "start", "step": 0, "time": began, **start})
    for step in range(1, steps + 1):
        now = began + 4.2 + step * 0.05
        loss = 2.3 * math.exp(-step / 120) + 0.15 + rng.gauss(0, 0.05)
        record = {"kind": "train", "step": step, "time": now, "loss": loss, "grad_norm": abs(rng.gauss(1, 0.2)) + loss}
        record |= {"rate": peak * min(step / 50, (steps - step) / steps + 1e-3), "accuracy": 1 - loss / 3}
        record |= {"step_seconds": 0.05, "examples_per_second": 2560 + rng.gauss(0, 60), "batch": f"{step:016x}"}
        lines.write({**record, **(extra or {})})
        if step % every == 0:
            accuracy = 0.98 - 0.6 * math.exp(-step / 100) + rng.gauss(0, 0.004)
            numbers = {"val/loss": loss + 0.08 + step / 4000, "val/accuracy": accuracy, "val/accuracy_se": 0.006}
            lines.write({"kind": "eval", "step": step, "time": now, **numbers, "test/accuracy": accuracy - 0.01})
            lines.write({"kind": "event", "step": step, "time": now, "event": "saved"})
    if state in ("finished", "interrupted"):
        lines.write({"kind": "event", "step": steps, "time": began + 5 + steps * 0.05, "event": state})
    lines.close()
    write_artifacts(folder / "artifacts" / str(steps // every * every), rng)
    for step in (every, steps):
        (folder / "samples").mkdir(exist_ok=True)
        (folder / "samples" / f"{step}.txt").write_text(sample)
    return folder


def write_artifacts(folder: Path, rng: random.Random, classes: int = 10) -> None:
    """What the evaluators leave: a confusion matrix, a table of the classes, reliability bins and a curve."""
    matrix = [
        [rng.choice([0, 0, 1, 2, 5]) if i != j else rng.randint(80, 120) for j in range(classes)]
        for i in range(classes)
    ]
    table = [
        {
            "class": i,
            "precision": matrix[i][i] / sum(r[i] for r in matrix),
            "recall": matrix[i][i] / sum(matrix[i]),
            "support": float(sum(matrix[i])),
        }
        for i in range(classes)
    ]
    bins = [
        {
            "low": i / 10,
            "high": (i + 1) / 10,
            "confidence": (i + 0.5) / 10,
            "accuracy": max((i - 0.3) / 10, 0),
            "weight": 10.0 * (i + 1),
        }
        for i in range(10)
    ]
    curve = [{"false_positive_rate": x / 20, "true_positive_rate": (x / 20) ** 0.3} for x in range(21)]
    folder.mkdir(parents=True)
    found = {"confusion": matrix, "report_per_class": table, "ece_bins": bins, "auc_curve": curve}
    (folder / "val.json").write_text(json.dumps(found))
