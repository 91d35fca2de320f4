"""Worker processes that take turns, to compare programs on a noisy machine."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Worker:
    """A process that calls `serve`. The attribute `ready` is its first answer.

    The attribute `turns` has one answer for every turn.
    """

    def __init__(self, command: Sequence[str], threads: int) -> None:
        self.process = subprocess.Popen(
            [*command], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {name: str(threads) for name in THREAD_VARIABLES},
        )  # fmt: skip
        self.turns: list[dict[str, float]] = []
        self.ready = self._answer()

    def turn(self, seconds: float) -> None:
        """Let the process run for about this number of seconds, at least one step."""
        assert self.process.stdin is not None
        print(seconds, file=self.process.stdin, flush=True)
        self.turns.append(self._answer())

    def close(self) -> None:
        """End the process."""
        self.process.communicate(timeout=60)

    def median(self, key: str) -> float:
        """Return the median over turns."""
        return statistics.median(turn[key] for turn in self.turns)

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.close()
            raise RuntimeError(f"a worker ended: status {self.process.returncode}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def python(module: str, *arguments: object) -> list[str]:
    """Return the command that runs a module."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def serve(ready: dict[str, Any], step: Callable[[], dict[str, float]], world: Any = None) -> None:
    """Read turns from standard input, and answer each with a line of JSON on standard output.

    Parameters
    ----------
    ready
        The first answer.
    step
        Does one step and returns the times of its parts, in seconds, by name.
    world
        The communicator of mpi4py, if the worker consists of several processes.

    The answer to a turn has the mean time of each part, their sum as "step", page faults a step as
    "faults", and the peak memory in bytes as "peak". The last two are sums over all processes.
    """

    def from_the_first(value: Any) -> Any:
        return value if world is None else world.bcast(value)

    def of_all(value: float) -> float:
        return value if world is None else world.allreduce(value)

    first = world is None or world.Get_rank() == 0
    step()  # the first step allocates memory
    if first:
        print(json.dumps(ready), flush=True)
    while True:
        line = sys.stdin.readline() if first else ""
        _wait(world)
        line = from_the_first(line)
        if not line:
            return
        steps, sums = 0, {"step": 0.0}
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        start = time.perf_counter()
        while not steps or from_the_first(time.perf_counter() - start < float(line)):
            for name, seconds in step().items():
                sums[name] = sums.get(name, 0.0) + seconds
                sums["step"] += seconds
            steps += 1
        usage = resource.getrusage(resource.RUSAGE_SELF)
        answer = {name: seconds / steps for name, seconds in sums.items()}
        answer["faults"] = of_all(usage.ru_minflt - faults) / steps
        answer["peak"] = of_all(usage.ru_maxrss * 1024)  # Linux gives KiB
        if first:
            print(json.dumps(answer), flush=True)


def _wait(world: Any) -> None:
    """Wait for the first process, without using the processor while another worker runs."""
    if world is not None:
        everyone = world.Ibarrier()
        while not everyone.Test():
            time.sleep(0.002)


def take_turns(workers: Sequence[Worker], rounds: int, seconds: float) -> None:
    """Let the workers run one after the other, `rounds` times."""
    for _ in range(rounds):
        for worker in workers:
            worker.turn(seconds)


def ratio(other: Worker, ours: Worker, key: str) -> tuple[float, float, float]:
    """Return the other's time divided by ours, over all rounds: (median, smallest, largest)."""
    ratios = sorted(a[key] / b[key] for a, b in zip(other.turns, ours.turns, strict=True))
    return statistics.median(ratios), ratios[0], ratios[-1]
