"""Where a model lies: a folder here, or one of the Hugging Face hub, fetched once."""

import re
from pathlib import Path
from typing import Any

from fmjax.core.errors import CheckpointError, UserError, extra

PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def locate(path: str | Path) -> Path:
    """The folder of a model, fetched from the hub when there is none of that name here.

    Raises:
      CheckpointError: neither a folder nor a model that the hub gives (now).
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"{path} is a file: name the folder with its config.json")
    if not _ID.fullmatch(str(path)) or set(str(path)) <= {".", "/"}:
        raise CheckpointError(f"there is no folder {path}")
    try:
        library = extra("huggingface_hub", "hub")
    except UserError as error:
        raise CheckpointError(f"there is no folder {path}; to fetch it from the Hugging Face hub, {error}") from None
    try:
        return Path(library.snapshot_download(str(path), allow_patterns=PATTERNS))
    except Exception as error:  # dozens of kinds, from HTTP, the cache and the check of the name
        raise CheckpointError(
            f"there is no folder {path}, and the Hugging Face hub does not give a model of that name: {_why(error)}"
        ) from None


def _why(error: Any) -> str:
    """A reason in a few words."""
    kind, text = type(error).__name__, " ".join(str(error).split())
    if kind in ("OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectError", "ConnectTimeout", "ConnectionError"):
        return "it cannot be reached (offline?), and nothing is cached here"
    if kind == "GatedRepoError":
        return "its terms must be accepted first, on its page, and HF_TOKEN set"
    if kind == "RepositoryNotFoundError":
        return "it knows none (or needs HF_TOKEN for it)"
    return f"{kind}: {text[:200]}"
