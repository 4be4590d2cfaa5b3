"""The page of speed says what its rows say, and by how much each misses its goal."""

import json

import pytest
import speed_table
import suite

from fmjax import results
from fmjax.core.errors import ConfigError, DataError

PAGE = f"Why: `step_a` waits.\n{speed_table.BEGIN}\n{speed_table.END}\nThe end.\n"


def row(folder, name, values, metric="seconds", peer=None, turns=None, **fields):
    base = None if peer is None else {"name": "torch", "value": peer, **({"values": turns} if turns else {})}
    told = {"task": "a step", "command": "python benchmarks/steps.py a", "repeats": len(values), **fields}
    results.write_row(name, metric=metric, values=values, baseline=base, folder=folder, **told)
    return json.loads((folder / f"{name}.json").read_text())


def test_the_page_of_the_repository_is_what_the_rows_say_and_every_miss_has_its_reason():
    assert speed_table.main(["--check"]) == 0


@pytest.mark.parametrize(
    ("name", "values", "metric", "peer", "missed"),
    [
        ("step_a", [1.0, 1.2, 9.0], "seconds", 1.0, 0.2),  # the median counts
        ("step_a", [0.5], "seconds", 1.0, -0.5),
        ("decode_a", [300.0], "tokens a second", 100.0, -1 / 3),  # a third of the time, of a half allowed
        ("inputs_text", [100.0], "examples a second", 100.0, 1.0),
        ("ceiling_a", [0.6], "share", None, 0.2),
        ("ceiling_a", [0.9], "share", None, -0.2),
        ("host_share_a", [0.02], "share of a step", None, 1.0),
        ("host_share_a", [-0.01], "share of a step", None, -2.0),
        ("import_seconds", [9.0], "seconds", 1.0, None),
    ],
)
def test_a_goal_is_missed_by_a_part_of_its_limit(tmp_path, name, values, metric, peer, missed):
    found = speed_table.missed(row(tmp_path, name, values, metric, peer))
    assert found == (None if missed is None else pytest.approx(missed))


def test_a_ratio_is_taken_turn_by_turn_where_the_row_has_turns(tmp_path):
    paired = row(tmp_path, "step_a", [1.0, 4.0, 6.0], peer=4.0, turns=[2.0, 4.0, 4.0])
    assert speed_table.ratios(paired) == [0.5, 1.0, 1.5]
    assert "1.00 (0.50 to 1.50)" in speed_table.line(paired)
    rate = row(tmp_path, "decode_a", [10.0, 20.0], "tokens a second", 5.0, [5.0, 5.0])
    assert speed_table.ratios(rate) == [0.5, 0.25]


def test_a_goal_beside_a_peer_needs_one(tmp_path):
    with pytest.raises(DataError, match="step_a has a goal beside a peer"):
        speed_table.missed(row(tmp_path, "step_a", [1.0]))


def test_only_what_lies_between_the_markers_is_written_and_a_miss_without_a_reason_is_refused(tmp_path, capsys):
    page = tmp_path / "RESULTS.md"
    page.write_text(PAGE)
    command = [f"--folder={tmp_path}", f"--page={page}"]
    row(tmp_path, "step_a", [1.5], peer=1.0, note="a | b")
    assert speed_table.main(command) == 0
    text = page.read_text()
    assert text.startswith("Why: `step_a` waits.\n")
    assert text.endswith("\nThe end.\n")
    assert "**missed by 50%**" in text
    assert speed_table.main([*command, "--check"]) == 0
    row(tmp_path, "step_b", [2.0], peer=1.0)
    with pytest.raises(DataError, match="is not what the rows say"):
        speed_table.main([*command, "--check"])
    capsys.readouterr()
    assert speed_table.main(command) == 0
    assert "does not say why these rows miss their goals: step_b" in capsys.readouterr().out
    with pytest.raises(DataError, match="step_b"):
        speed_table.main([*command, "--check"])


def test_rows_of_a_gpu_have_a_section_of_their_own_which_says_when_it_is_empty(tmp_path):
    here = row(tmp_path, "step_a", [1.0], peer=2.0)
    assert speed_table.table([here]).endswith(f"## GPU\n\n{speed_table.NOTHING}")
    there = row(tmp_path, "step_a_bfloat16_gpu", [1.0], peer=2.0)
    share = row(tmp_path, "mfu_llama_05b_2048_bfloat16_gpu", [0.4], "share")
    first, second = speed_table.table([here, there, share]).split("## GPU")
    assert "| `step_a` |" in first
    assert "gpu` |" not in first
    assert "`step_a_bfloat16_gpu`" in second
    assert "**missed by 20%**" in second
    assert speed_table.NOTHING not in second


def test_a_page_without_markers_is_refused(tmp_path):
    page = tmp_path / "RESULTS.md"
    page.write_text(f"{speed_table.END}\n{speed_table.BEGIN}\n")
    with pytest.raises(DataError, match="must hold the lines"):
        speed_table.main([f"--folder={tmp_path}", f"--page={page}"])


def test_the_suite_runs_tools_that_are_there_and_goes_on_after_one_that_fails(monkeypatch):
    assert all((suite.HERE / f"{tool}.py").is_file() for tool in suite.TOOLS)
    with pytest.raises(ConfigError, match="there is no 'stepz'"):
        suite.main(["stepz"])
    monkeypatch.setattr(suite, "command", lambda tool, repeats: ["test", tool, "=", "steps"])
    assert suite.run(["startup", "steps", "decode"], None) == ["startup", "decode"]
