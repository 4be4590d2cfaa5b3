"""Results: a row that lacks something is refused, and the README says what the rows say."""

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from fmjax import results
from fmjax.core import configfile
from fmjax.core.errors import DataError
from fmjax.core.fingerprint import config_hash as config_digest

ROOT = Path(__file__).parents[1]
ROW = {
    "task": "MNIST | plain",
    "metric": "test accuracy",
    "command": "python -m fmjax.train --config=a.py",
    "values": [0.97, 0.98],
}


def write(folder, name="mnist_plain", **fields):
    return results.write_row(name, folder=folder, **{**ROW, "seeds": [0, 1], **fields})


def test_the_readme_agrees_with_the_rows():
    assert results.main(["--check"]) == 0


def test_every_row_of_the_repository_is_valid():
    for path in (ROOT / "experiments" / "results").glob("*.json"):
        assert results.check_row(json.loads(path.read_text()), path.stem) == [], path.name


def test_a_baseline_may_keep_its_numbers_turn_by_turn(tmp_path):
    write(tmp_path, baseline={"name": "bare loop", "value": 0.9, "values": [0.9, 0.91]})
    assert results.read_rows(tmp_path)[0]["baseline"]["values"] == [0.9, 0.91]


def test_a_row_is_filled_in_and_read_back(tmp_path):
    path = write(tmp_path, published={"value": 0.984, "source": "Keras example"}, target=0.984, note="lossy copy")
    (row,) = results.read_rows(tmp_path)
    assert path == tmp_path / "mnist_plain.json"
    assert row["mean"] == pytest.approx(0.975)
    assert row["spread"] == pytest.approx(statistics.stdev([0.97, 0.98]))
    assert row["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"jax", "flax", "optax", "numpy"} <= row["versions"].keys()
    assert re.fullmatch(r"(\d+ x [^,]+, )?\d+ CPU cores?", row["machine"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", row["date"])
    assert row["config_hash"] is None
    assert [p.name for p in tmp_path.iterdir()] == ["mnist_plain.json"]
    write(tmp_path, "kill", seeds=None, repeats=1, values=[20])
    assert results.read_rows(tmp_path)[0]["repeats"] == 1


def test_a_config_has_the_hash_of_its_saved_self(tmp_path):
    config = ConfigDict({"b": (1, 2), "a": {"x": 0.1, "n": None}, "s": 3})
    config.late = config.get_oneway_ref("s")
    configfile.save(config, tmp_path / "config.json")
    saved = json.loads((tmp_path / "config.json").read_text())["config"]
    assert results.config_hash(config) == results.config_hash(saved)
    assert results.config_hash(config) == config_digest(config)  # what checkpoints write down
    assert re.fullmatch("[0-9a-f]{16}", results.config_hash(config))
    assert results.config_hash({**saved, "s": 4}) != results.config_hash(config)
    assert json.loads(write(tmp_path, config=config).read_text())["config_hash"] == results.config_hash(config)


@pytest.mark.parametrize("field", [*results.FIELDS, "seeds"])
def test_a_row_that_lacks_a_field_is_refused_by_its_name(tmp_path, field):
    path = write(tmp_path)
    row = json.loads(path.read_text())
    del row[field]
    path.write_text(json.dumps(row))
    with pytest.raises(DataError, match=rf"mnist_plain.json: '{field}'"):
        results.read_rows(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("command", ""),
        ("values", []),
        ("values", [0.97, "0.98"]),
        ("values", [0.97, None]),
        ("mean", 0.98),
        ("mean", "0.975"),
        ("mean", True),
        ("spread", 0.0),
        ("spread", None),
        ("seeds", [0]),
        ("seeds", [0, 0]),
        ("seeds", 2),
        ("repeats", 2),  # beside seeds
        ("versions", {}),
        ("machine", ""),
        ("date", "yesterday"),
        ("name", "other"),
        ("baseline", {"name": "bare loop"}),
        ("baseline", {"name": "bare loop", "value": 1.0, "values": [1.0]}),
        ("baseline", {"name": "bare loop", "value": 1.0, "values": [1.0, "2"]}),
        ("published", {"value": "0.984", "source": "x"}),
        ("config_hash", "xyz"),
        ("colour", "red"),
    ],
)
def test_a_row_with_a_wrong_field_is_refused_by_its_name(tmp_path, field, value):
    path = write(tmp_path)
    row = json.loads(path.read_text()) | {field: value}
    path.write_text(json.dumps(row))
    with pytest.raises(DataError, match=rf"mnist_plain.json: .*'{field}'") as caught:
        results.read_rows(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_a_file_that_is_no_row_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a\.json"):
        results.read_rows(tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        {"seeds": None},
        {"seeds": [0, 1], "repeats": 2},
        {"seeds": [0]},
        {"values": []},
        {"values": [0.1, float("nan")]},
        {"values": [0.1, float("inf")]},
        {"command": "a\nb"},
        {"task": ""},
        {"baseline": {"value": 1.0}},
    ],
)
def test_a_bad_row_is_not_written(tmp_path, fields):
    with pytest.raises(DataError, match="row mnist_plain"):
        write(tmp_path, **fields)
    with pytest.raises(DataError, match="name"):
        write(tmp_path, "Bad-Name")
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=8))
def test_every_finite_measurement_makes_a_valid_row(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("rows")
    write(folder, values=values, seeds=None, repeats=len(values))
    (row,) = results.read_rows(folder)
    assert row["values"] == values
    assert f"n={len(values)}" in results.ours(row)


@pytest.mark.parametrize(
    ("mean", "spread", "n", "text"),
    [
        (0.98421, 0.00061, 5, "0.98421 ± 0.00061 (n=5)"),
        (0.9842, 0.012, 3, "0.984 ± 0.012 (n=3)"),
        (1234.5, 25.3, 3, "1234 ± 25 (n=3)"),
        (2.4812, 0.0, 1, "2.481 (n=1)"),
        (20, 0.0, 20, "20 ± 0 (n=20)"),
        (123456.0, 0.0, 1, "123456 (n=1)"),
    ],
)
def test_numbers_keep_the_digits_that_their_spread_leaves(mean, spread, n, text):
    assert results.ours({"mean": mean, "spread": spread, "values": [0] * n}) == text


def test_the_table_holds_every_row_and_no_cell_breaks_it(tmp_path):
    write(tmp_path, baseline={"name": "a|b", "value": 0.97}, target=">= 0.98", command="run `x` | tee y")
    write(tmp_path, "another", task="A <b>task</b>", published={"value": 0.9, "source": "they\nsaid"})
    lines = results.table(results.read_rows(tmp_path)).splitlines()
    assert len(lines) == 4
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 7 for line in lines)
    assert lines[2].startswith("| A &lt;b>task&lt;/b> | test accuracy | 0.9750 ± 0.0071 (n=2) |  | 0.9 (they said) |")
    assert "| 0.97 (a\\|b) | target >= 0.98 | ``run `x` \\| tee y`` |" in lines[3]


