"""`OpSpec`, which describes an op, and the properties of every correct op; see `autograd.testing`.

Each function in `PROPERTIES` takes the spec of an op and a call of the op. It fails if its name is
not true of this call. In the docstrings, f is the op, x its operands, g a cotangent of f(x), and
V(x; g) the gradient that the vjp returns for g.
"""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from autograd.check import gradcheck
from autograd.tensor import Tensor, no_grad
from autograd.testing.strategies import (
    Array,
    DrawFn,
    Phase,
    SearchStrategy,
    Shape,
    assume,
    fill,
    given,
    literal,
    numbers,
    settings,
    shapes,
    st,
    with_gaps,
)
from autograd.verdict import GradientUndecided

Sizes: TypeAlias = tuple[tuple[Shape, ...], dict[str, Any]]

# -- the description of an op --------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """The arguments of an op: the arrays of its operands, and keyword arguments."""

    operands: tuple[Array, ...]
    keywords: Mapping[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each operand in a report about gradients: its position."""
        return tuple(map(str, range(len(self.operands))))

    def __repr__(self) -> str:
        return f"Call({literal(self.operands)}, {literal(dict(self.keywords))})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Make hypothesis print the repr; by default it prints dataclasses in another form."""
        printer.text(repr(self))


@dataclass(frozen=True)
class Refusal:
    """A call that an op must refuse, the type of the error, and a regex for its message."""

    call: Call
    error: type[Exception]
    match: str


@dataclass(frozen=True)
class OpSpec:
    """The description of an op: its value, its operands, and the calls that it refuses.

    Attributes
    ----------
    name
        The op's name in `OPS`.
    function
        The op: function(*Tensors, **keywords) returns a Tensor.
    reference
        The same function of arrays, in plain NumPy. It may return anything that `np.asarray` takes.
    operands
        A strategy that draws a pair: the shapes of the operands, and keyword arguments that fit
        them. See `one_operand` and `operands`. Or a strategy that draws a whole `Call`.
    domain
        A strategy for the entries of all operands; or a tuple with one strategy per operand. The
        last strategy of the tuple also draws the entries of any further operands.
    kinks
        A function with the arguments of `reference`. It returns True if the op has no derivative
        at these operands. None if the op is smooth.
    refusals
        Calls that the op must refuse.
    analytic
        Whether the op accepts complex operands, and returns its analytic continuation for them.
        The complex-step check needs this.
    """

    name: str
    function: Callable[..., Tensor]
    reference: Callable[..., Any]
    operands: SearchStrategy[Sizes | Call]
    domain: SearchStrategy[float] | tuple[SearchStrategy[float], ...] = numbers()
    kinks: Callable[..., bool] | None = None
    refusals: tuple[Refusal, ...] = ()
    analytic: bool = True

    def calls(self) -> SearchStrategy[Call]:
        """Return a strategy for calls. It draws shapes, keywords, entries and memory layouts."""
        return _calls(self)

    def apply(self, call: Call) -> tuple[Tensor, list[Tensor]]:
        """Return the result of a call, and the leaves made from its operands."""
        leaves = [Tensor(a, requires_grad=True) for a in call.operands]
        return self.function(*leaves, **call.keywords), leaves

    def differentiate(self, call: Call, g: Array | None = None) -> list[Array]:
        """Return the value, then each operand's gradient. The cotangent g is random by default."""
        out, leaves = self.apply(call)
        out.backward(cotangent(out.shape, out.dtype) if g is None else g)
        return [out.data, *map(_gradient, leaves)]


@st.composite
def _calls(draw: DrawFn, spec: OpSpec) -> Call:
    drawn = draw(spec.operands)
    if isinstance(drawn, Call):
        return drawn
    given_shapes, keywords = drawn
    domain = spec.domain if isinstance(spec.domain, tuple) else (spec.domain,)
    return Call(fill(draw, given_shapes, *domain), keywords)


def one_operand(
    min_dims: int = 0, min_side: int = 0, **keywords: SearchStrategy[Any]
) -> SearchStrategy[Sizes]:
    """Draw the shape of a single operand, and keyword arguments that do not depend on it."""
    return operands(st.tuples(shapes(min_dims=min_dims, min_side=min_side)), **keywords)


def operands(
    given_shapes: SearchStrategy[tuple[Shape, ...]], **keywords: SearchStrategy[Any]
) -> SearchStrategy[Sizes]:
    """Draw the shapes of operands, and keyword arguments that do not depend on them."""
    return st.tuples(given_shapes, st.fixed_dictionaries(keywords))


def cotangent(shape: Shape, dtype: DTypeLike = np.float64, seed: int = 0) -> Array:
    """Draw a standard normal array of this shape; the same seed gives the same array."""
    return np.asarray(np.random.default_rng(seed).standard_normal(shape), dtype=dtype)


def _gradient(leaf: Tensor) -> Array:
    assert leaf.grad is not None, "a leaf got no gradient"
    return leaf.grad


# -- the properties of every correct op ----------------------------------------------------------

_TIGHT = 1e-9  # relative to the largest entry: far above rounding, far below any mistake


def _assert_close(actual: Any, expected: Any) -> None:
    expected = np.asarray(expected)
    largest = float(np.abs(expected).max(initial=0.0))
    atol = _TIGHT * (largest if 0.0 < largest < np.inf else 1.0)
    np.testing.assert_allclose(actual, expected, rtol=0.0, atol=atol, strict=True)


def value_equals_the_reference(spec: OpSpec, call: Call) -> None:
    """f(x) = reference(x)."""
    value = spec.apply(call)[0].data
    expected = np.asarray(spec.reference(*call.operands, **call.keywords), dtype=np.float64)
    _assert_close(value, expected)


def gradients_are_the_difference_quotients(spec: OpSpec, call: Call) -> None:
    """<V(x; g), v> = (<g, f(x + hv)> - <g, f(x - hv)>) / 2h, for random v and a small step h."""
    _gradcheck(spec, call, "directional")


def gradients_are_the_complex_steps(spec: OpSpec, call: Call) -> None:
    """V(x; g)_j = Im <g, f(x + ih e_j)> / h, for every entry j and a tiny step h."""
    if spec.analytic:
        _gradcheck(spec, call, "complex")


def _gradcheck(spec: OpSpec, call: Call, mode: Any) -> None:
    if not any(a.size for a in call.operands):
        return  # no operand has an entry, so there is no derivative
    if spec.kinks is not None and spec.kinks(*call.operands, **call.keywords):
        return  # at a kink there is no derivative
    f = partial(spec.function, **call.keywords)
    leaves = dict(zip(call.names, map(Tensor, call.operands), strict=True))
    try:
        report = gradcheck(f, leaves, mode=mode, directions=1)
    except GradientUndecided as error:
        if error.report.reason != "rounding":
            raise
        assume(False)  # rounding hides the gradient at these operands, so Hypothesis draws others
    assert report.ok and report.checked >= 1


def gradients_are_linear_in_the_cotangent(spec: OpSpec, call: Call) -> None:
    """V(x; 2g - h/2) = 2 V(x; g) - V(x; h)/2, for random cotangents g and h."""
    shape = spec.apply(call)[0].shape
    g, h = cotangent(shape, seed=1), cotangent(shape, seed=2)
    of_g, of_h, mixed = (spec.differentiate(call, c)[1:] for c in (g, h, 2.0 * g - 0.5 * h))
    for a, b, both in zip(of_g, of_h, mixed, strict=True):
        scale = np.abs(a).max(initial=1.0) + np.abs(b).max(initial=1.0)
        np.testing.assert_allclose(both, 2.0 * a - 0.5 * b, rtol=0.0, atol=_TIGHT * scale)


def a_cotangent_of_zeros_gives_gradients_of_zeros(spec: OpSpec, call: Call) -> None:
    """V(x; 0) = 0, exactly, and not NaN."""
    shape = spec.apply(call)[0].shape
    for gradient in spec.differentiate(call, np.zeros(shape))[1:]:
        assert not gradient.any(), f"a cotangent of zeros gives the gradient {literal(gradient)}"


def gradients_have_shape_and_dtype_of_their_operands(spec: OpSpec, call: Call) -> None:
    """float32 stays float32, float64 stays float64, and both agree to the accuracy of float32."""
    single = replace(call, operands=tuple(a.astype(np.float32) for a in call.operands))
    results = [spec.differentiate(made_of) for made_of in (call, single)]
    for (value, *gradients), dtype in zip(results, (np.float64, np.float32), strict=True):
        assert value.dtype == dtype
        for operand, gradient in zip(call.operands, gradients, strict=True):
            assert isinstance(gradient, np.ndarray) and gradient.dtype == dtype
            assert gradient.shape == operand.shape
    for a, b in zip(*results, strict=True):
        # 1e-4 is about 1000 roundings of float32, so that some cancellation is allowed.
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4 * np.abs(a).max(initial=1.0))


