"""Keep or change a gradient without copying it, if nobody else holds it.

A vjp may return one array for two parents, or a view of another array, or an array that it keeps
itself. So it is not always safe to add to a gradient in place, or to store it as a leaf's `.grad`.
Copying every gradient would be correct but slow: the gradient of a large weight is a large array.

Python counts the references to every object, and a view of an array holds a reference to that
array. So if an array has the fewest references possible, only the caller holds it. Then the caller
may change it in place, or store it as a leaf's `.grad`.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from autograd.rows import Array, Rows


def own(gradient: Any) -> Array:
    """Return the gradient itself if only the caller holds it, otherwise a copy.

    The gradient is `Rows` or array-like; the result is an array. The caller must hold the gradient
    in one variable only, and pass this variable.
    """
    if _is_plain_array(gradient) and sys.getrefcount(gradient) == _SOLE_OWNER_REFCOUNT:
        return gradient  # type: ignore[no-any-return]
    return np.array(gradient)


def accumulate(so_far: Any, gradient: Any) -> Any:
    """Return so_far + gradient, computed in place if only the caller holds `so_far`."""
    if _is_plain_array(so_far) and sys.getrefcount(so_far) == _SOLE_OWNER_REFCOUNT:
        if isinstance(gradient, Rows):
            gradient.add_to(so_far)
        else:
            so_far += gradient
        return so_far
    return so_far + gradient


def _is_plain_array(gradient: object) -> bool:
    """Whether this is a writeable array that owns its memory, and not a view."""
    return type(gradient) is np.ndarray and gradient.base is None and gradient.flags.writeable


def _sole_owner_refcount() -> int:
    """Return the reference count that a function sees if one variable of its caller holds an array.

    The number differs between versions of Python, so it is measured. A debugger may hold more
    references during the measurement, so at most 3 is returned. If the number is too low, there are
    only more copies.
    """

    def references(array: Array) -> int:
        return sys.getrefcount(array)

    array = np.empty(0)
    return min(references(array), 3)


_SOLE_OWNER_REFCOUNT = _sole_owner_refcount()
