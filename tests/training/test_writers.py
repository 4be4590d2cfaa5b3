"""Writers: what was written is read back, whatever interrupts; and a person can read the rest."""

import json
import math
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmjax.core.errors import CheckpointError, DataError
from fmjax.training.progress import amount, compact, duration
from fmjax.training.records import scan_records
from fmjax.training.writers import JsonLines, Progress, TensorBoard, read_records


def train(step, **metrics):
    return {"kind": "train", "step": step, "time": 1e9 + step, "loss": 1 / (step + 1)} | metrics


def same(a, b):
    return a.keys() == b.keys() and all(a[k] == b[k] or (a[k] != a[k] and b[k] != b[k]) for k in a)


def write_all(path, records):
    lines = JsonLines(path)
    for record in records:
        lines.write(record)
    lines.close()


names = st.text(st.characters(exclude_categories=["Cs"])).filter(lambda k: k not in ("kind", "step", "time", "batch"))
metrics = st.dictionaries(names, st.floats() | st.integers(-(2**53), 2**53), max_size=4)


@given(st.lists(metrics, max_size=5), st.text(st.characters(exclude_categories=["Cs"])))
def test_what_was_written_is_read_back_and_every_line_is_strict_json(tmp_path_factory, rows, word):
    path = tmp_path_factory.mktemp("lines") / "metrics.jsonl"
    records = [{"kind": "train", "step": i, "time": 1.5, **row} for i, row in enumerate(rows)]
    records.append({"kind": "event", "step": 9, "time": 2.0, "event": word})
    write_all(path, records)
    for line in path.read_bytes().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    read = read_records(path)
    assert len(read) == len(records)
    assert all(map(same, read, records))


def test_numbers_that_are_not_finite_are_strings_in_the_file(tmp_path):
    write_all(
        tmp_path / "m", [train(1, a=math.nan, b=math.inf, c=-math.inf), {"kind": "event", "step": 1, "event": "nan"}]
    )
    first, second = map(json.loads, (tmp_path / "m").read_text().splitlines())
    assert (first["a"], first["b"], first["c"]) == ("nan", "inf", "-inf")
    read = read_records(tmp_path / "m")
    assert math.isnan(read[0]["a"])
    assert (read[0]["b"], read[0]["c"]) == (math.inf, -math.inf)
    assert read[1]["event"] == second["event"] == "nan"  # a word, not a number


def test_arrays_of_one_number_are_numbers(tmp_path):
    import jax.numpy as jnp

    write_all(tmp_path / "m", [train(np.int64(3), a=np.float32(0.5), b=jnp.float32(np.nan), c=np.bool_(True))])
    (record,) = read_records(tmp_path / "m")
    assert (record["step"], record["a"], record["c"]) == (3, 0.5, True)
    assert math.isnan(record["b"])


@given(st.integers(0, 200))
def test_a_torn_last_line_is_ignored_and_cut_off_on_reopening(tmp_path_factory, kept):
    path = tmp_path_factory.mktemp("torn") / "metrics.jsonl"
    write_all(path, [train(i) for i in range(3)])
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    complete = whole[:kept].count(b"\n")
    assert [r["step"] for r in read_records(path)] == list(range(complete))
    write_all(path, [train(7)])
    assert [r["step"] for r in read_records(path)] == [*range(complete), 7]


def test_a_long_torn_line_is_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_all(path, [train(0)])
    with open(path, "ab") as file:
        file.write(b"x" * 200_000)
    JsonLines(path).close()
    assert [r["step"] for r in read_records(path)] == [0]
    assert path.stat().st_size < 200


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_all(path, [train(i) for i in range(3)])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\0\0\0\n" + lines[2])
    with pytest.raises(DataError, match="line 2 is damaged"):
        read_records(path)
    records, damaged = scan_records(path)
    assert ([r["step"] for r in records], damaged) == ([0, 2], [2])


def test_records_survive_kill_9(tmp_path):
    code = (
        "import sys; from fmjax.training.records import JsonLines\n"
        "lines = JsonLines(sys.argv[1]); step = 0\n"
        "while True:\n"
        "  step += 1; lines.write({'kind': 'train', 'step': step, 'time': 0.0, 'loss': 0.5})\n"
        "  if step % 100 == 0: print(step, flush=True)\n"
    )
    path = tmp_path / "metrics.jsonl"
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    for line in child.stdout:
        said = int(line)
        if said >= 500:
            break
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    steps = [r["step"] for r in read_records(path)]
    assert len(steps) >= said
    assert steps == list(range(1, len(steps) + 1))