def memory_layout_does_not_matter(spec: OpSpec, call: Call) -> None:
    """Operands and cotangent may lie in memory in any order, with gaps, or backwards."""
    contiguous = replace(call, operands=tuple(np.array(a, order="C") for a in call.operands))
    gaps = replace(call, operands=tuple(with_gaps(a) for a in call.operands))
    expected = spec.differentiate(contiguous)
    g = with_gaps(cotangent(expected[0].shape))
    for a, b in zip(spec.differentiate(gaps, g), expected, strict=True):
        scale = np.abs(b).max(initial=1.0)
        np.testing.assert_allclose(a, b, rtol=0.0, atol=_TIGHT * scale)


def nothing_given_is_changed_or_shared(spec: OpSpec, call: Call) -> None:
    """Operands, cotangent and saved values do not change, and gradients share no memory."""
    others = [a for a in call.keywords.values() if isinstance(a, np.ndarray)]
    operands_before = [(a, a.tobytes()) for a in (*call.operands, *others)]
    for a in call.operands:
        a.flags.writeable = False  # so that writing to it raises an error
    out, leaves = spec.apply(call)
    _assert_unchanged(operands_before, "the forward pass")
    value, g = out.data.copy(), cotangent(out.shape)
    g.flags.writeable = False
    given_before = [*operands_before, (g, g.tobytes())]
    out.backward(g, retain_graph=True)
    _assert_unchanged(given_before, "the backward pass")
    gradients = [_gradient(leaf) for leaf in leaves]
    once = [gradient.copy() for gradient in gradients]
    for i, gradient in enumerate(gradients):
        assert all(
            not np.shares_memory(gradient, other)
            for other in (*call.operands, g, out.data, *gradients[:i])
        ), "a gradient shares memory with another array"
        gradient[...] = np.nan
    for leaf in leaves:
        leaf.grad = None
    out.backward(g)
    assert np.array_equal(out.data, value), "the value was changed"
    for leaf, gradient in zip(leaves, once, strict=True):
        assert np.array_equal(_gradient(leaf), gradient), "a second backward pass differs"


