"""Report: one file that stands alone, says everything, and believes nothing it is given."""

import json
import math
import random
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_folders import CONFIG, write_artifacts, write_run

from fmjax import report
from fmjax.core.errors import CheckpointError, DataError
from fmjax.report_chart import (
    HEIGHT,
    LEFT,
    POINTS,
    WIDTH,
    Curve,
    chart,
    downsample,
    log_ticks,
    smooth,
    tick_labels,
    ticks,
)
from fmjax.report_figures import artifact, confusion, gallery, reliability
from fmjax.training.writers import JsonLines

EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
VOID = {"meta", "img", "br", "input", "link", "hr"}


class Page(HTMLParser):
    """The tags, attributes and text of a page; every tag must be closed in order."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.text, self._open = [], [], "", []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self._open):
            self.text += data


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    slow = {**CONFIG["optimizer"], "rate": {**CONFIG["optimizer"]["rate"], "peak": 3e-3}}
    first = write_run(folder / "first", steps=1200, every=300)
    return [first, write_run(folder / "second", steps=600, seed=1, config={"optimizer": slow}, state="running")]


def test_one_run_says_everything(runs):
    path = report.write(runs[:1])
    assert path == runs[0] / "report.html"
    page = Page(path.read_text())
    for words in ("finished", "1200 of 1200", "1.23M", "--config=configs/vision/convnet_digits.py", "val/accuracy ↑"):
        assert words in page.text
    for words in ("def f(x):", "predicted class", "true class", "most frequent mistakes", "precision", "confidence"):
        assert words in page.text
    for words in (
        "optimizer.rate.peak = 0.001",
        "d80536b217a4355d4b988fa0315217162ee12fcc",
        '"warmup_cosine"',
        "0.10.2",
    ):
        assert words.strip('"') in page.text
    titles = re.findall(r'aria-label="([^"]*)"', path.read_text())
    expected = {"loss", "accuracy", "grad_norm", "rate", "val/loss", "val/accuracy", "test/accuracy", "step_seconds"}
    assert expected | {"examples_per_second", "confusion matrix", "reliability diagram"} <= set(titles)
    assert "val/accuracy_se" not in titles
    assert "± 0.0060" in page.text


def test_several_runs_are_overlaid_and_their_configs_compared(runs, tmp_path):
    path = report.write(runs, tmp_path / "deep" / "all.html")
    page = Page(path.read_text())
    charts = [json.loads(v) for _, k, v in page.attributes if k == "data-chart"]
    losses = [c["label"] for c in charts[0]["curves"]]
    assert losses == ["first train", "second train", "first val/loss", "second val/loss"]
    assert [c["colour"] for c in charts[0]["curves"]] == [0, 1, 0, 1]
    assert "config.optimizer.rate.peak" in page.text
    assert "lost (no heartbeat for" in page.text
    assert all(len(c["x"]) <= POINTS for chart in charts for c in chart["curves"])
    assert not list(tmp_path.rglob("*.tmp"))


def test_nothing_is_loaded_from_anywhere(runs):
    html = report.page([report.SavedRun.open(runs[0])])
    page = Page(html)
    assert not [a for a in page.attributes if a[1] in ("src", "href", "srcset", "action", "xlink:href")]
    assert not {"link", "iframe", "object", "embed", "base"} & set(page.tags)
    assert "@import" not in html
    assert not re.search(r"url\s*\(", html)
    assert set(re.findall(r"https?://[^\s'\"]+", html)) <= {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in html


def test_names_samples_and_configs_are_text_and_never_markup(tmp_path):
    run = write_run(tmp_path / "run<b>", steps=60, every=20, sample=EVIL, extra={EVIL: 0.5}, config={"note": EVIL})
    for name in ("overrides.json", "environment.json"):
        (run / name).write_text(json.dumps({EVIL: EVIL, "command": ["python", EVIL]}))
    (run / "state").write_text(EVIL)
    lines = JsonLines(run / "metrics.jsonl")
    lines.write({"kind": "eval", "step": 60, "time": 1.0, EVIL: math.inf, f"{EVIL}/loss": 0.5})
    lines.write({"kind": "event", "step": 60, "time": 1.0, "event": EVIL, EVIL: EVIL})
    lines.write({"kind": "start", "step": 60, "time": 1.0, "first_step_seconds": EVIL, "parameters": 3})
    lines.close()
    found = {EVIL: [[1, 2], [3, 4]], EVIL + "2": [{EVIL: EVIL, "b": 1}], "odd": {EVIL: [EVIL]}, "word": EVIL}
    (run / "artifacts" / "60" / f"{EVIL.replace('/', '')}.json").write_text(json.dumps(found))
    page = Page(report.page([report.SavedRun.open(run)]))
    assert page.tags.count("script") == 1
    assert not {"img", "b"} & set(page.tags)
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert page.text.count("alert('x')") > 10  # shown, as text


def test_incomplete_runs_are_reported_as_what_they_are(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "metrics.jsonl").write_text("")
    text = Page(report.write([empty]).read_text()).text
    assert "No step has been recorded yet" in text
    assert "config.json is missing" in text
    assert "unknown" in text

    trained = write_run(tmp_path / "trained", steps=30, every=100, state="failed")
    text = Page(report.write([trained]).read_text()).text
    assert "No evaluation has run yet" in text
    assert "failed" in text

    killed = write_run(tmp_path / "killed", steps=120, state="running")
    lines = (killed / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (killed / "metrics.jsonl").write_bytes(
        b"".join(lines[:20]) + b"\0garbage\n" + b"".join(lines[21:90]) + lines[90][:11]
    )
    (killed / "config.json").write_text('{"format": 1, "con')
    (killed / "artifacts" / "100" / "val.json").write_text("[1]")
    text = Page(report.write([killed, empty], tmp_path / "two.html").read_text()).text
    assert "1 damaged lines left out (line 21)" in text
    assert "config.json is damaged" in text
    assert "artifacts/100/val.json is damaged" in text


def test_a_run_whose_loss_is_never_finite_is_reported(tmp_path):
    run = write_run(tmp_path / "run", steps=50, extra={"loss": math.nan, "big": math.inf})
    text = Page(report.write([run]).read_text()).text
    assert "50 values are not finite, the first at step 1" in text


def test_what_is_no_run_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="no run folder"):
        report.write([tmp_path])
    with pytest.raises(DataError, match="there is no run folder"):
        report.write([tmp_path / "absent"])
    run = write_run(tmp_path / "run", steps=10)
    with pytest.raises(CheckpointError, match="cannot write"):
        report.write([run], tmp_path / "file" / "report.html")


def test_the_command_writes_the_file(tmp_path, capsys):
    run = write_run(tmp_path / "run", steps=10)
    assert report.main([str(run), "--out", str(tmp_path / "r.html")]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'r.html'}\n"
    assert (tmp_path / "r.html").stat().st_size > 10_000


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3000), st.integers(4, 200))
def test_downsampling_keeps_the_ends_and_the_extremes(y, limit):
    x = list(range(len(y)))
    xs, ys = downsample(x, y, limit)
    assert len(xs) <= max(limit, 4)
    assert all(y[i] == v for i, v in zip(xs, ys, strict=True))
    assert xs == sorted(set(xs))
    assert (xs[0], xs[-1]) == (0, len(y) - 1)
    assert (min(ys), max(ys)) == (min(y), max(y))


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_are_few_round_and_inside(low, span):
    span = max(span, 1e-6 * abs(low))
    found = ticks(low, low + span)
    slack = 1e-6 * span
    assert low - slack <= found[0] <= found[-1] <= low + span + slack
    assert 2 <= len(found) <= 8
    labels = tick_labels(found)
    assert len(set(labels)) == len(labels)
    assert max(map(len, labels)) <= 12


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0, 1000, 2000, 3000], ["0", "1000", "2000", "3000"]),
        ([0, 5000, 10000], ["0", "5k", "10k"]),
        ([10000, 10050, 10100], ["10.00k", "10.05k", "10.10k"]),
        ([-0.05, 0.0, 0.05], ["-0.05", "0.00", "0.05"]),
        ([0, 5e-4, 1e-3], ["0", "5e-4", "1e-3"]),
        ([1e-4, 1e-2, 1, 100, 1e4], ["1e-4", "0.01", "1", "100", "10k"]),
        ([0.5, 1, 2, 5], ["0.5", "1.0", "2.0", "5.0"]),
    ],
)
def test_tick_labels_are_short_and_tell_neighbours_apart(values, labels):
    assert tick_labels(values) == labels


@given(st.floats(-30, 20), st.floats(1e-3, 30))
def test_logarithmic_ticks_are_positive_rising_and_inside(low, span):
    found = log_ticks(low, low + span)
    assert found == sorted(found)
    assert len(found) <= 12
    assert all(low - 0.01 <= math.log10(v) <= low + span + 0.01 for v in found)


finite_or_not = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(finite_or_not, max_size=60), st.lists(finite_or_not, max_size=60))
def test_every_chart_is_well_formed_and_inside_its_frame(a, b):
    curves = [Curve("a & b", range(len(a)), a), Curve("<c>", range(len(b)), b, colour=7, dashed=True)]
    html = chart("t < u", curves)
    ET.fromstring(html)
    for path in re.findall(r'd="M([\d. \-L]+)" fill', html):
        for x, y in (point.split() for point in path.split("L")):
            assert LEFT - 0.1 <= float(x) <= WIDTH
            assert -0.1 <= float(y) <= HEIGHT


def test_a_noisy_curve_is_smoothed_without_moving_and_a_clean_one_is_left(tmp_path):
    rng = random.Random(0)
    assert smooth([i * 0.1 for i in range(1000)]) is None
    noisy = [5 + rng.gauss(0, 1) for _ in range(3000)]
    average = smooth(noisy)
    assert len(average) == len(noisy)
    assert all(abs(v - 5) < 0.7 for v in average[100:])


def test_the_logarithmic_axis_is_offered_for_positive_values_only():
    assert 'class="toggle"' in chart("t", [Curve("a", [1, 2], [1e-3, 1e3])])
    assert 'class="toggle"' not in chart("t", [Curve("a", [1, 2], [0.0, 1.0])])


def test_the_confusion_matrix_shows_counts_shares_and_mistakes():
    html = confusion([[90, 10, 0], [0, 0, 0], [1, 0, 99]])
    assert "200 examples, 94.50% on the diagonal" in html
    assert "true 0, predicted 1: 10 (10.0%)" in html
    shades = [float(v) for v in re.findall(r'fill-opacity="([\d.]+)"', html)]
    assert shades == [0.9, 0.1, 0, 0, 0, 0, 0.01, 0, 0.99]
    assert ">90<" in html
    mistakes = re.findall(r"<td class=n>(\d+)</td>", html)
    assert mistakes == ["0", "1", "10", "2", "0", "1"]
    assert "no mistakes" in confusion([[1, 0], [0, 1]])
    assert "none on the diagonal" in confusion([[0, 0], [0, 0]])


@pytest.mark.parametrize("classes", [2, 60, 150])
def test_confusion_matrices_of_any_size_are_shown(classes, tmp_path):
    write_artifacts(tmp_path / "a", random.Random(0), classes)
    html = artifact("confusion", json.loads((tmp_path / "a" / "val.json").read_text())["confusion"])
    Page(html)
    assert ("too many to draw" in html) == (classes == 150)
    assert len(html) < 2_000_000


def test_the_reliability_diagram_has_a_bar_for_every_bin():
    bins = [{"low": 0.5, "high": 0.6, "confidence": 0.55, "accuracy": 0.4, "weight": 10.0}]
    html = reliability([*bins, {"low": None, "high": None, "confidence": None, "accuracy": None, "weight": 0}])
    ET.fromstring(html[html.index("<svg") :])
    assert html.count("<rect") == 1
    assert "confidence 0.550, accuracy 0.400, 10 examples" in html


def test_help_and_reports_need_neither_jax_nor_numpy(tmp_path):
    run = write_run(tmp_path / "run", steps=10)
    code = (
        "import sys; from fmjax.report import main; main([sys.argv[1]])\n"
        "sys.exit(any(m in sys.modules for m in ('jax', 'numpy', 'matplotlib', 'tensorboardX')))"
    )
    subprocess.run([sys.executable, "-c", code, str(run)], check=True, capture_output=True)
    done = subprocess.run([sys.executable, "-m", "fmjax.report", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"


def test_pictures_are_shown_in_their_groups_and_nothing_but_png_gets_in(tmp_path):
    rows = [{"group": g, "caption": c, "picture": p} for g, c, p in [
        ("one", "a", PIXEL), ("one", "b", PIXEL), (EVIL, EVIL, PIXEL), ("two", "c", EVIL), ("two", "d", "aGVsbG8="),
    ]]  # fmt: skip
    run = write_run(tmp_path / "run", steps=20, every=20)
    path = run / "artifacts" / "20" / "worst.json"
    path.write_text(json.dumps({"mistakes": rows, "none": []}))
    page = Page(report.page([report.SavedRun.open(run)]))
    assert [v for _, k, v in page.attributes if k == "src"] == [f"data:image/png;base64,{PIXEL}"] * 3
    assert page.tags.count("figure") == 5
    assert page.text.count("no picture") == 2
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert page.tags.count("script") == 1
    assert "img-src data:" in str(page.attributes)
    assert gallery(rows * 300).count("<figure>") == 1000


def test_a_confusion_matrix_with_names_says_them(tmp_path):
    value = {"classes": ["cat & dog", EVIL, "a very long name of a class"], "counts": [[5, 1, 0], [0, 3, 0], [2, 0, 1]]}
    page = Page(artifact("confusion", value))
    assert "predicted cat & dog" in page.text
    assert "a very long n…" in page.text
    assert not {"script", "img"} & set(page.tags)
    assert "3 entries" in artifact("confusion", {**value, "classes": "abc", "x": 1})
