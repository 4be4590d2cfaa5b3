"""The README names what exists: commands, files, the tree."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
TEXT = "\n".join(p.read_text() for p in PAGES)
HELP = """
import contextlib, importlib, io, sys
for name in sys.argv[1:]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        importlib.import_module(f"fmjax.{name}").main(["--help"])
    assert f"fmjax.{name}" in out.getvalue(), name
heavy = {"jax", "numpy", "flax", "tensorflow", "torch"} & sys.modules.keys()
assert not heavy, heavy
"""


def test_every_command_it_names_explains_itself_without_loading_jax():
    names = sorted(set(re.findall(r"python -m fmjax\.(\w+)", TEXT)))
    assert len(names) >= 12
    subprocess.run([sys.executable, "-c", HELP, *names], check=True)


def test_every_file_it_names_is_there():
    files = set(re.findall(r"(?:configs|benchmarks|docs|tests|fmjax)/[\w/]+\.(?:py|md)", TEXT))
    assert files
    assert [f for f in sorted(files) if not (ROOT / f).exists()] == []


def test_the_tree_it_prints_is_the_tree():
    lines = re.findall(r"^    ( *)(\w+)/ +\S", (ROOT / "README.md").read_text(), re.M)
    printed = {("fmjax/" if indent else "") + name for indent, name in lines}
    rooms = {f"fmjax/{p.name}" for p in (ROOT / "fmjax").iterdir() if (p / "__init__.py").is_file()}
    top = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith((".", "_"))}
    tracked = top & {"fmjax", "configs", "experiments", "benchmarks", "docs", "tests"}
    assert printed == rooms | tracked
