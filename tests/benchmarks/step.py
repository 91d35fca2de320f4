"""Training steps: npgpt2 beside torch, and beside the matrix products that both have to do.

    python -m tests.benchmarks.step [tiny char base gpt2] [--threads 1 2] [--compile]

Dropout 0, float32; gradients clipped, AdamW. Torch runs as its users run it: its own layers, fused
attention and fused AdamW. Before any time is taken, both must agree on the loss and the gradient
norm of the first step.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from npgpt2 import AdamW, GPT2Config, GPT2Model, clip_grad_norm
from npgpt2.process import keep_freed_memory
from tests.benchmarks.turns import Worker, python, ratio, serve, take_turns

Step = Callable[[], dict[str, float]]

# vocabulary, context, layers, heads, channels; and rows in a batch
CONFIGS = {
    "tiny": ((65, 32, 2, 4, 64), 4),
    "char": ((65, 64, 4, 4, 128), 12),  # nanoGPT's setting for a CPU
    "base": ((65, 256, 6, 6, 384), 8),
    "gpt2": ((50257, 64, 12, 12, 768), 4),  # GPT-2 small, llm.c's default batch
}
ADAMW: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.1}
MAX_NORM = 1.0


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
    """Return the joint norm, to more digits than float32 sums over millions of entries have."""
    return math.sqrt(
        math.fsum(
            float(np.vdot(part, part))
            for g in gradients
            for part in np.array_split(g.reshape(-1), g.size // 10_000 + 1)
        )
    )


def timed(forward: Callable[[], Any], backward: Callable[[Any], Any], optimize: Step) -> Step:
    """Return a step that takes the times of its three parts."""

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


def ours(name: str, threads: int, tuning: bool) -> None:
    """Serve steps of npgpt2."""
    if tuning:
        keep_freed_memory()
    ids, targets = batch_of(name)
    model = GPT2Model(config_of(name), rng=0)
    fill((name, p.data) for name, p in model.named_parameters())
    optimizer, first = AdamW(model.parameters(), **ADAMW), {}

    def optimize() -> None:
        if "norm" not in first:
            first["norm"] = norm(p.grad for p in optimizer.parameters)
        clip_grad_norm(optimizer.parameters, MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()

    def forward() -> Any:
        loss = model.loss(ids, targets)
        first.setdefault("loss", loss.item())
        return loss

    serve(first, timed(forward, lambda loss: loss.backward(), optimize))


def torchs(name: str, threads: int, tuning: bool, compiled: bool) -> None:
    """Serve steps of torch."""
    import torch
    from torch.nn import functional as tF

    from tests.test_npgpt2.torch_gpt2 import TorchGPT2

    torch.set_num_threads(threads)
    ids, targets = (torch.from_numpy(a) for a in batch_of(name))
    model = TorchGPT2(config_of(name))
    fill((name, p.detach().numpy()) for name, p in model.named_parameters())
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer, first = torch.optim.AdamW(groups, **ADAMW, fused=True), {}
    call = torch.compile(model) if compiled else model

    def optimize() -> None:
        if "norm" not in first:
            first["norm"] = norm(p.grad.numpy() for p in model.parameters())
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()

    def forward() -> Any:
        loss = tF.cross_entropy(call(ids).flatten(0, 1), targets.flatten())
        first.setdefault("loss", loss.item())
        return loss

    serve(first, timed(forward, lambda loss: loss.backward(), optimize))


def floor(name: str, threads: int, tuning: bool) -> None:
    """Serve the matrix products of a step alone, into arrays that are there already."""
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
    "torch": lambda *args: torchs(*args, compiled=False),
    "compile": lambda *args: torchs(*args, compiled=True),
    "floor": floor,
}


def main() -> None:
    """Measure, and print as we go."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.benchmarks.step")
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help=f"some of {[*CONFIGS]}")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="default: 1 2")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every side (5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn, about (1)")
    parser.add_argument("--compile", action="store_true", help="torch.compile too")
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
            sides = ["ours", "torch", "floor"] + ["compile"] * args.compile
            measure(name, threads, sides, args)


def measure(name: str, threads: int, sides: list[str], args: argparse.Namespace) -> None:
    """Compare the sides on one configuration and print what came out."""
    flags = ["--no-tuning"] * args.no_tuning
    workers = {
        side: Worker(
            python("tests.benchmarks.step", name, "--side", side, "--threads", threads, *flags),
            threads,
        )
        for side in sides
    }
    check(workers["ours"].ready, workers["torch"].ready)
    take_turns(list(workers.values()), args.rounds, args.seconds)
    mine, tokens = workers["ours"], batch_of(name)[0].size
    print(f"\n{name}, {threads} thread{'s'[: threads > 1]}, {args.rounds} rounds")
    for side, worker in workers.items():
        parts = "  ".join(
            f"{key} {1e3 * worker.median(key):.4g}"
            for key in ("forward", "backward", "optimizer")
            if key in worker.turns[0]
        )
        print(
            f"  {side:8}{1e3 * worker.median('step'):9.2f} ms  "
            f"{tokens / worker.median('step'):9,.0f} tokens/s  "
            f"{worker.median('faults'):8,.0f} faults  peak {worker.median('peak') / 1e6:6,.0f} MB"
            f"  {parts}"
        )
    for side in sides[1:]:
        middle, least, most = ratio(workers[side], mine, "step")
        line = f"  {side} / ours: {middle:.2f} ({least:.2f} to {most:.2f})"
        if side != "floor":
            parts = [f"{key} {ratio(workers[side], mine, key)[0]:.2f}"
                     for key in ("forward", "backward", "optimizer", "peak")]  # fmt: skip
            line += ";  " + ", ".join(parts)
        print(line, flush=True)
    for worker in workers.values():
        worker.close()


def check(mine: dict[str, float], other: dict[str, float]) -> None:
    """Refuse to compare programs that do not compute the same; float32, so to 5 digits."""
    for key in ("loss", "norm"):
        if not np.isclose(mine[key], other[key], rtol=1e-5, atol=0.0):
            raise SystemExit(f"not the same computation: {key} {mine[key]} and {other[key]}")


if __name__ == "__main__":
    main()
