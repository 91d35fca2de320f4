"""Training steps: npgpt2 beside torch, and beside the matrix products that both have to do.

    python -m tests.benchmarks.step [tiny char base gpt2] [--threads 1 2] [--ranks] [--compile]

A step is in float32, without dropout, with clipping and AdamW. Torch runs with its layers, its
fused attention and its fused AdamW. If the two do not agree on the loss and the gradient norm of
the first step, the program ends before it measures.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from npgpt2 import AdamW, GPT2Config, GPT2Model, clip_grad_norm
from npgpt2.machine.process import keep_freed_memory
from npgpt2.machine.ranks import ALONE, MPIRanks
from tests.benchmarks.turns import Worker, python, ratio, serve, take_turns

Step = Callable[[], dict[str, float]]

# (vocabulary, context, layers, heads, channels), rows in a batch
CONFIGS = {
    "tiny": ((65, 32, 2, 4, 64), 4),
    "char": ((65, 64, 4, 4, 128), 12),  # nanoGPT's setting for a CPU
    "base": ((65, 256, 6, 6, 384), 8),
    "gpt2": ((50257, 64, 12, 12, 768), 4),  # GPT-2 small, llm.c's default batch
}
ADAMW: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.1}
MAX_NORM = 1.0
PARTS = ("forward", "backward", "optimizer")


def config_of(name: str) -> GPT2Config:
    """Return a configuration without dropout."""
    (vocab_size, n_positions, n_layer, n_head, n_embd), _ = CONFIGS[name]
    return GPT2Config(
        vocab_size, n_positions, n_embd, n_layer, n_head,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip


def batch_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (ids, targets)."""
    config, rows = config_of(name), CONFIGS[name][1]
    text = np.random.default_rng(1).integers(config.vocab_size, size=(rows, config.n_positions + 1))
    return text[:, :-1], text[:, 1:]


def fill(arrays: Iterator[tuple[str, np.ndarray]]) -> None:
    """Give all parameters the same values on every side; gains are 1 already."""
    rng = np.random.default_rng(0)
    for name, array in arrays:
        if array.ndim == 2:
            array[...] = rng.standard_normal(array.shape, dtype=np.float32)
            array *= 0.02
        elif name.endswith("bias"):
            array[...] = 0.0


def norm(gradients: Iterator[np.ndarray]) -> float:
    """Return the joint norm; a float32 sum over millions of entries has fewer correct digits."""
    return math.sqrt(
        math.fsum(
            float(np.vdot(part, part))
            for g in gradients
            for part in np.array_split(g.reshape(-1), g.size // 10_000 + 1)
        )
    )


def timed(forward: Callable[[], Any], backward: Callable[[Any], Any], optimize: Step) -> Step:
    """Return a step that measures the times of its three parts."""

    def step() -> dict[str, float]:
        start = time.perf_counter()
        loss = forward()
        after_forward = time.perf_counter()
        backward(loss)
        del loss
        after_backward = time.perf_counter()
        optimize()
        end = time.perf_counter()
        return {
            "forward": after_forward - start,
            "backward": after_backward - after_forward,
            "optimizer": end - after_backward,
        }

    return step


def ours(name: str, threads: int, tuning: bool, ranks: bool = False) -> None:
    """Serve steps of npgpt2, the same as in `npgpt2 train`."""
    if tuning:
        keep_freed_memory()
    group = MPIRanks() if ranks else ALONE
    ids, targets = batch_of(name)
    own, B = group.share(len(ids)), len(ids)
    weight = (own.stop - own.start) / B
    model, first = GPT2Model(config_of(name), rng=0), {}
    fill((name, p.data) for name, p in model.named_parameters())
    optimizer = AdamW(model.parameters(), **ADAMW)

    def optimize() -> None:
        sums = group.sum([p.grad for p in optimizer.parameters])
        for p, gradient in zip(optimizer.parameters, sums, strict=True):
            p.grad = gradient
        del sums
        if "norm" not in first:
            first["norm"] = norm(p.grad for p in optimizer.parameters)
        clip_grad_norm(optimizer.parameters, MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()

    def forward() -> Any:
        loss = model.loss(ids[own], targets[own])
        if "loss" not in first:
            first["loss"] = float(group.sum([loss.data * weight])[0])
        return loss

    serve(first, timed(forward, lambda loss: loss.backward(weight), optimize), world(ranks))


def torchs(
    name: str, threads: int, tuning: bool, compiled: bool = False, ranks: bool = False
) -> None:
    """Serve steps of torch; over ranks in the same way as ours."""
    import torch
    from torch.nn import functional as tF

    from tests.test_npgpt2.torch_gpt2 import TorchGPT2

    torch.set_num_threads(threads)
    group = MPIRanks() if ranks else ALONE
    ids, targets = (torch.from_numpy(a) for a in batch_of(name))
    own, B = group.share(len(ids)), len(ids)
    weight = (own.stop - own.start) / B
    model, first = TorchGPT2(config_of(name)), {}
    fill((name, p.detach().numpy()) for name, p in model.named_parameters())
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, **ADAMW, fused=True)
    call = torch.compile(model) if compiled else model

    def optimize() -> None:
        if ranks:
            sums = group.sum([p.grad.numpy() for p in model.parameters()])
            for p, gradient in zip(model.parameters(), sums, strict=True):
                p.grad = torch.from_numpy(gradient)
        if "norm" not in first:
            first["norm"] = norm(p.grad.numpy() for p in model.parameters())
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()

    def forward() -> Any:
        loss = tF.cross_entropy(call(ids[own]).flatten(0, 1), targets[own].flatten())
        if "loss" not in first:
            first["loss"] = float(group.sum([loss.detach().numpy() * weight])[0])
        return loss

    def backward(loss: Any) -> None:
        (loss if weight == 1.0 else loss * weight).backward()

    serve(first, timed(forward, backward, optimize), world(ranks))


def world(ranks: bool) -> Any:
    """Return the communicator of all ranks, if there are several."""
    if not ranks:
        return None
    from mpi4py import MPI

    return MPI.COMM_WORLD


def floor(name: str, threads: int, tuning: bool) -> None:
    """Serve the matrix products of a step alone."""
    config, rows = config_of(name), CONFIGS[name][1]
    B, T, C, V = rows, config.n_positions, config.n_embd, config.vocab_size
    H, N, D = config.n_head, rows * config.n_positions, config.n_embd // config.n_head
    layer = [(N, C, 3 * C), (N, C, C), (N, C, 4 * C), (N, 4 * C, C)]
    attention = [(B, H, T, D, T), (B, H, T, T, D)]  # all of T x T, where half would do

    def random(*shape: int) -> np.ndarray:
        return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)

    products = []
    for *stack, n, k, m in (layer + attention) * config.n_layer + [(N, C, V)]:
        a, b, g = random(*stack, n, k), random(*stack, k, m), random(*stack, n, m)
        at, bt = a.swapaxes(-1, -2), b.swapaxes(-1, -2)
        products += [(a, b, g.copy()), (g, bt, a.copy()), (at, g, b.copy())]

    def step() -> dict[str, float]:
        start = time.perf_counter()
        for a, b, out in products:
            np.matmul(a, b, out=out)
        return {"products": time.perf_counter() - start}

    serve({}, step)


