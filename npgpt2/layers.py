"""The layers of GPT-2: Linear, Embedding, LayerNorm, Dropout.

Linear and Embedding draw their weights only if you pass an `rng`; otherwise the weights are 0.
`GPT2Model` draws all its weights in one place.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from autograd import Operand, Tensor, as_tensor
from npgpt2 import functional as F
from npgpt2 import validate
from npgpt2.module import Module, Parameter


def _weight(
    shape: tuple[int, int], rng: np.random.Generator | int | None, dtype: DTypeLike
) -> Parameter:
    """Return a normal weight of standard deviation 0.02, as GPT-2's; zeros without an rng."""
    parameter = Parameter(np.zeros(shape, dtype=validate.dtype(dtype)))
    if rng is not None:
        fill_normal(parameter.data, 0.02, np.random.default_rng(rng))
    return parameter


def fill_normal(array: NDArray[np.floating], std: float, rng: np.random.Generator) -> None:
    """Fill an array with normal numbers of standard deviation std.

    Arrays of all dtypes get the same numbers, up to rounding.
    """
    array[...] = rng.standard_normal(array.shape, dtype=np.float32)
    array *= std


class Linear(Module):
    """x @ weight.T + bias;  (..., in_features) -> (..., out_features).

    Attributes
    ----------
    in_features, out_features
        Number of channels of the input, and of the output.
    weight
        (out_features, in_features), as in torch.
    bias
        (out_features,), or None.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        rng: np.random.Generator | int | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.in_features = validate.integer("in_features", in_features)
        self.out_features = validate.integer("out_features", out_features)
        self.weight = _weight((self.out_features, self.in_features), rng, dtype)
        self.bias = Parameter(np.zeros(out_features, dtype=dtype)) if bias else None

    def forward(self, x: Operand) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return F.linear(x, self.weight, self.bias)


class Embedding(Module):
    """A table of vectors;  (...) integers -> (..., embedding_dim).

    Attributes
    ----------
    num_embeddings, embedding_dim
        Number of ids, and number of channels.
    weight
        (num_embeddings, embedding_dim).
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        rng: np.random.Generator | int | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.num_embeddings = validate.integer("num_embeddings", num_embeddings)
        self.embedding_dim = validate.integer("embedding_dim", embedding_dim)
        self.weight = _weight((self.num_embeddings, self.embedding_dim), rng, dtype)

    def forward(self, ids: ArrayLike) -> Tensor:
        """(...) -> (..., embedding_dim); IndexError if an id is out of range."""
        return F.embedding(self.weight, ids)


class LayerNorm(Module):
    """Normalise the last axis to mean 0 and variance 1, then apply a gain and a shift.

    Attributes
    ----------
    weight, bias
        (channels,): the gain, at first 1, and the shift, at first 0.
    normalized_shape
        (channels,), as in torch.
    eps
        Added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-5, *, dtype: DTypeLike = np.float32) -> None:
        self.normalized_shape = (validate.integer("channels", channels),)
        self.eps = validate.number("eps", eps)
        self.weight = Parameter(np.ones(channels, dtype=validate.dtype(dtype)))
        self.bias = Parameter(np.zeros(channels, dtype=dtype))

    def forward(self, x: Operand) -> Tensor:
        """(..., channels) -> (..., channels)."""
        return F.layer_norm(x, self.weight, self.bias, self.eps)


class Dropout(Module):
    """In training mode, zero entries with probability p and scale the others by 1/(1-p).

    Attributes
    ----------
    p
        Probability in [0, 1).
    rng
        The generator that draws the masks.
    """

    def __init__(self, p: float, rng: np.random.Generator | int = 0) -> None:
        self.p = validate.fraction("p", p)
        self.rng = np.random.default_rng(rng)

    def forward(self, x: Operand) -> Tensor:
        """Return x, with dropout in training mode."""
        if not self.training:
            return as_tensor(x)
        return F.dropout(x, self.p, self.rng)
