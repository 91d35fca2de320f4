"""Ranks: processes that train one model together, each on its share of every batch.

`pip install 'npgpt2[mpi]'` installs mpi4py and, except on Windows, MPICH, which is an MPI library.
Then start the ranks with mpiexec:

    mpiexec -n 2 npgpt2 train --text book.txt --out runs/book
    mpiexec -n 2 npgpt2 train --resume runs/book

- The result is the same as with one process, up to rounding, dropout included.
- You may resume with the same number of ranks or with another number, also with one process. With
  the same number, the run continues bit for bit as if it had never stopped.
- Only rank 0 prints and writes. So the same command works on a cluster whose machines share a file
  system.
- Ctrl-C stops all ranks at the same step, and saves the run. If one rank dies, all ranks end, and
  the last checkpoint is good.
- The ranks on one machine divide its cores among them: each rank uses as many threads as its share
  has cores. To prevent this, set OMP_NUM_THREADS, OPENBLAS_NUM_THREADS or MKL_NUM_THREADS, or pass
  `--no-tuning`.
- All this was tried only with MPICH, on one machine.

How it works. The loss of a batch is the mean over its B rows. A rank has b of these rows, and
computes the mean loss of its rows. The loss is the sum, over all ranks, of b/B times the rank's
mean. Its gradient is the same sum of the ranks' gradients. Everything else is the same on every
rank: each draws the whole batch and the dropout masks of the whole batch from the same generators,
gets the same sum of gradients, and changes all weights by the same step. So the weights of all
ranks stay equal, bit for bit, if the sum has the same bits on every rank. The ranks check this
before they write a checkpoint.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from autograd import Array
from npgpt2.machine import process

T = TypeVar("T")


class Ranks:
    """One process of a group. This base class is a group of one, and does not communicate.

    Attributes
    ----------
    rank
        Number of this process, from 0. Only rank 0 prints and writes.
    size
        Number of ranks.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    def share(self, batch_size: int) -> slice:
        """Return the rows of a batch that belong to this rank. Shares differ by at most one row.

        Raises
        ------
        ValueError
            The batch has fewer rows than there are ranks.
        """
        if batch_size < self.size:
            raise ValueError(
                f"batch_size={batch_size} is too small for {self.size} ranks, because each needs "
                "at least one row; take a larger batch_size or fewer ranks"
            )
        return slice(*(batch_size * r // self.size for r in (self.rank, self.rank + 1)))

    def sum(self, arrays: Sequence[Array]) -> list[Array]:
        """Return the sum of each array over all ranks. All arrays must have the same dtype."""
        return list(arrays)

    def once(self, call: Callable[[], T]) -> T:
        """Call `call` only on rank 0; return its result, or raise its Exception, on every rank."""
        return call()

    def any(self, flag: bool) -> bool:
        """Return whether the flag is true on at least one rank."""
        return bool(self.sum([np.array(float(flag))])[0])

    def agree(self, value: object) -> bool:
        """Return whether the value is equal on all ranks."""
        return not self.any(self.once(lambda: value) != value)

    def cores(self) -> int:
        """Return this rank's share of the cores of its machine, at least 1."""
        return len(process.cores())

    def end(self, status: int, said: str = "") -> None:
        """Wait until every rank has called `end`. Each rank calls it last.

        A rank that has failed (its status is not 0) waits up to a second for the others. If they
        fail too, rank 0 prints the message for all. Otherwise this rank prints `said`, and ends all
        ranks.
        """


ALONE = Ranks()


class MPIRanks(Ranks):
    """The ranks that an MPI launcher has started.

    Raises
    ------
    ImportError
        mpi4py is missing, or finds no MPI library.
    """

    def __init__(self) -> None:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise ImportError(
                f"training over several ranks needs mpi4py: pip install 'npgpt2[mpi]' ({error})"
            ) from error
        self._mpi, self._world = MPI, MPI.COMM_WORLD
        self._ends = self._world.Dup()  # so that no other message looks like an end
        super().__init__(self._world.Get_rank(), self._world.Get_size())

    def sum(self, arrays: Sequence[Array]) -> list[Array]:
        """Return the sum of each array over all ranks; one message carries all of them."""
        flat = np.concatenate([a.reshape(-1) for a in arrays])
        self._world.Allreduce(self._mpi.IN_PLACE, flat)
        pieces = np.split(flat, np.cumsum([a.size for a in arrays])[:-1])
        return [piece.reshape(a.shape) for piece, a in zip(pieces, arrays, strict=True)]

    def once(self, call: Callable[[], T]) -> T:
        """Call `call` only on rank 0; return its result, or raise its Exception, on every rank."""
        outcome: tuple[Any, Exception | None] = None, None
        if self.rank == 0:
            try:
                outcome = call(), None
            except Exception as error:
                outcome = None, error
        result, failure = self._world.bcast(outcome)
        if failure is not None:
            raise failure
        return result  # type: ignore[no-any-return]

    def cores(self) -> int:
        """Return this rank's share of the cores of its machine, at least 1.

        It is the same whether all ranks may run on all cores, or the launcher gives each rank
        separate cores.
        """
        here = self._world.Split_type(self._mpi.COMM_TYPE_SHARED)
        cores = set().union(*here.allgather(process.cores()))
        return max(1, len(cores) // here.Get_size())

    def end(self, status: int, said: str = "") -> None:
        """Wait until every rank has called `end`; end all ranks if only this one has failed."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the ranks still at work
        everyone = self._ends.Ibarrier()
        patient_until = time.monotonic() + 1.0
        while not everyone.Test():
            if status and time.monotonic() > patient_until:
                self._say(said)
                time.sleep(0.3)  # at an abort, the launcher drops output that it still holds
                self._world.Abort(status)
            time.sleep(0.01)
        if status != self._ends.bcast(status):
            self._say(said)

    def _say(self, text: str) -> None:
        if text:
            print(f"rank {self.rank}: {text}", end="", file=sys.__stderr__, flush=True)


# How launchers name the number of ranks, the innermost launcher first.
_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")


def launched() -> Ranks:
    """Return the ranks that a launcher (mpiexec, mpirun, srun) has started, or ALONE.

    Raises
    ------
    ImportError
        There are several ranks, but mpi4py is missing.
    ValueError
        mpi4py sees another number of ranks than the launcher has started.
    """
    name = next((name for name in _SIZES if name in os.environ), "")
    size = int(os.environ.get(name, 1))
    if size == 1:
        return ALONE
    ranks = MPIRanks()
    if ranks.size != size:
        raise ValueError(
            f"the launcher has started {size} ranks ({name}), but mpi4py sees {ranks.size}: mpi4py "
            "uses another MPI; start the ranks with the mpiexec of that MPI"
        )
    return ranks