def _assert_unchanged(before: Iterable[tuple[Array, bytes]], by: str) -> None:
    """Compare arrays with their bytes before: another library can write to read-only arrays."""
    for a, bytes_before in before:
        assert a.tobytes() == bytes_before, f"{by} changed an array that it was given"


def a_constant_operand_changes_no_other_gradient(spec: OpSpec, call: Call) -> None:
    """An operand that requires no gradient gets none. The other gradients stay the same."""
    _, *expected = spec.differentiate(call)
    for i, gradient in enumerate(expected):
        leaves = [Tensor(a, requires_grad=i == j) for j, a in enumerate(call.operands)]
        out = spec.function(*leaves, **call.keywords)
        out.backward(cotangent(out.shape))
        assert np.array_equal(_gradient(leaves[i]), gradient)
        assert all(leaf.grad is None for leaf in leaves if not leaf.requires_grad)


def without_a_graph_the_value_has_the_same_bits(spec: OpSpec, call: Call) -> None:
    """Under `no_grad`, or with constant operands, the value is the same and has no parents."""
    out, leaves = spec.apply(call)
    assert out.requires_grad and out.parents, "the result does not depend on its operands"
    with no_grad():
        unrecorded = spec.function(*leaves, **call.keywords)
    constant = spec.function(*[leaf.detach() for leaf in leaves], **call.keywords)
    for other in (unrecorded, constant):
        assert np.array_equal(other.data, out.data)
        assert not other.requires_grad and other.parents == ()


def the_same_call_gives_the_same_bits(spec: OpSpec, call: Call) -> None:
    """A second call returns the same value and gradients, bit for bit."""
    for a, b in zip(spec.differentiate(call), spec.differentiate(call), strict=True):
        assert np.array_equal(a, b, equal_nan=True), f"first {literal(a)}, then {literal(b)}"


def the_result_is_freed_with_its_last_reference(spec: OpSpec, call: Call) -> None:
    """There is no reference cycle, so memory does not wait for the garbage collector."""
    with _garbage_collector_off():
        out, _leaves = spec.apply(call)
        nodes = [out]
        for node in nodes:
            nodes += [p for p in node.parents or () if p.parents]
        alive = [weakref.ref(node) for node in nodes]
        del out, nodes, node
        assert not [r for r in alive if r() is not None], "a result outlives its last reference"


