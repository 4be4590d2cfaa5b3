"""Hyperparameters may be traced: in a population they are inputs of the program, and unknown while it is made."""

from typing import Any

import jax


def is_traced(value: Any) -> bool:
    """Whether a number is an input of the program (or any array), so that Python cannot branch on it."""
    return isinstance(value, jax.Array)


def matters(factor: Any) -> bool:
    """Whether a term with this factor is to be computed: 0 leaves it out, and a traced number may be anything."""
    return is_traced(factor) or bool(factor)
