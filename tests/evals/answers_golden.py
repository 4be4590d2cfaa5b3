"""Makes answers_golden.json by SQuAD 2.0's own script, in the copy that transformers 4.46.3 carries.

Run it with the path of transformers/data/metrics/squad_metrics.py out of that package; nothing else of it is needed.
"""

import json
import logging
import random
import sys
import types
from pathlib import Path

WORDS = ["the", "a", "An", "Apollo", "apollo,", "11", "moon", "Moon.", "--", "naïve", "U.S.", "the-end", "“x”", "an"]


def official(path):
    source = Path(path).read_text()
    lines = [line for line in source.splitlines() if not line.startswith("from ...")]
    module = types.ModuleType("squad_metrics")
    logging.get_logger = logging.getLogger
    module.logging = logging
    exec(compile("\n".join(lines), path, "exec"), module.__dict__)
    return module


def main():
    module, rng, rows = official(sys.argv[1]), random.Random(0), []
    text = lambda most: " ".join(rng.choice(WORDS) for _ in range(rng.randint(0, most)))  # noqa: E731
    for n in range(120):
        answers = [text(4) or "x" for _ in range(rng.randint(0, 3))]
        # The script's search for a threshold takes an answer of articles alone for wrong, and its scores do not.
        said = rng.choice([*answers, text(5), text(5)]) if answers else rng.choice(["", "moon " + text(3)])
        rows.append({"id": str(n), "answers": answers, "said": said, "lead": round(rng.uniform(-3, 3), 2)})
    examples = [types.SimpleNamespace(qas_id=r["id"], answers=[{"text": a} for a in r["answers"]]) for r in rows]
    said, leads = {r["id"]: r["said"] for r in rows}, {r["id"]: r["lead"] for r in rows}
    exact, f1 = module.get_raw_scores(examples, said)
    for row in rows:
        row |= {"exact": exact[row["id"]], "f1": f1[row["id"]]}
    wanted = {}
    for threshold in (-1.0, 0.0, 1.5):
        found = module.squad_evaluate(examples, said, leads, threshold)
        wanted[str(threshold)] = {k: found[k] / 100 for k in ("exact", "f1", "HasAns_f1", "NoAns_f1", "best_f1")}
    out = Path(__file__).with_name("answers_golden.json")
    lines = ",\n".join(json.dumps(row) for row in rows)
    out.write_text(f'{{"rows": [\n{lines}\n],\n"thresholds": {json.dumps(wanted)}}}\n')


if __name__ == "__main__":
    main()
