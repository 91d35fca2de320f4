"""Ctrl-C while the command line is being imported: one line instead of a traceback.

`npgpt2/__init__.py` calls this file first, because NumPy takes most of the time until a command
begins.
"""

import os
import signal
import sys


def _end(_number: int, _frame: object) -> None:
    """End the process at once: an exception inside an import may get lost, or change its type."""
    os.write(2, b"npgpt2: interrupted\n")
    os._exit(130)


def end_at_once() -> None:
    """If the program is the command line, Ctrl-C ends it with one line and status 130 from now on.

    If Ctrl-C is ignored, it stays ignored.
    """
    program = os.path.basename(sys.argv[0]) if sys.argv else ""
    command = program in ("npgpt2", "npgpt2.exe") or " -m npgpt2" in " ".join(sys.orig_argv)
    if command and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_again() -> None:
    """From now on, Ctrl-C raises KeyboardInterrupt again, as it does by default."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
