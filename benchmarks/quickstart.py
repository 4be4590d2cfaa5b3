"""The quickstart, measured: `python benchmarks/quickstart.py` runs its command over seeds, beside a bigram and gzip -9.

The corpus is the standard library of the running interpreter; the held-out files are those of the config. Writes the
rows quickstart_bits_per_byte and quickstart_seconds.
"""

import argparse
import platform
import subprocess
import sys
import time
from pathlib import Path

from fmjax import results
from fmjax.core.errors import UserError, exits

CONFIG = "configs/quickstart.py"


def main(argv: list[str] | None = None) -> int:
    """Run the user's command once a seed, read what it wrote, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", default="runs/quickstart", help="where the runs go")
    args = parser.parse_args(argv)

    from fmjax.assembly import prepare
    from fmjax.data import baselines, corpora
    from fmjax.runfolder import SavedRun

    bits, seconds = [], []
    for seed in range(args.seeds):
        folder = Path(args.workdir) / f"seed_{seed}"
        if folder.exists():
            raise UserError(
                f"{folder} is there already, and a resumed run's time says nothing: choose another --workdir"
            )
        command = [sys.executable, "-m", "fmjax.train", f"--config={CONFIG}", f"--workdir={folder}", "--quiet"]
        began = time.perf_counter()
        subprocess.run([*command, f"--config.seed={seed}"], check=True)
        seconds.append(time.perf_counter() - began)
        bits.append(SavedRun.open(folder).kind("eval")[-1]["validation/bits_per_byte"])
    train, held_out = (corpora.joined(corpora.PythonStdlib(split=split)) for split in ("train", "validation"))
    gzip = baselines.gzip_bits_per_byte(held_out)
    bigram = baselines.bigram_bits_per_byte(train, held_out)
    config, _ = prepare(CONFIG)
    python = f"standard library of Python {platform.python_version()}: {len(train):,} bytes, {len(held_out):,} held out"
    shared = {"command": "python benchmarks/quickstart.py", "seeds": list(range(args.seeds)), "config": config}
    results.write_row(
        "quickstart_bits_per_byte",
        task="quickstart: GPT on the Python standard library, held-out files",
        metric="bits per byte",
        values=bits,
        baseline={"name": "gzip -9 of the same files", "value": gzip},
        target=f"below gzip; bigram {bigram:.3f}",
        note=python,
        **shared,
    )
    results.write_row(
        "quickstart_seconds",
        task="quickstart: the whole command, compiling and evaluation included",
        metric="seconds",
        values=seconds,
        target="<= 180",
        note="two CPU cores; the first seed compiles, the others find compiled programs in the cache",
        **shared,
    )
    print(f"bits per byte {bits}, gzip -9 {gzip:.3f}, bigram {bigram:.3f}, seconds {seconds}")
    return 0


if __name__ == "__main__":
    exits(main)()
