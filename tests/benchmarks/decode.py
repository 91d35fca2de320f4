"""Generation: npgpt2 beside torch, both with a cache, and beside the matrix products alone.

    python -m tests.benchmarks.decode [char gpt2] [--threads 1 2] [--batch 1] [--positions]

Each side generates 64 greedy tokens after a prompt of 16, in float32. Torch runs in eager mode,
with its layers, its fused attention and a cache that is allocated once. If the two do not draw the
same tokens, the program ends before it measures. `--positions` measures the time of a token of
npgpt2 at different places of a text.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from npgpt2 import GPT2Config, GPT2Model
from npgpt2 import functional as F
from npgpt2.generation.generation import decode, prefill, stream
from npgpt2.generation.sampling import Sampling
from npgpt2.machine.process import keep_freed_memory
from tests.benchmarks.step import fill
from tests.benchmarks.turns import Worker, python, ratio, serve, take_turns

PROMPT, NEW = 16, 64
NO_DROPOUT: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
CONFIGS = {
    "char": GPT2Config(65, 128, 128, n_layer=4, n_head=4, **NO_DROPOUT),
    "gpt2": GPT2Config(**NO_DROPOUT),
}
POSITIONS = {"char": (0, 31, 63, 127), "gpt2": (0, 255, 511, 1023)}


def prompt_of(name: str, batch: int) -> np.ndarray:
    """Return the prompts, (B, T)."""
    return np.random.default_rng(1).integers(CONFIGS[name].vocab_size, size=(batch, PROMPT))


def make(name: str) -> GPT2Model:
    """Return the model, with the same weights as on every side."""
    model = GPT2Model(CONFIGS[name], init_weights=False).eval()
    fill((name, p.data) for name, p in model.named_parameters())
    return model


def ours(name: str, batch: int, threads: int) -> None:
    """Serve generations of npgpt2."""
    keep_freed_memory()
    model, ids = make(name), prompt_of(name, batch)

    def step() -> dict[str, float]:
        times = [time.perf_counter()]
        for _ in stream(model, ids, NEW + 1, Sampling(0.0)):
            times.append(time.perf_counter())
        return {"first": times[1] - times[0], "decode": times[-1] - times[1]}

    tokens = model.generate(ids, NEW + 1, temperature=0.0)[:, PROMPT:].tolist()
    serve({"tokens": tokens}, step)


def torchs(name: str, batch: int, threads: int) -> None:
    """Serve generations of torch."""
    import torch
    from torch.nn import functional as tF

    from tests.test_npgpt2.torch_gpt2 import TorchGPT2

    torch.set_num_threads(threads)
    config, ids = CONFIGS[name], torch.from_numpy(prompt_of(name, batch))
    model = TorchGPT2(config)
    fill((name, p.detach().numpy()) for name, p in model.named_parameters())
    shape = (config.n_layer, 2, batch, config.n_head, config.n_positions, config.head_size)
    cache = torch.zeros(shape)

    def logits(tokens: torch.Tensor, start: int) -> torch.Tensor:
        """Read (B, T) tokens from position start on; return the last logits, (B, V)."""
        end = start + tokens.shape[1]
        x = model.wte(tokens) + model.wpe(torch.arange(start, end))
        for block, (keys, values) in zip(model.h, cache, strict=True):
            q, k, v = (
                part.unflatten(-1, (config.n_head, -1)).transpose(1, 2)
                for part in block.attn.c_attn(block.ln_1(x)).chunk(3, dim=-1)
            )
            keys[:, :, start:end], values[:, :, start:end] = k, v
            seen = keys[:, :, :end], values[:, :, :end]
            out = tF.scaled_dot_product_attention(q, *seen, is_causal=start == 0)
            x = x + block.attn.c_proj(out.transpose(1, 2).flatten(-2))
            x = x + block.mlp(block.ln_2(x))
        return model.lm_head(model.ln_f(x[:, -1]))

    def generate(times: list[float]) -> list[torch.Tensor]:
        with torch.inference_mode():
            times.append(time.perf_counter())
            tokens = [logits(ids, 0).argmax(-1)]
            times.append(time.perf_counter())
            for end in range(PROMPT, PROMPT + NEW):
                tokens.append(logits(tokens[-1][:, None], end).argmax(-1))
                times.append(time.perf_counter())
        return tokens

    def step() -> dict[str, float]:
        times: list[float] = []
        generate(times)
        return {"first": times[1] - times[0], "decode": times[-1] - times[1]}

    serve({"tokens": torch.stack(generate([]), dim=1).tolist()}, step)


def floor(name: str, batch: int, threads: int) -> None:
    """Serve the matrix products of the new tokens alone."""
    config = CONFIGS[name]
    C, V, H, D = config.n_embd, config.vocab_size, config.n_head, config.head_size

    def random(*shape: int) -> np.ndarray:
        return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)

    linear = [(C, 3 * C), (C, C), (C, config.n_inner), (config.n_inner, C)] * config.n_layer
    weights = [random(m, n) for n, m in [*linear, (C, V)]]
    inputs = [random(batch, w.shape[1]) for w in weights]
    keys = [random(batch, H, config.n_positions, D) for _ in range(config.n_layer)]
    query = random(batch, H, 1, D)

    def step() -> dict[str, float]:
        start = time.perf_counter()
        for end in range(PROMPT + 1, PROMPT + NEW + 1):
            for x, w in zip(inputs, weights, strict=True):
                x @ w.T
            for k in keys:
                query @ k[:, :, :end].swapaxes(-1, -2) @ k[:, :, :end]
        return {"first": 0.0, "decode": time.perf_counter() - start}

    serve({}, step)


SIDES = {"ours": ours, "torch": torchs, "floor": floor}


def positions(name: str) -> None:
    """Print the time of a token at different places of a text, and the time of its attention."""
    model, config = make(name), CONFIGS[name]
    with model.evaluating():
        cache, _ = prefill(model, np.ones((1, config.n_positions), dtype=int))
    qkv = np.zeros((1, 1, 3 * config.n_embd), dtype=np.float32)

    def best(call: Callable[[], Any], position: int) -> float:
        """Return the shortest time of a call, in ms, with a cache of `position` tokens."""
        times = []
        for _ in range(15):
            cache.truncate([position])
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return 1e3 * min(times)

    print(f"{name}: position, ms a token, ms of it attention")
    for position in reversed(POSITIONS[name]):  # truncate only shortens the cache
        with model.evaluating():
            token = best(lambda: decode(model, [0], cache), position)
            attention = best(
                lambda: [F.cached_attention(qkv, config.n_head, p) for p in cache.reserve(1, 1)[0]],
                position,
            )
        print(f"{position:8} {token:8.2f} {attention:8.2f}", flush=True)


def compare(name: str, batch: int, threads: int, rounds: int, seconds: float) -> None:
    """Print the times of all sides, and the ratio of torch's to ours."""
    module = f"tests.benchmarks.{Path(__file__).stem}"
    workers = {side: Worker(python(module, "--serve", side, name, batch, threads), threads)
               for side in SIDES}  # fmt: skip
    mine, other = workers["ours"], workers["torch"]
    if mine.ready["tokens"] != other.ready["tokens"]:
        raise SystemExit(f"{name}: not the same tokens")
    take_turns([*workers.values()], rounds, seconds)
    for side, worker in workers.items():
        first, rest = worker.median("first"), worker.median("decode")
        print(
            f"{name}, {batch} x {NEW} tokens, {threads} thread{'s'[: threads > 1]}  {side:6} "
            f"first token {1e3 * first:7.1f} ms, then {1e3 * rest:7.1f} ms, "
            f"{batch * NEW / rest:7.1f} tokens/s"
        )
    for key in ("first", "decode"):
        median, least, most = ratio(other, mine, key)
        print(f"  torch / ours, {key}: {median:.2f} ({least:.2f} to {most:.2f})", flush=True)
    for worker in workers.values():
        worker.close()


def main() -> None:
    """Measure, and print each result at once."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.benchmarks.decode")
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help=f"some of {[*CONFIGS]}")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="default: 1 2")
    parser.add_argument("--batch", type=int, default=1, help="rows (1)")
    parser.add_argument("--rounds", type=int, default=9, help="turns of every side (9)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a turn, about (0.5)")
    parser.add_argument("--positions", action="store_true", help="at different places of a text")
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        side, name, batch, threads = args.serve
        SIDES[side](name, int(batch), int(threads))
        return
    for name in args.configs or CONFIGS:
        if args.positions:
            positions(name)
        else:
            for threads in args.threads:
                compare(name, args.batch, threads, args.rounds, args.seconds)


if __name__ == "__main__":
    main()
