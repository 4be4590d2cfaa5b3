"""A signal asks the run to stop at the next step; a second one stops it at once."""

import os
import signal
import threading
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupts:
    """Within `with Interrupts() as asked:`, `asked.name` is the signal that came, or None.

    Outside the main thread (a notebook's helper thread, say) Python delivers no signals, and this watches none.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._old: dict = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._old = {s: signal.signal(s, self._ask) for s in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.name:
            os._exit(128 + number)
        self.name = signal.Signals(number).name
