"""fmjax: one training loop for foundation models in JAX and Flax, from data to deployment."""

__version__ = "0.1.0"

_LAZY = {
    "call": "fmjax.core.config",
    "build": "fmjax.core.config",
    "fit": "fmjax.run",
    "Run": "fmjax.run",
}


def __getattr__(name: str):
    """Load `call`, `build`, `fit` and `Run` when they are used: importing fmjax imports neither jax nor numpy."""
    if name not in _LAZY:
        raise AttributeError(f"module 'fmjax' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
