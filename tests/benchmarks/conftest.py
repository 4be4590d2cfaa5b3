"""The scripts of benchmarks/ import each other by name, as they do when one of them is run."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path += [str(HERE), str(HERE / "gpu")]
