"""How the parameters of a GPT-2 add up, row by row. This is only arithmetic, and makes no weights.

>>> config = GPT2Config(vocab_size=65, n_positions=64, n_embd=128, n_layer=4, n_head=4)
>>> print(format_table(config))
layer                      weights                    +     biases
wte                       65 x 128  =          8,320
wpe                       64 x 128  =          8,192
h.0 to h.3, each of 4 blocks:
  ln_1                 128 and 128  =            256
  attn.c_attn            128 x 384  =         49,152  +        384
  attn.c_proj            128 x 128  =         16,384  +        128
  ln_2                 128 and 128  =            256
  mlp.c_fc               128 x 512  =         65,536  +        512
  mlp.c_proj             512 x 128  =         65,536  +        128
  one block                         =        197,120  +      1,152
4 blocks               4 x 197,120  =        788,480  +      4,608
ln_f                   128 and 128  =            256
lm_head            tied: it is wte  =              0
total without linear biases         =        805,248
linear biases                       =          4,608
total                               =        809,856

Letters: see `config.py`; also L, the number of blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

from npgpt2.config import GPT2Config


@dataclass(frozen=True)
class Row:
    """A layer: its name, its weights (as a calculation, and their number), its number of biases."""

    name: str
    calculation: str
    weights: int
    biases: int = 0


def _linear(name: str, n_in: int, n_out: int) -> Row:
    return Row(name, f"{n_in:,} x {n_out:,}", n_in * n_out, n_out)


def _layer_norm(name: str, channels: int) -> Row:
    return Row(name, f"{channels:,} and {channels:,}", 2 * channels)


def block_rows(config: GPT2Config) -> list[Row]:
    """Return one row for each layer of a block."""
    C, n_inner = GPT2Config.require(config).n_embd, config.n_inner
    return [
        _layer_norm("ln_1", C),
        _linear("attn.c_attn", C, 3 * C),
        _linear("attn.c_proj", C, C),
        _layer_norm("ln_2", C),
        _linear("mlp.c_fc", C, n_inner),
        _linear("mlp.c_proj", n_inner, C),
    ]


def parameter_table(config: GPT2Config) -> list[Row]:
    """Return the rows that add up to the whole model; one row stands for all blocks."""
    config = GPT2Config.require(config)
    V, P, C, L = config.vocab_size, config.n_positions, config.n_embd, config.n_layer
    block = block_rows(config)
    weights, biases = sum(row.weights for row in block), sum(row.biases for row in block)
    return [
        Row("wte", f"{V:,} x {C:,}", V * C),
        Row("wpe", f"{P:,} x {C:,}", P * C),
        Row(f"{L} blocks", f"{L} x {weights:,}", L * weights, L * biases),
        _layer_norm("ln_f", C),
        Row("lm_head", "tied: it is wte", 0),
    ]


def count_parameters(config: GPT2Config) -> int:
    """Return the number of parameters; the tied ones count once."""
    return sum(row.weights + row.biases for row in parameter_table(config))


def format_table(config: GPT2Config) -> str:
    """Return the table as text, with two totals: with and without the biases of linear layers."""
    block, whole = block_rows(config), parameter_table(config)
    one = Row("one block", "", sum(r.weights for r in block), sum(r.biases for r in block))
    weights, biases = sum(row.weights for row in whole), sum(row.biases for row in whole)
    last = config.n_layer - 1
    return "\n".join(
        [
            f"layer{'weights':>29}{'+     biases':>32}",
            *(_line(row) for row in whole[:2]),
            f"h.0 to h.{last}, each of {config.n_layer} blocks:",
            *(_line(row, "  ") for row in [*block, one]),
            *(_line(row) for row in whole[2:]),
            _line(Row("total without linear biases", "", weights)),
            _line(Row("linear biases", "", biases)),
            _line(Row("total", "", weights + biases)),
        ]
    )


def _line(row: Row, indent: str = "") -> str:
    calculation = row.calculation.rjust(34 - len(indent + row.name))
    biases = f"  +{row.biases:>11,}" if row.biases else ""
    return f"{indent}{row.name}{calculation}  ={row.weights:>15,}{biases}"
