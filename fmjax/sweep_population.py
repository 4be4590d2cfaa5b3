"""The runs of a study as populations: those that differ in seed and continuous numbers alone share a program."""

import json
import time
import traceback
from collections.abc import Sequence
from typing import Any

from fmjax.assembly import prepare
from fmjax.core.errors import ConfigError, UserError
from fmjax.population import fit_members
from fmjax.population_program import skeleton


def run_populations(plan: Any, left: Sequence[int], most: int) -> bool:
    """Run what is left of a plan, at most so many runs a program; False when it was interrupted.

    Raises:
      ConfigError: numbers differ that cannot vary inside one program; the study can be run without populations.
    """
    if most < 1:
        raise ConfigError(f"--population={most}: give 1 or more, or no number")
    made = {i: prepare(plan.study.config, [*plan.trials[i].flags, *plan.flags]) for i in left}
    alike: dict[str, list[int]] = {}
    for i, (config, _) in made.items():
        alike.setdefault(json.dumps(skeleton(config), sort_keys=True), []).append(i)
    groups = [own[at : at + most] for own in alike.values() for at in range(0, len(own), most)]
    print(f"{len(left)} runs in {len(groups)} programs", flush=True)
    return all(_together(plan, group, [made[i] for i in group]) for group in groups)


def _together(plan: Any, group: Sequence[int], made: Sequence[tuple[Any, dict]]) -> bool:
    if len(group) == 1:
        line = plan.trial(group[0])
        if line is not None:
            plan.take(group[0], line)
        return line is not None
    began, how = time.perf_counter(), f"population of {len(group)}"
    folders = [plan.workdir / plan.trials[i].folder for i in group]
    try:
        runs = fit_members([config for config, _ in made], folders, [changed for _, changed in made])
    except ConfigError:
        raise  # nothing was trained: it holds for the whole study
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        said = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        for i in group:
            plan.take(i, plan.line(i, "failed", error=said, how=how))
        return True
    seconds = (time.perf_counter() - began) / len(group)
    for i, run in zip(group, runs, strict=True):
        if run.word != "interrupted":
            plan.take(i, plan.line(i, run.word, run.numbers, run.error, seconds=seconds, how=how))
    return all(run.word != "interrupted" for run in runs)
