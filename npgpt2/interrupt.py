"""Ctrl-C while the command line is being imported: one line instead of a traceback.

`npgpt2/__init__.py` imports this file first, if the program is the command line.
"""

import os
import signal


def _end(_number: int, _frame: object) -> None:
    """End the process at once: an exception inside an import may get lost, or change its type."""
    os.write(2, b"npgpt2: interrupted\n")
    os._exit(130)


def end_at_once() -> None:
    """From now on, Ctrl-C ends the process with one line and status 130, unless it is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_again() -> None:
    """From now on, Ctrl-C raises KeyboardInterrupt again, as it does by default."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
