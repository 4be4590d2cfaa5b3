"""What a person sees when something they gave is wrong: one line that says what and what to do."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Something given by a person is wrong; the message is one line: what is wrong, what to do."""


class ConfigError(UserError, ValueError):
    """A config or an override of it is wrong."""


class DataError(UserError, ValueError):
    """A dataset, a record or a batch is missing or wrong."""


class CheckpointError(UserError, RuntimeError):
    """A run folder or a checkpoint is damaged, belongs elsewhere, or cannot be written."""


def exits(main: Callable[..., int | None]) -> Callable[..., None]:
    """Wrap a command: a `UserError` becomes one line on stderr and exit code 2, anything else a traceback."""

    def run(*args, **kwargs) -> None:
        try:
            sys.exit(main(*args, **kwargs) or 0)
        except UserError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)
        except BrokenPipeError:
            sys.exit(141)

    run.__doc__ = main.__doc__
    return run


def extra(module: str, name: str):
    """Import an optional package, or say which extra of fmjax brings it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise UserError(f"{module} is needed here and is not installed: pip install 'fmjax[{name}]'") from None
