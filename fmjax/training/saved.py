"""A run's state as its checkpoints hold it: what never moves lies apart, once a run, under its digest."""

from collections.abc import Mapping
from typing import Any

from fmjax.training.checkpoint import Checkpoints
from fmjax.training.state import State


def restore(checkpoints: Checkpoints, whole: State, step: int | None = None) -> tuple[State, dict[str, Any]]:
    """(state, manifest) of a step, or of the latest that is not damaged.

    Runs of before this layout have the nets that no player moves among the others, in every checkpoint.

    Args:
      whole: the state to restore into, abstract (`Program.abstract`).

    Raises:
      CheckpointError: as `Checkpoints.restore`.
    """
    idle = whole.frozen.keys() - whole.params.keys()

    def target(leaves: Mapping[str, Any]) -> State:
        nets = {net: whole.frozen[net] for net in sorted(idle) if _has(leaves, f"params/{net}/")}
        averages = {net: tree for net, tree in nets.items() if _has(leaves, f"ema/{net}/")}
        return whole.replace(params={**whole.params, **nets}, ema={**whole.ema, **averages}, frozen={})

    state, manifest = checkpoints.restore(target, step)
    among = {net: state.params[net] for net in state.params if net in idle}
    mine = {net: tree for net, tree in whole.frozen.items() if net not in among}
    digest = manifest.get("frozen")
    frozen = checkpoints.restore_frozen(mine, digest) if digest else {}
    params, ema = ({net: x for net, x in tree.items() if net not in among} for tree in (state.params, state.ema))
    return state.replace(params=params, ema=ema, frozen={**frozen, **among}), manifest


def _has(leaves: Mapping[str, Any], start: str) -> bool:
    return any(name.startswith(start) for name in leaves)
