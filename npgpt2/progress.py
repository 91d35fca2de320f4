"""Show the progress of long work: in one line on a terminal, in new lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """Show which step a run has reached, and the time left.

    On a terminal, an update rewrites the same line, at most ten times a second. In a file or pipe,
    an update adds a line, at most one every ten seconds. A milestone is always shown.

    Parameters
    ----------
    total
        Number of steps of the whole run.
    done
        Number of steps that were done before. The estimate of the time left does not count them.
    stream
        Where to write; standard error by default.
    """

    def __init__(self, total: int, done: int = 0, stream: TextIO | None = None) -> None:
        self.total, self.first = total, done
        self.stream = sys.stderr if stream is None else stream
        self.terminal = self.stream.isatty()
        self.start = self.last = time.monotonic()
        self.width = 0

    def update(self, step: int, text: str, milestone: bool = False) -> None:
        """Show "step S/TOTAL  text  TIME left", unless the last line is too recent."""
        now = time.monotonic()
        if not milestone and now - self.last < (0.1 if self.terminal else 10.0):
            return
        self.last = now
        left = (now - self.start) / max(step - self.first, 1) * (self.total - step)
        line = f"step {step}/{self.total}  {text}  {format_seconds(left)} left"
        if self.terminal:
            self.stream.write("\r" + line.ljust(self.width))
            self.width = len(line)
        else:
            self.stream.write(line + "\n")
        self.stream.flush()

    def close(self) -> None:
        """End the line on a terminal, so that the next output begins on a new line."""
        if self.terminal and self.width:
            self.stream.write("\n")
            self.stream.flush()
            self.width = 0


def format_seconds(seconds: float) -> str:
    """Return seconds as m:ss or h:mm:ss.

    >>> format_seconds(83.4), format_seconds(3723)
    ('1:23', '1:02:03')
    """
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{s:02}" if hours else f"{minutes}:{s:02}"
