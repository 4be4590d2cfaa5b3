"""LoRA beside full fine-tuning, sentence by sentence: `python experiments/lora/compare.py --workdir=runs/lora`.

Reads the runs that study.py made, asks each for all 872 sentences, and writes the row sst2_lora: LoRA's accuracy over
seeds, and a bootstrap interval of its difference from full fine-tuning, in which sentences are drawn in pairs and each
counts the share of seeds that were right.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from fmjax import results
from fmjax.core.errors import DataError, exits
from fmjax.evals.intervals import paired_bootstrap
from fmjax.run import Run, load_config
from fmjax.study import slug
from fmjax.training.folder import RunFolder
from fmjax.training.records import read_records


def right(folder: Path) -> np.ndarray:
    """(N,) whether a run labels each sentence of the test rightly."""
    run = Run.load(folder)
    found = []
    for batch in run.parts.evaluators["test"].data.iterate():
        said = run.predict(batch)
        found.append((said["logits"].argmax(-1) == said["targets"])[said["weights"] > 0])
    return np.concatenate(found)


def optimizer_bytes(folder: Path) -> int:
    """Bytes of a run's moments, as its start says."""
    return next(r["optimizer_bytes"] for r in read_records(folder / "metrics.jsonl") if r["kind"] == "start")


def main(argv: list[str] | None = None) -> int:
    """Compare the runs, say it, write the row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", required=True, type=Path, help="where the sweep ran")
    parser.add_argument("--change", default="LoRA rank 8")
    args = parser.parse_args(argv)
    whole, part = args.workdir / "full", args.workdir / slug(args.change)
    seeds = sorted(int(f.name.removeprefix("seed_")) for f in part.glob("seed_*"))
    if not seeds or any(not (whole / f"seed_{s}").is_dir() for s in seeds):
        raise DataError(f"{args.workdir} does not hold the runs 'full' and {args.change!r}: run the study first")
    ours, theirs = (np.stack([right(folder / f"seed_{s}") for s in seeds]) for folder in (part, whole))
    apart = paired_bootstrap(ours.mean(0), theirs.mean(0))
    facts = json.loads((part / f"seed_{seeds[0]}" / "adapt.json").read_text())
    memory = [optimizer_bytes(folder / f"seed_{seeds[0]}") / 1e6 for folder in (part, whole)]
    said = (
        f"difference {apart.value:+.4f} [{apart.low:+.4f}, {apart.high:+.4f}] over {ours.shape[1]} sentences; "
        f"{facts['trainable']:,} parameters move ({facts['share']:.2%}); optimizer {memory[0]:.1f} MB beside "
        f"{memory[1]:.1f} MB"
    )
    print(f"{args.change} {ours.mean():.4f}, full {theirs.mean():.4f}, {said}")
    results.write_row(
        "sst2_lora",
        task=f"SST-2, the real MiniLM, {args.change}, one pass over 20,000 phrases",
        metric="test/accuracy",
        command="python experiments/lora/compare.py --workdir=runs/lora",
        values=ours.mean(1).tolist(),
        seeds=seeds,
        config=load_config(RunFolder(part / f"seed_{seeds[0]}", writes=False)),
        baseline={"name": "full fine-tuning, same phrases", "value": float(theirs.mean())},
        target="< 2 % of the parameters",
        note=said,
    )
    return 0


if __name__ == "__main__":
    exits(main)()
