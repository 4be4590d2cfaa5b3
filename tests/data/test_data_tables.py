"""Tables: three formats, one meaning; and a wrong cell is named by row and column."""

import csv
import gzip
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmjax.core.errors import DataError
from fmjax.data.sources import Table
from fmjax.data.tables import read

ROWS = [
    {"age": 39, "job": "clerk", "pay": 1.5, "rich": "no"},
    {"age": 50, "job": "baker", "pay": 2.5, "rich": "yes"},
    {"age": 38, "job": "clerk", "pay": -1.0, "rich": "no"},
]


def write_csv(path, rows, names=None):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, names or list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def write_all(folder):
    write_csv(folder / "a.csv", ROWS)
    (folder / "a.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    (folder / "a.jsonl.gz").write_bytes(gzip.compress((folder / "a.jsonl").read_bytes()))
    (folder / "a.tsv").write_text((folder / "a.csv").read_text().replace(",", "\t"))
    paths = [folder / name for name in ("a.csv", "a.jsonl", "a.jsonl.gz", "a.tsv")]
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    parquet.write_table(arrow.Table.from_pylist(ROWS), folder / "a.parquet")
    return [*map(str, paths), str(folder / "a.parquet")]


def test_csv_json_lines_and_parquet_say_the_same(tmp_path):
    for path in write_all(tmp_path):
        table = Table(path, label="rich", targets=("pay",))
        assert table.columns == ["age", "job=baker", "job=clerk"]
        np.testing.assert_array_equal(table.arrays["features"], [[39, 0, 1], [50, 1, 0], [38, 0, 1]])
        assert table.arrays["features"].dtype == np.float32
        assert table.arrays["label"].tolist() == [0, 1, 0]
        assert table.classes == ("no", "yes")
        np.testing.assert_array_equal(table.arrays["targets"], [[1.5], [2.5], [-1.0]])


def test_a_test_table_speaks_the_vocabulary_of_the_training_table(tmp_path):
    train = write_csv(tmp_path / "train.csv", ROWS)
    test = write_csv(tmp_path / "test.csv", [{"age": 1, "job": "pilot", "pay": 0, "rich": "yes"}])
    table = Table(test, features=("job",), label="rich", vocabulary=train)
    assert table.arrays["features"].tolist() == [[0, 0]]
    assert table.arrays["label"].tolist() == [1]
    other = write_csv(tmp_path / "other.csv", [{"age": 1, "job": "pilot", "pay": 0, "rich": "maybe"}])
    with pytest.raises(DataError, match=r"other\.csv row 1: label 'maybe' is none of no, yes"):
        Table(other, features=("job",), label="rich", vocabulary=train)


def test_number_labels_are_sorted_as_numbers_and_text_stays_text(tmp_path):
    path = write_csv(tmp_path / "a.csv", [{"t": f"text {i}", "y": i} for i in (10, 9, 2)])
    table = Table(path, label="y", text="t")
    assert table.arrays.keys() == {"label", "text"}
    assert table.classes == ("2", "9", "10")
    assert str(table[0]["text"]) == "text 10"


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"])), min_size=2, max_size=2), min_size=1
    )
)
def test_csv_is_read_as_the_standard_library_writes_it(tmp_path_factory, values):
    buffer = io.StringIO()
    csv.writer(buffer).writerows([["a", "b"], *values])
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    path.write_bytes(buffer.getvalue().encode())
    got = read(path)
    assert list(zip(got["a"], got["b"])) == [(x.strip(" "), y.strip(" ")) for x, y in values]


def test_the_fingerprint_changes_with_a_cell(tmp_path):
    prints = set()
    for job in ("clerk", "baker"):
        path = write_csv(tmp_path / "a.csv", [*ROWS, {**ROWS[0], "job": job}])
        prints.add(Table(path, label="rich").fingerprint)
    assert len(prints) == 2


def test_wrong_tables_are_named_by_row_and_column(tmp_path):
    good = write_csv(tmp_path / "good.csv", ROWS)
    gap = write_csv(tmp_path / "gap.csv", [*ROWS, {**ROWS[0], "age": ""}])
    (tmp_path / "empty.csv").write_text("age,job\n")
    (tmp_path / "wide.csv").write_text("age,job\n1,a\n1,a,b\n")
    (tmp_path / "twice.csv").write_text("age,age\n1,2\n")
    (tmp_path / "bad.jsonl").write_text('{"a": 1}\n{"a": \n')
    (tmp_path / "keys.jsonl").write_text('{"a": 1}\n{"b": 2}\n')
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "bad.csv.gz").write_bytes(b"\x1f\x8b no")
    at = lambda name: str(tmp_path / name)  # noqa: E731
    for make, message in [
        (lambda: Table(at("godo.csv")), "there is no file .*; did you mean 'good.csv'"),
        (lambda: Table(good, label="rihc"), "has no column 'rihc'; did you mean 'rich'"),
        (lambda: Table(gap, features=("age",)), r"row 4, column age: '': set missing="),
        (lambda: Table(good, targets=("job",)), "row 1, column job: 'clerk': wanted a finite number"),
        (lambda: Table(at("empty.csv")), "has no rows"),
        (lambda: Table(at("wide.csv")), "line 3: 3 values, the header names 2 columns"),
        (lambda: Table(at("twice.csv")), "two columns of one name"),
        (lambda: Table(at("bad.jsonl")), "line 2 is no JSON"),
        (lambda: Table(at("keys.jsonl")), r"line 2 holds \['b'\], the first line \['a'\]"),
        (lambda: Table(at("bad.parquet")), "cannot be read"),
        (lambda: Table(at("bad.csv.gz")), "cannot be read"),
    ]:
        with pytest.raises(DataError, match=message) as caught:
            make()
        assert "\n" not in str(caught.value)
    assert Table(gap, features=("age",), missing=-1.0).arrays["features"][3] == -1


@pytest.mark.skipif("FMJAX_DATA" not in os.environ, reason="FMJAX_DATA is not set")
def test_adult_has_the_published_counts():
    folder = Path(os.environ["FMJAX_DATA"]) / "tabular"
    # age, fnlwgt, education-num, capital-gain, capital-loss and hours-per-week are numbers
    names = [f"column {i}" for i in range(14)] + ["income"]
    train, test = str(folder / "adult.data.gz"), str(folder / "adult.test.gz")
    kwargs = {"label": "income", "header": tuple(names), "comment": "|", "strip": ".", "vocabulary": train}
    for path, counts in ((train, [24720, 7841]), (test, [12435, 3846])):
        table = Table(path, delimiter=",", **kwargs)
        assert np.bincount(table.arrays["label"]).tolist() == counts
        assert table.classes == ("<=50K", ">50K")
        assert table.arrays["features"].shape[1] == len(table.columns) == 6 + 9 + 16 + 7 + 15 + 6 + 5 + 2 + 42