README = f"# Title\n\n{results.BEGIN}\nold\n{results.END}\n\nmore\n"


def test_the_command_writes_the_table_and_the_check_sees_every_change(tmp_path, capsys):
    folder, readme = tmp_path / "experiments" / "results", tmp_path / "README.md"
    write(folder)
    readme.write_text(README)
    argv = ["--folder", str(folder)]
    with pytest.raises(DataError, match=r"run python -m fmjax\.results"):
        results.main([*argv, "--check"])
    assert readme.read_text() == README
    assert results.main(argv) == 0
    assert results.main([*argv, "--check"]) == 0
    text = readme.read_text()
    assert text.startswith(f"# Title\n\n{results.BEGIN}\n| task |")
    assert text.endswith(f"|\n{results.END}\n\nmore\n")
    assert results.main(argv) == 0
    assert readme.read_text() == text
    assert "nothing new" in capsys.readouterr().out
    write(folder, values=[0.97, 0.99])
    with pytest.raises(DataError, match="is not that of the rows"):
        results.main([*argv, "--check"])


@pytest.mark.parametrize("text", ["", results.END + results.BEGIN, results.BEGIN, README + README])
def test_a_readme_without_its_markers_is_left_alone(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(DataError, match="once each"):
        results.main(["--folder", str(tmp_path), "--readme", str(tmp_path / "README.md")])
    assert (tmp_path / "README.md").read_text() == text
    with pytest.raises(DataError, match="cannot read"):
        results.main(["--folder", str(tmp_path), "--readme", str(tmp_path / "no.md")])


def test_a_disagreement_exits_with_2_and_one_line_and_no_jax(tmp_path):
    (tmp_path / "README.md").write_text(README)
    argv = ["--check", "--folder", str(tmp_path), "--readme", str(tmp_path / "README.md")]
    done = subprocess.run([sys.executable, "-m", "fmjax.results", *argv], capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    code = "import sys, fmjax.results; sys.exit(any(m in sys.modules for m in ('jax', 'numpy')))"
    subprocess.run([sys.executable, "-c", code], check=True)
