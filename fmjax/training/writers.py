"""Writers: what a run says while it trains, as JSON lines, as TensorBoard events and on the terminal.

Every writer has `write(record)`, `truncate_after(step)` (a resume or a rollback goes on from `step`, so what was
said about later steps no longer holds) and `close()`. A record is a flat dict with `kind`, `step` and `time`.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmjax.core.errors import CheckpointError
from fmjax.training.progress import Progress
from fmjax.training.records import NO_METRIC, JsonLines, numbers, read_records

__all__ = ["JsonLines", "Progress", "TensorBoard", "read_records"]


class TensorBoard:
    """Write scalars (`train/<metric>`, `eval/<evaluator>/<metric>`) and text as TensorBoard event files.

    Flushed every `flush_seconds`. tensorboardX's SummaryWriter is not used: its thread dies silently when the
    disk is full, and the next writes then wait for ever. Its event format and record file are.
    """

    def __init__(self, folder: str | Path, flush_seconds: float = 10.0):
        self.folder, self.flush_seconds = Path(folder), flush_seconds
        self._records = None
        self._open()

    def write(self, record: Mapping[str, Any]) -> None:
        """Write the numbers of a record; an event becomes text."""
        from tensorboardX.proto.summary_pb2 import Summary

        kind, step, when = record.get("kind"), int(record.get("step", 0)), record.get("time")
        if kind == "event":
            words = {k: v for k, v in record.items() if k not in NO_METRIC}
            self.text("events", ", ".join(f"{k}: {v}" for k, v in words.items()), step)
            return
        values = [
            Summary.Value(tag=f"{kind}/{key}", simple_value=_float32(value)) for key, value in numbers(record).items()
        ]
        if values:
            self._event(step, when, summary=Summary(value=values))

    def text(self, tag: str, text: str, step: int) -> None:
        """Write a text under a tag; TensorBoard shows it as Markdown."""
        from tensorboardX import summary

        self._event(step, None, summary=summary.text(tag, text))

    def truncate_after(self, step: int) -> None:
        """Tell TensorBoard to forget what earlier files say about later steps, from a new file on."""
        from tensorboardX.proto.event_pb2 import SessionLog

        self.close()
        self._open()
        self._event(step + 1, None, session_log=SessionLog(status=SessionLog.START))

    def close(self) -> None:
        """Flush and close; a second time does nothing."""
        if self._records is not None:
            self._records.flush()
            self._records.close()
            self._records = None

    def _open(self) -> None:
        from tensorboardX.record_writer import RecordWriter

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            number = len(list(self.folder.glob("events.out.tfevents.*")))
            # TensorBoard reads the files of a folder in the order of their names.
            path = self.folder / f"events.out.tfevents.{int(time.time()):010d}.{number:04d}"
            self._records = RecordWriter(str(path))
        except OSError as error:
            raise CheckpointError(f"cannot write {self.folder}: {error.strerror}") from None
        self._flushed = 0.0
        self._event(0, None, file_version="brain.Event:2")

    def _event(self, step: int, when: float | None, **what: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        event = Event(step=step, wall_time=time.time() if when is None else when, **what)
        try:
            self._records.write(event.SerializeToString())
            if time.monotonic() - self._flushed > self.flush_seconds:
                self._records.flush()
                self._flushed = time.monotonic()
        except OSError as error:
            raise CheckpointError(f"cannot write {self.folder}: {error.strerror}") from None


def _float32(value: float) -> float:
    """Protobuf's float field refuses what does not fit; infinity says the same."""
    return math.copysign(math.inf, value) if abs(value) > 3.4028234e38 else value