SIDES: dict[str, Callable[[str, int, bool], None]] = {
    "ours": ours,
    "ours, 2 ranks": lambda *args: ours(*args, ranks=True),
    "torch": torchs,
    "torch, 2 ranks": lambda *args: torchs(*args, ranks=True),
    "torch.compile": lambda *args: torchs(*args, compiled=True),
    "floor": floor,
}


def main() -> None:
    """Measure, and print each result at once."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.benchmarks.step")
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help=f"some of {[*CONFIGS]}")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="default: 1 2")
    parser.add_argument("--rounds", type=int, default=9, help="turns of every side (9)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a turn, about (0.5)")
    parser.add_argument("--compile", action="store_true", help="torch.compile too")
    parser.add_argument("--ranks", action="store_true", help="2 threads: also 2 ranks of 1 thread")
    parser.add_argument("--no-tuning", action="store_true", help="leave the allocator alone")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not set(args.configs) <= set(CONFIGS):
        parser.error(f"configurations are {', '.join(CONFIGS)}")
    if args.side:
        SIDES[args.side](args.configs[0], args.threads[0], not args.no_tuning)
        return
    for name in args.configs or CONFIGS:
        for threads in args.threads:
            sides = ["ours", "torch", "floor"] + ["torch.compile"] * args.compile
            if args.ranks and threads == 2:
                sides += ["ours, 2 ranks", "torch, 2 ranks"]
            measure(name, threads, sides, args)


def start(side: str, name: str, threads: int, flags: list[str]) -> Worker:
    """Start the worker of one side."""
    launcher = []
    if side.endswith("ranks"):
        launcher, threads = [str(Path(sys.executable).with_name("mpiexec")), "-n", "2"], 1
    command = python("tests.benchmarks.step", name, "--side", side, "--threads", threads, *flags)
    return Worker([*launcher, *command], threads)


def measure(name: str, threads: int, sides: list[str], args: argparse.Namespace) -> None:
    """Compare the sides on one configuration and print the result."""
    flags = ["--no-tuning"] * args.no_tuning
    workers = {side: start(side, name, threads, flags) for side in sides}
    for side, worker in workers.items():
        if side != "floor":
            check(workers["ours"].ready, worker.ready)
    take_turns(list(workers.values()), args.rounds, args.seconds)
    tokens = batch_of(name)[0].size
    print(f"\n{name}, {threads} thread{'s'[: threads > 1]}, {args.rounds} rounds")
    for side, worker in workers.items():
        step, memory = worker.median("step"), worker.median("peak") / 1e6
        print(
            f"  {side:14}{1e3 * step:9.2f} ms  {tokens / step:9,.0f} tokens/s  "
            f"{worker.median('faults'):8,.0f} faults  peak {memory:6,.0f} MB  "
            + "  ".join(
                f"{part} {1e3 * worker.median(part):.4g}" for part in PARTS if side != "floor"
            )
        )
    ours = [side for side in sides if side.startswith("ours")]
    for other in (side for side in sides if side.startswith("torch")):
        for mine in ours:
            compare(other, workers[other], mine, workers[mine])
    for mine in ours:
        print(f"  floor / {mine}: {ratio(workers['floor'], workers[mine], 'step')[0]:.2f}")
    for worker in workers.values():
        worker.close()


def compare(other: str, theirs: Worker, mine: str, ours: Worker) -> None:
    """Print torch's time, its parts and its memory, each divided by ours."""
    middle, least, most = ratio(theirs, ours, "step")
    parts = ", ".join(f"{part} {ratio(theirs, ours, part)[0]:.2f}" for part in (*PARTS, "peak"))
    print(f"  {other} / {mine}: {middle:.2f} ({least:.2f} to {most:.2f});  {parts}", flush=True)


def check(mine: dict[str, float], other: dict[str, float]) -> None:
    """Exit if two programs do not compute the same, to 5 digits."""
    for key in ("loss", "norm"):
        if not np.isclose(mine[key], other[key], rtol=1e-5, atol=0.0):
            raise SystemExit(f"not the same computation: {key} {mine[key]} and {other[key]}")


if __name__ == "__main__":
    main()
