"""What every command does before its work: caches, flags, processes."""

import os
import warnings


def start(distributed: bool = False) -> None:
    """Set up jax for a command: compiled programs are kept between runs, and worker processes may start."""
    import jax
    from absl import flags

    from fmjax.data import cache

    if distributed:
        if os.environ.get("JAX_PLATFORMS") == "cpu":
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize()
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(cache.folder() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    flags.FLAGS.mark_as_parsed()  # grain's worker processes read absl's flags
    warnings.filterwarnings("ignore", message=".*donated buffers were not usable.*")
