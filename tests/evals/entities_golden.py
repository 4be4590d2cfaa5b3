"""Makes entities_golden.json: scores of random tag sequences by seqeval 1.2.2 (`pip install seqeval`)."""

import json
import random
import warnings
from pathlib import Path

from seqeval import metrics
from seqeval.scheme import IOB2

TAGS = ["O", "O", "B-a", "I-a", "B-b", "I-b"]
warnings.simplefilter("ignore")


def scores(true, called, **mode):
    words = {w: getattr(metrics, f"{w}_score")(true, called, zero_division=0, **mode) for w in ("precision", "recall")}
    words["f1"] = metrics.f1_score(true, called, zero_division=0, **mode)
    table = metrics.classification_report(true, called, output_dict=True, zero_division=0, **mode)
    kinds = {k: v for k, v in table.items() if not k.endswith("avg")}
    columns = ("precision", "recall", "f1-score", "support")
    return {**words, "per_type": {k: [float(v[c]) for c in columns] for k, v in kinds.items()}}


def main():
    rng, cases = random.Random(0), []
    for n in range(24):
        true = [[rng.choice(TAGS) for _ in range(rng.randint(1, 9))] for _ in range(rng.randint(2, 8))]
        called = [[t if rng.random() < 0.7 else rng.choice(TAGS) for t in sentence] for sentence in true]
        strict = scores(true, called, mode="strict", scheme=IOB2)
        row = {"name": f"random {n}", "true": true, "called": called}
        cases.append({**row, "default": scores(true, called), "strict": strict})
    out = Path(__file__).with_name("entities_golden.json")
    out.write_text('{"cases": [\n' + ",\n".join(json.dumps(case) for case in cases) + "\n]}\n")


if __name__ == "__main__":
    main()
