"""Where a text ends, while it is still being written."""

from collections.abc import Sequence


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """(the text before the first of the stop strings, whether there was one)."""
    places = [at for stop in stops if (at := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def safe(text: str, stops: Sequence[str]) -> str:
    """The part of a growing text that may be shown: what could still become a stop string is held back, and so is
    half a character, which decodes to U+FFFD at the end."""
    text = text.rstrip("\ufffd")
    held = [n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
    return text[: len(text) - max(held)] if held else text
