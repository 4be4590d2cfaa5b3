"""Makes the run folder of this format that later versions must still load: `python tests/old_runs/make.py`.

Run it once a format, and commit what it writes; a folder that is there is never made again.
"""

import hashlib
import json
from pathlib import Path

from ml_collections import ConfigDict

from fmjax.core import configfile
from fmjax.core.config import call
from fmjax.core.errors import UserError
from fmjax.data import pipeline, sources
from fmjax.evals import evaluators, metrics
from fmjax.models import mlp
from fmjax.objectives import supervised
from fmjax.optim import optimizers
from fmjax.run import fit
from fmjax.training.policies import Log


def get_config() -> ConfigDict:
    config = ConfigDict({"steps": 40, "ema": 0.9})
    config.model = call(mlp.MLP, features=(16,), classes=10)
    config.objective = call(supervised.Classify)
    config.optimizer = call(optimizers.adam, rate=1e-2)
    config.data = call(pipeline.stream, source=call(sources.Digits, split="train"), batch_size=64)
    test = call(pipeline.one_pass, source=call(sources.Digits, split="test"), batch_size=100)
    config.evals = {"test": call(evaluators.average, data=test, metrics={"accuracy": metrics.accuracy})}
    config.log = call(Log, tensorboard=False, progress=False)
    return config


if __name__ == "__main__":
    folder = Path(__file__).parent / f"format_{configfile.FORMAT}"
    if folder.exists():
        raise UserError(f"{folder.name} is there already: old runs are kept as they were")
    run = fit(get_config(), folder)
    # Where it was made is nobody's business.
    (folder / "environment.json").write_text("{}\n")
    for said in folder.rglob("commit_success.txt"):
        was = hashlib.sha256(said.read_bytes()).hexdigest()
        said.write_text("")
        sums = said.parents[1] / "SHA256SUMS"
        sums.write_text(sums.read_text().replace(was, hashlib.sha256(b"").hexdigest()))
    (folder / "expected.json").write_text(json.dumps(run.numbers, indent=1) + "\n")