@contextmanager
def _garbage_collector_off() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def at_a_kink_the_gradient_lies_between_the_slopes_of_both_sides(spec: OpSpec, call: Call) -> None:
    """For each entry of f(x) and random v, <V(x; g), v> lies between the slopes on both sides."""
    if spec.kinks is None:
        return
    value, h = spec.apply(call)[0].data, 1e-6
    rng = np.random.default_rng(0)
    directions = [rng.standard_normal(a.shape) for a in call.operands]
    ahead, behind = (
        spec.function(
            *[Tensor(a + s * h * v) for a, v in zip(call.operands, directions, strict=True)],
            **call.keywords,
        ).data
        for s in (1.0, -1.0)
    )
    slopes = np.stack([(ahead - value) / h, (value - behind) / h])
    for index in np.ndindex(value.shape):
        g = np.zeros(value.shape)
        g[index] = 1.0
        gradients = spec.differentiate(call, g)[1:]
        slope = sum(np.vdot(d, v) for d, v in zip(gradients, directions, strict=True))
        low, high = slopes[(slice(None), *index)].min(), slopes[(slice(None), *index)].max()
        assert low - 1e-4 <= slope <= high + 1e-4, (  # 1e-4: h times a moderate curvature
            f"entry {index}: the gradient gives the slope {slope:.6g} along a random direction, "
            f"but on both sides the slopes are {low:.6g} and {high:.6g}"
        )


Property: TypeAlias = Callable[[OpSpec, Call], None]

PROPERTIES: dict[str, Property] = {
    p.__name__: p
    for p in (
        value_equals_the_reference,
        gradients_are_the_difference_quotients,
        gradients_are_the_complex_steps,
        gradients_are_linear_in_the_cotangent,
        a_cotangent_of_zeros_gives_gradients_of_zeros,
        gradients_have_shape_and_dtype_of_their_operands,
        memory_layout_does_not_matter,
        nothing_given_is_changed_or_shared,
        a_constant_operand_changes_no_other_gradient,
        without_a_graph_the_value_has_the_same_bits,
        the_same_call_gives_the_same_bits,
        the_result_is_freed_with_its_last_reference,
        at_a_kink_the_gradient_lies_between_the_slopes_of_both_sides,
    )
}


def check_refusals(spec: OpSpec) -> None:
    """Make the calls that an op must refuse.

    Raises
    ------
    AssertionError
        The op accepts a call, or the message of its error does not match. An error of another type
        passes through.
    """
    for refusal in spec.refusals:
        try:
            spec.apply(refusal.call)
        except refusal.error as error:
            assert re.search(refusal.match, str(error)), f"{refusal.match!r} is not in: {error}"
        else:
            raise AssertionError(f"{spec.name} does not refuse {refusal.call}")


def check_op(
    spec: OpSpec, properties: Iterable[str] = PROPERTIES, max_examples: int | None = None
) -> None:
    """Check every property of an op, on calls drawn by hypothesis, and check its refusals.

    Parameters
    ----------
    spec
        The op.
    properties
        Names from `PROPERTIES`; all by default.
    max_examples
        Number of calls; by default the number in hypothesis's current profile.

    Raises
    ------
    AssertionError
        The op does not have a property. Notes on the error name the property, and the smallest call
        that shows the fault. For a wrong gradient the error is a `GradientMismatch`, and its
        `.report` says where. All other errors of the op pass through. Notes on them name the
        property in whose check they occurred, and the smallest call.
    KeyError
        `PROPERTIES` has no property of this name.
    """
    claims = [PROPERTIES[name] for name in properties]

    def check(call: Call) -> None:
        for claim in claims:
            try:
                claim(spec, call)
            except Exception as error:
                lacks = isinstance(error, AssertionError)
                how = "lacks this property" if lacks else "raises an error in the check of"
                error.add_note(f"{spec.name} {how}: {claim.__name__}")
                raise

    own = settings(
        report_multiple_bugs=False,
        deadline=None,  # the first call of a library may be slow, and that is no fault
        print_blob=False,  # its decorator needs a test function; the smallest call is printed
        # This phase traces every line, so a failure would take seconds instead of milliseconds.
        phases=[phase for phase in settings().phases if phase is not Phase.explain],
        max_examples=settings().max_examples if max_examples is None else max_examples,
    )
    own(given(call=spec.calls())(check))()
    check_refusals(spec)