def test_truncating_drops_later_metrics_and_keeps_what_happened(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path)
    for step in range(1, 6):
        lines.write(train(step))
        lines.write({"kind": "eval", "step": step, "time": 0.0, "val/loss": 1.0})
        lines.write({"kind": "event", "step": step, "time": 0.0, "event": "saved"})
    inode = path.stat().st_ino
    assert lines.truncate_after(9) == 0
    assert path.stat().st_ino == inode  # nothing to drop, nothing rewritten
    assert lines.truncate_after(3) == 4
    lines.write(train(4))
    lines.close()
    records = read_records(path)
    assert [r["step"] for r in records if r["kind"] == "train"] == [1, 2, 3, 4]
    assert [r["step"] for r in records if r["kind"] == "eval"] == [1, 2, 3]
    assert [r["step"] for r in records if r["kind"] == "event"] == [1, 2, 3, 4, 5]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        JsonLines(tmp_path / "file" / "metrics.jsonl")
    with pytest.raises(CheckpointError, match="cannot write"):
        TensorBoard(tmp_path / "file" / "tensorboard")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_error_at_once(tmp_path):
    lines = JsonLines(tmp_path / "metrics.jsonl")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, lines._file)
    os.close(full)
    os.ftruncate, kept = lambda *_: None, os.ftruncate  # /dev/full has no length
    try:
        with pytest.raises(CheckpointError, match="No space left"):
            lines.write(train(1))
    finally:
        os.ftruncate = kept
        lines.close()


def events(folder):
    """Every event of a folder, in TensorBoard's order, read by the format's definition with its checksums."""
    from tensorboardX.proto.event_pb2 import Event

    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)

    def masked_crc(data):
        crc = 0xFFFFFFFF
        for byte in data:
            crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
        crc ^= 0xFFFFFFFF
        return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF

    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,), crc = struct.unpack("<Q", data[:8]), struct.unpack("<I", data[8:12])
            body, (crc_body,) = data[12 : 12 + length], struct.unpack("<I", data[12 + length : 16 + length])
            assert crc == (masked_crc(data[:8]),)
            assert crc_body == masked_crc(body)
            yield Event.FromString(body)
            data = data[16 + length :]


def test_tensorboard_events_read_back(tmp_path):
    board = TensorBoard(tmp_path)
    board.write({**train(5, grad_norm=math.nan, huge=1e300), "batch": "00ff"})
    board.write({"kind": "eval", "step": 5, "time": 7.0, "val/accuracy": np.float32(0.75)})
    board.write({"kind": "event", "step": 5, "time": 7.0, "event": "saved"})
    board.text("samples", "def f():", 5)
    board.truncate_after(3)
    board.write(train(4))
    board.close()
    board.close()
    found = list(events(tmp_path))
    scalars = {(e.step, v.tag): v.simple_value for e in found for v in e.summary.value if not v.HasField("tensor")}
    assert scalars.pop((5, "train/grad_norm")) != 0
    assert scalars == {
        (5, "train/loss"): pytest.approx(1 / 6),
        (5, "train/huge"): math.inf,
        (5, "eval/val/accuracy"): 0.75,
        (4, "train/loss"): pytest.approx(1 / 5),
    }
    texts = {v.tag: v.tensor.string_val[0] for e in found for v in e.summary.value if v.HasField("tensor")}
    assert texts == {"events/text_summary": b"event: saved", "samples/text_summary": b"def f():"}
    purges = [e.step for e in found if e.HasField("session_log")]
    assert purges == [4]
    assert [e.file_version for e in found if e.file_version] == ["brain.Event:2"] * 2
    assert found[1].wall_time == 1e9 + 5


class Stream:
    """A stream that remembers, and says whether it is a terminal."""

    def __init__(self, tty=False, encoding="utf-8"):
        self.tty, self.encoding, self.text = tty, encoding, ""

    def isatty(self):
        return self.tty

    def write(self, text):
        self.text += text.encode(self.encoding).decode(self.encoding)

    def flush(self):
        pass

    def screen(self):
        """What a terminal shows: carriage returns and erasing carried out."""
        lines = [""]
        for piece in self.text.replace("\x1b[K", "").replace("\n", "\n\r").split("\r"):
            if piece:
                lines[-1] = piece.rstrip("\n")
            if piece.endswith("\n"):
                lines.append("")
        return lines


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return monkeypatch


