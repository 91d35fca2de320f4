"""Ranks: processes that train one model together, each on its share of every batch.

The loss of B rows is their mean. So it is the sum over ranks of b/B times the mean of a rank's own
b rows; and its gradient is the same sum of theirs. All else every rank does alike: it draws the
whole batch and the whole masks of dropout from the same generators, and takes the same step. The
weights stay equal bit for bit, as long as a sum has the same bits on every rank. That is relied
upon, and checked before every checkpoint.
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
    """A rank among others. Here it has none to talk to: what it says is said to itself.

    Attributes
    ----------
    rank
        Number of this process, from 0. Rank 0 alone prints and writes.
    size
        Number of ranks.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    def share(self, batch_size: int) -> slice:
        """Return which rows of a batch are this rank's; the shares differ by one row at most.

        Raises
        ------
        ValueError
            There are fewer rows than ranks.
        """
        if batch_size < self.size:
            raise ValueError(
                f"batch_size={batch_size} is too small for {self.size} ranks, as each takes a row "
                "or more; take a larger batch_size or fewer ranks"
            )
        return slice(*(batch_size * r // self.size for r in (self.rank, self.rank + 1)))

    def sum(self, arrays: Sequence[Array]) -> list[Array]:
        """Return each array summed over all ranks. The arrays of one call have the same dtype."""
        return list(arrays)

    def once(self, call: Callable[[], T]) -> T:
        """Return call(), made by rank 0 alone; an Exception there is raised on every rank."""
        return call()

    def any(self, flag: bool) -> bool:
        """Return whether flag is true on any rank."""
        return bool(self.sum([np.array(float(flag))])[0])

    def agree(self, value: object) -> bool:
        """Return whether value is equal on all ranks."""
        return not self.any(self.once(lambda: value) != value)

    def cores(self) -> int:
        """Return how many cores of this machine are there for this rank, at least 1."""
        return len(process.cores())

    def end(self, status: int, said: str = "") -> None:
        """Wait until every rank has come to its end, here.

        A rank that failed, with a status other than 0, gives the others a second to fail likewise,
        and to leave the message to rank 0. Then it prints what it said, and ends all of them.
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
        self._ends = self._world.Dup()  # an end is not to be taken for anything else
        super().__init__(self._world.Get_rank(), self._world.Get_size())

    def sum(self, arrays: Sequence[Array]) -> list[Array]:
        """Return each array summed over all ranks, in one message; the results are views of it."""
        flat = np.concatenate([a.reshape(-1) for a in arrays])
        self._world.Allreduce(self._mpi.IN_PLACE, flat)
        pieces = np.split(flat, np.cumsum([a.size for a in arrays])[:-1])
        return [piece.reshape(a.shape) for piece, a in zip(pieces, arrays, strict=True)]

    def once(self, call: Callable[[], T]) -> T:
        """Return call(), made by rank 0 alone; an Exception there is raised on every rank."""
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
        """Return how many cores of this machine are there for this rank, at least 1.

        The same for ranks that may run everywhere and for ranks that the launcher keeps apart.
        """
        here = self._world.Split_type(self._mpi.COMM_TYPE_SHARED)
        cores = set().union(*here.allgather(process.cores()))
        return max(1, len(cores) // here.Get_size())

    def end(self, status: int, said: str = "") -> None:
        """Wait for the ends of all ranks; end them if this one alone has failed."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for those that are still at work
        everyone = self._ends.Ibarrier()
        patient_until = time.monotonic() + 1.0
        while not everyone.Test():
            if status and time.monotonic() > patient_until:
                self._say(said)
                time.sleep(0.3)  # the launcher drops what it has not passed on before an abort
                self._world.Abort(status)
            time.sleep(0.01)
        if status != self._ends.bcast(status):
            self._say(said)

    def _say(self, text: str) -> None:
        if text:
            print(f"rank {self.rank}: {text}", end="", file=sys.__stderr__, flush=True)


_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")  # the nearest launcher first


def launched() -> Ranks:
    """Return the ranks that a launcher (mpiexec, mpirun, srun) has started, or ALONE.

    Raises
    ------
    ImportError
        There are several, and no mpi4py for them.
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
            f"the launcher has started {size} ranks ({name}), but mpi4py sees {ranks.size}: it "
            "uses another MPI; take the mpiexec that belongs to it"
        )
    return ranks
