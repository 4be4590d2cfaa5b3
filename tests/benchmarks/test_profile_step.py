"""The time of a step is divided among its operations: each has its own, and nothing is counted twice."""

import profile_step
import pytest
from profile_step import Cost, Kind

TEXT = """
ENTRY %main.9 (a: f32[4,8]) -> f32[4,8] {
  %fusion.3 = f32[4,8]{1,0} fusion(%a), kind=kLoop, metadata={op_name="jit(packed)/jvp(Net)/Net.run/block_0/mul"}
  %fusion.7.clone = f32[4,8]{1,0} fusion(%b), metadata={op_name="jit(packed)/jvp(Net)/Net.run/block_1/mul"}
  ROOT %while.2 = (s32[], f32[4,8]{1,0}) while(%c), condition=%d, body=%e
"""
FUSION, LOOP = Kind("fusion", "f32[4,8]", "jvp(Net)/block_*/mul"), Kind("while", "(s32[], f32[4,8])")


def event(op, start, dur, thread=1):
    return {"ph": "X", "pid": 1, "tid": thread, "ts": start, "dur": dur, "args": {"hlo_op": op}}


def test_operations_of_different_blocks_are_one_kind():
    assert profile_step.kinds(TEXT) == {"fusion.3": FUSION, "fusion.7.clone": FUSION, "while.2": LOOP}


def test_what_holds_others_is_only_told_its_own_time_and_threads_do_not_mix():
    events = [
        event("fusion.3", 1100, 300), event("while.2", 1000, 1000), event("fusion.3", 1500, 200),
        event("inner.1", 1520, 100), event("while.2", 2000, 500), event("fusion.7.clone", 900, 4000, thread=2),
        {"ph": "M", "pid": 1, "tid": 1, "name": "thread_name"},
    ]  # fmt: skip
    times = profile_step.own_times(reversed(events))
    assert times["while.2"] == Cost(pytest.approx(1.0), 2)
    assert times["fusion.3"] == Cost(pytest.approx(0.4), 2)
    assert times["inner.1"] == Cost(pytest.approx(0.1), 1)
    assert sum(cost.milliseconds for cost in times.values()) == pytest.approx(1.0 + 0.5 + 4.0)
    found = profile_step.grouped(times, profile_step.kinds(TEXT), steps=2)
    assert list(found) == [FUSION, LOOP, Kind("inner")]
    assert found[FUSION] == Cost(pytest.approx(2.2), 1.5)
    lines = profile_step.table(found, top=1)
    assert len(lines) == 2
    assert "80.0%" in lines[0]
    assert profile_step.OTHERS in lines[1]


def test_of_a_gpu_only_its_streams_count():
    named = [("Stream #7(Compute)", 1), ("XLA Ops", 2)]
    names = [{"ph": "M", "pid": 1, "tid": i, "name": "thread_name", "args": {"name": name}} for name, i in named]
    events = [event("dot.1", 0, 1000, thread=1), event("dot.1", 0, 1000, thread=2)]
    assert profile_step.own_times([*events, *names]) == {"dot.1": Cost(1.0, 1)}


def test_the_products_of_a_step_are_found_with_their_places():
    seconds, found = profile_step.profile("mlp", steps=2)
    assert seconds > 0
    products = [kind for kind in found if kind.place.endswith("dot_general")]
    assert {place.split("/")[0] for _, _, place in products} >= {"jvp(MLP)", "transpose(jvp(MLP))"}
    assert all(cost.milliseconds >= 0 and cost.count > 0 for cost in found.values())