def test_a_terminal_sees_one_line_redrawn_with_the_time_left(terminal):
    stream, clock = Stream(tty=True), Clock()
    bar = Progress(200, stream, clock=clock)
    for step in range(1, 101):
        speed = {"examples_per_second": 1234.5} if step % 20 == 1 else {}
        bar.write(train(step, rate=3e-4, time=5 + step / 2, **speed))
        clock.now += 0.5
    (line,) = stream.screen()
    assert line.startswith(" 50% █")
    assert "100/200  loss 0.0099  ETA 0:50  1.23k examples/s  rate 3.00e-04" in line
    assert len(line) < 100
    bar.write(
        {
            "kind": "eval",
            "step": 100,
            "time": 0.0,
            "val/loss": 1.25,
            "val/accuracy": 0.5,
            "val/accuracy_se": 0.01,
            "test/loss": 2.0,
        }
    )
    bar.close()
    evaluation, line, last = stream.screen()
    assert evaluation == "eval  step 100  val: loss 1.2500, accuracy 0.5000 ± 0.0100  test: loss 2.0000"
    assert line.startswith(" 50% █")
    assert last == ""


@pytest.mark.parametrize("columns", [10, 40, 60, 80, 200])
def test_the_line_fits_the_terminal(terminal, columns):
    terminal.setenv("COLUMNS", str(columns))
    stream = Stream(tty=True)
    bar = Progress(10**6, stream)
    bar.write(train(123456, rate=3e-4, examples_per_second=1e5, tokens_per_second=1e7))
    (line,) = stream.screen()
    assert len(line) < columns
    assert line.startswith(" 12%")


def test_a_log_gets_plain_lines_now_and_then_and_at_every_tenth():
    stream, clock = Stream(), Clock()
    bar = Progress(1000, stream, clock=clock)
    for step in range(1, 1001):
        bar.write(train(step))
        clock.now += 0.1  # 100 s in all: a line at 30, 60, 90 s as well
    bar.write({"kind": "event", "step": 1000, "time": 0.0, "event": "saved"})
    bar.write({"kind": "event", "step": 1000, "time": 0.0, "event": "finished"})
    bar.close()
    lines = stream.text.splitlines()
    assert "\r" not in stream.text
    assert "\x1b" not in stream.text
    assert lines[0].startswith("step 1/1000 (0%)  loss 0.5000")
    assert [line for line in lines if line.startswith("step 300/1000 (30%)")]
    assert lines[-2].startswith("step 1000/1000 (100%)")
    assert lines[-1] == "finished at step 1000"
    assert 12 <= len(lines) <= 15


def test_a_stream_without_blocks_gets_hashes_and_names_cannot_move_the_cursor(terminal):
    stream = Stream(tty=True, encoding="ascii")
    bar = Progress(2, stream)
    bar.write(train(1))
    bar.write({"kind": "eval", "step": 1, "time": 0.0, "va\x1b[2Jl/é\n": 1.0})
    bar.close()
    assert "##" in stream.text
    assert "\x1b[2J" not in stream.text
    assert "va?[2Jl: ?? 1.0000" in stream.text


def test_a_closed_stream_does_not_stop_the_run():
    stream = Stream()
    stream.write = lambda text: (_ for _ in ()).throw(BrokenPipeError())
    bar = Progress(3, stream)
    for step in range(1, 4):
        bar.write(train(step))
    bar.close()


def test_the_time_left_starts_again_after_a_resume():
    stream, clock = Stream(), Clock()
    bar = Progress(100, stream, clock=clock)
    for step in range(1, 51):
        bar.write(train(step, time=1000.0 * step))
        clock.now += 1000.0
    bar.truncate_after(20)
    for step in range(21, 31):
        bar.write(train(step, time=1e9 + step))
        clock.now += 1.0
    assert "step 30/100 (30%)  loss 0.0323  ETA 1:10" in stream.text


def test_progress_costs_little_when_nothing_is_drawn():
    bar, record = Progress(10**9, Stream(), clock=Clock()), train(1, rate=0.1)
    bar.write(record)
    best = math.inf
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(100):
            bar.write(record)
        best = min(best, (time.perf_counter() - began) / 100)
    assert best < 50e-6


def test_numbers_for_people():
    assert [compact(x) for x in (0, 7, 999.4, 999.6, 12345, 4.56e6, 1e12)] == [
        "0",
        "7",
        "999",
        "1k",
        "12.3k",
        "4.56M",
        "1T",
    ]
    assert [duration(x) for x in (0, 42, 725, 11045, 183840, math.nan)] == [
        "0:00",
        "0:42",
        "12:05",
        "3:04:05",
        "2d 03:04",
        "?",
    ]
    assert [amount(x) for x in (0, 1.23456, 1e-5, 1e6, math.nan)] == [
        "0.0000",
        "1.2346",
        "1.000e-05",
        "1.000e+06",
        "nan",
    ]


def test_reading_and_writing_imports_no_jax_and_no_numpy():
    code = (
        "import sys, fmjax.training.writers; sys.exit(any(m in sys.modules for m in ('jax', 'numpy', 'tensorboardX')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
