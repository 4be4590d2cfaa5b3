"""An import only points down; no heavy framework, no pickle, no private API; importing fmjax costs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOUSE = ROOT / "fmjax"
MIDDLE = ("data", "optim", "objectives", "evals", "decoding", "adapters", "compress", "trust", "sharding")
BELOW = {  # room -> the rooms it may import, besides itself
    "core": (),
    "nn": ("core",),
    **dict.fromkeys(MIDDLE, ("core", "nn")),
    "models": ("core", "nn"),
    "interop": ("core", "nn", "models"),
    "training": ("core", "sharding"),
    "deploy": ("core", "sharding", "training", "decoding"),
}
TOP = "(command)"  # fmjax/*.py may import everything
FILES = sorted(HOUSE.rglob("*.py"))


def imported(source: str, package: tuple[str, ...]) -> set[str]:
    """Every module that the source imports anywhere in it, in full: functions and relative imports included.

    Args:
      source: Python.
      package: the package the file is in, ("fmjax", "data").
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module", "__import__",
        ):  # fmt: skip
            found |= {a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return found


def room(path: Path) -> str:
    parts = path.relative_to(HOUSE).parts
    return parts[0] if len(parts) > 1 else TOP


def rooms_of(modules: set[str]) -> set[str]:
    """The rooms (or commands) of fmjax among the modules."""
    out = set()
    for parts in (m.split(".") for m in modules if m.startswith("fmjax.")):
        if (HOUSE / parts[1]).is_dir():
            out.add(parts[1])
        elif (HOUSE / f"{parts[1]}.py").is_file():
            out.add(TOP)
    return out


def broken(path: Path, source: str) -> set[str]:
    """The rooms above, or beside, that a file imports."""
    package = ("fmjax", *path.relative_to(HOUSE).parts[:-1])
    home = room(path)
    return set() if home == TOP else rooms_of(imported(source, package)) - {home, *BELOW[home]}


def modules_of(path: Path) -> set[str]:
    return imported(path.read_text(), ("fmjax", *path.relative_to(HOUSE).parts[:-1]))


def test_every_room_has_its_floor():
    assert {room(path) for path in FILES} - {TOP} <= BELOW.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(HOUSE)))
def test_an_import_only_points_down(path):
    wrong = broken(path, path.read_text())
    assert not wrong, f"{path.relative_to(ROOT)} is in {room(path)!r}, which may not import {sorted(wrong)}"


@pytest.mark.parametrize(
    ("file", "line", "wrong"),
    [
        ("data/deep/inside.py", "from fmjax.optim import optimizers", {"optim"}),
        ("data/deep/inside.py", "from ...optim import optimizers", {"optim"}),
        ("data/x.py", "from .. import optim", {"optim"}),
        ("data/x.py", "def f():\n    import fmjax.models.mlp as m", {"models"}),
        ("core/x.py", "import fmjax.nn", {"nn"}),
        ("training/x.py", "from fmjax import models, run", {"models", TOP}),
        ("evals/x.py", "import importlib\nimportlib.import_module('fmjax.objectives.supervised')", {"objectives"}),
        (
            "data/x.py",
            "from .source import InMemory\nimport fmjax.core.types\nfrom fmjax import fit",
            set(),
        ),
        ("run.py", "import fmjax.models, fmjax.data", set()),
    ],
)
def test_the_walk_sees_nested_relative_and_hidden_imports(file, line, wrong):
    assert broken(HOUSE / file, line) == wrong


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(HOUSE)))
def test_no_other_framework_no_pickle_no_private_api(path):
    modules = modules_of(path)
    banned = ("tensorflow", "torch", "pickle", "cPickle", "dill", "cloudpickle")
    assert not [m for m in modules if m.split(".")[0] in banned]
    private = ("jax._src", "jaxlib", "flax.core", "jax.interpreters", "orbax.checkpoint._src", "optax._src")
    assert not [m for m in modules for p in private if m == p or m.startswith(p + ".")]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(HOUSE)))
def test_arrays_are_never_unpickled(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        given = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
        assert given.get("allow_pickle", False) is False, f"{path}:{node.lineno}"
        name = ast.unparse(node.func)
        if name in ("np.load", "numpy.load"):
            assert given.get("allow_pickle") is False, f"{path}:{node.lineno}: say allow_pickle=False"


def test_importing_fmjax_imports_neither_jax_nor_numpy():
    code = "import sys, fmjax; print(*sorted({'jax', 'numpy', 'flax', 'absl', 'ml_collections'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""


def test_what_is_loaded_when_used_is_there():
    import fmjax

    assert callable(fmjax.fit)
    assert callable(fmjax.build)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        fmjax.nothing  # noqa: B018
