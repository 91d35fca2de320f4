"""einsum: sums of products, written with a letter for each axis."""

from __future__ import annotations

from collections import Counter
from string import ascii_letters

import numpy as np

from autograd.rows import Array
from autograd.tensor import Operand, Tensor, as_tensor, record, unbroadcast


def einsum(subscripts: str, *operands: Operand, optimize: bool = False) -> Tensor:
    """out = sum of products of the operands' entries, over the letters that out does not have.

    The gradient of an operand is an einsum too: of g and the other operands, over the letters that
    the operand does not have.

    Parameters
    ----------
    subscripts
        Letters for the axes of the operands, and of the result, such as "bij,bjk->bik". Without
        "->", the result has the letters that occur once, in alphabetical order. "..." stands for
        axes without a letter, which broadcast. A letter that occurs twice in one operand selects a
        diagonal. See `np.einsum`.
    operands
        Tensors or arrays.
    optimize
        Let NumPy choose the order of the products, and use BLAS; faster for large operands.

    Raises
    ------
    TypeError
        The subscripts are not a string.
    ValueError
        The subscripts do not fit the operands.

    Examples
    --------
    >>> w, x = Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True), Tensor([10.0, 1.0])
    >>> einsum("ij,j->i", w, x).vjp([1.0, 0.0])[0]
    array([[10.,  1.],
           [ 0.,  0.]])
    """
    if not isinstance(subscripts, str):
        raise TypeError(
            'einsum needs subscripts such as "ij,jk->ik" first, not a value of type '
            f"{type(subscripts).__name__}"
        )
    like = next((x for x in operands if isinstance(x, Tensor)), None)
    tensors = tuple(as_tensor(x, like=like) for x in operands)
    arrays = [t.data for t in tensors]
    out = np.asarray(np.einsum(subscripts, *arrays, optimize=optimize))  # refuses a wrong call
    *letters, result = _letters(subscripts, [x.ndim for x in arrays], out.ndim)

    def vjp(g: Array) -> tuple[Array, ...]:
        terms = list(zip([g, *arrays], [result, *letters], strict=True))
        return tuple(
            _gradient(x, own, terms[: i + 1] + terms[i + 2 :], optimize)
            for i, (x, own) in enumerate(terms[1:])
        )

    return record(out, tensors, vjp)


def _gradient(x: Array, own: str, others: list[tuple[Array, str]], optimize: bool) -> Array:
    """Return the gradient of the operand x, with the letters `own`; `others` has g and the rest."""
    sizes: dict[str, int] = {}  # of the letters: an axis of size 1 broadcasts
    for a, letters in [(x, own), *others]:
        sizes |= {c: n for c, n in zip(letters, a.shape, strict=True) if n != 1}
    kept = "".join(dict.fromkeys(own))  # each letter once
    # If no other operand has a letter, out sums over it: each entry gets the same gradient.
    known = "".join(c for c in kept if any(c in letters for _, letters in others))
    spelled = ",".join(letters for _, letters in others) + "->" + known
    d = np.einsum(spelled, *[a for a, _ in others], optimize=optimize)
    d = d.reshape([d.shape[known.index(c)] if c in known else 1 for c in kept])
    d = np.broadcast_to(d, [sizes.get(c, 1) for c in kept])
    if kept == own:
        return unbroadcast(d, x.shape)
    dx = np.zeros_like(x)
    diagonal = np.einsum(f"{own}->{kept}", dx)  # a view
    diagonal[...] = unbroadcast(d, diagonal.shape)
    return dx


def _letters(subscripts: str, ndims: list[int], out_ndim: int) -> list[str]:
    """Return the letters of each operand and of the result, with letters in place of "..."."""
    inputs, arrow, result = subscripts.replace(" ", "").partition("->")
    if not arrow:
        counts = Counter(inputs.replace(",", "").replace("...", ""))
        once = "".join(sorted(letter for letter, n in counts.items() if n == 1))
        result = "..." + once
    free = [c for c in ascii_letters if c not in subscripts]

    def spelled(term: str, ndim: int) -> str:
        count = ndim - len(term.replace("...", ""))
        return term.replace("...", "".join(free[len(free) - count :]))

    terms = [*inputs.split(","), result]
    return [spelled(term, n) for term, n in zip(terms, [*ndims, out_ndim], strict=True)]
