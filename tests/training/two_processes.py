"""One of two processes that train a tiny run together: `two_processes.py PORT PROCESS WORKDIR STEPS [override ...]`."""

import json
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import jax

warnings.filterwarnings("ignore")
port, process, workdir, steps, *overrides = sys.argv[1:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(process))

from stand_ins import tiny  # noqa: E402

from fmjax.run import fit  # noqa: E402

run = fit(tiny(int(steps)), workdir, ["--config.accumulation.steps=1", *overrides], progress=False)
kernel = run.state.params["model"]["up"]["kernel"].addressable_data(0).tolist()
said = {"step": run.step, "numbers": run.numbers, "word": run.word, "devices": jax.device_count(), "up": kernel}
print(json.dumps(said))
