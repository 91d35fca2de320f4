"""Module: the base of layers and models. It finds its parameters by walking its attributes.

There is no registration and no magic: an attribute that is a Parameter is a parameter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from autograd import Tensor, no_grad
from npgpt2 import validate


class Parameter(Tensor):
    """A leaf Tensor that requires a gradient; a Module owns it, and an optimizer changes it."""

    __slots__ = ()

    def __init__(self, data: ArrayLike) -> None:
        super().__init__(data, requires_grad=True)


class Module:
    """Base of all layers: subclasses set Parameters and Modules as attributes.

    They may also stand in lists, tuples and dicts, at any depth. In other containers, such as sets,
    they are not found.

    The path of attributes is the parameter's name: `model.h[0].attn.c_attn.weight` has the name
    "h.0.attn.c_attn.weight". If several paths lead to a Parameter (a tied weight), it is still one
    parameter: it is counted, listed and saved once, under its first path.

    Attributes
    ----------
    training
        Whether dropout is active; `train()` and `eval()` set it.
    """

    training: bool = True

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Compute the output. Every subclass defines this method."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Call `forward`."""
        return self.forward(*args, **kwargs)

    def children(self) -> Iterator[tuple[str, Parameter | Module]]:
        """Yield (name, child) for each Parameter or Module in the attributes, "h.0" in a list."""
        return _children(vars(self), "")

    def modules(self) -> Iterator[Module]:
        """Yield this module and all modules below it, each once, parents first."""
        return (module for _, module in self.named_modules())

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """Yield (path, module) for this module and all modules below it, each once, parents first.

        The path of this module is "". If several paths lead to a module, it has the first of them.

        >>> from npgpt2 import MLP, GPT2Config
        >>> [path for path, _ in MLP(GPT2Config(n_embd=4, n_head=1)).named_modules()]
        ['', 'c_fc', 'c_proj', 'dropout']
        """
        return ((path, child) for path, child in self._walk() if isinstance(child, Module))

    def named_parameters(self, aliases: bool = False) -> Iterator[tuple[str, Parameter]]:
        """Yield (name, parameter): each parameter once or, with `aliases`, under each name."""
        walk = self._walk(aliases)
        return ((path, child) for path, child in walk if isinstance(child, Parameter))

    def _walk(self, aliases: bool = False) -> Iterator[tuple[str, Parameter | Module]]:
        """Yield (path, child) for this module and everything below it, parents first.

        Each comes once, under its first path. With `aliases`, it comes under each path on which no
        module stands twice, so a module may have an attribute that leads back to its parent.
        """
        seen: set[int] = set()
        stack: list[tuple[str, Parameter | Module, frozenset[int]]] = [("", self, frozenset())]
        while stack:
            path, child, above = stack.pop()
            if id(child) not in (above if aliases else seen):
                seen.add(id(child))
                yield path, child
                if isinstance(child, Module):
                    above |= {id(child)}
                    below = [(f"{path}.{n}" if path else n, c, above) for n, c in child.children()]
                    stack.extend(reversed(below))

    def parameters(self) -> Iterator[Parameter]:
        """Yield each parameter once."""
        return (parameter for _, parameter in self.named_parameters())

    def zero_grad(self) -> None:
        """Set the gradients of all parameters to None."""
        for parameter in self.parameters():
            parameter.grad = None

    def train(self, mode: bool = True) -> Self:
        """Switch dropout on in all modules, or off if mode is False; return self."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Switch dropout off in all modules; return self."""
        return self.train(False)

    def evaluating(self) -> AbstractContextManager[None]:
        """Use no dropout and record no graph inside this block; afterwards restore both.

        Not thread-safe: it switches dropout off for every thread that uses this model.
        """
        return evaluating(list(self.modules()))

    def astype(self, dtype: DTypeLike) -> Self:
        """Convert all parameters to float32 or float64, in place; return self. Ties are kept."""
        dtype = validate.dtype(dtype)
        for parameter in self.parameters():
            parameter.data = parameter.data.astype(dtype, copy=False)
            if parameter.grad is not None:
                parameter.grad = parameter.grad.astype(dtype, copy=False)
        return self

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return a copy of every parameter's array, by name."""
        return {name: parameter.data.copy() for name, parameter in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, ArrayLike], assign: bool = False) -> None:
        """Copy arrays into the parameters, converting them to each parameter's dtype.

        The state may hold a tied parameter under several of its names, if the arrays are equal.

        Parameters
        ----------
        state
            An array for each parameter, by name.
        assign
            Use each array itself as the parameter's data, instead of copying it. An array of
            another dtype is converted first, and keeps its memory layout.

        Raises
        ------
        TypeError
            The state is not a dict.
        ValueError
            Names are missing or unexpected, shapes differ, values are not real numbers, or arrays
            of a tied parameter differ. One error lists all problems; no parameter has changed.
        """
        way_out = "pass a dict of arrays by name, as state_dict() returns it"
        validate.instance("state", state, Mapping, way_out)  # type: ignore[type-abstract]
        own = dict(self.named_parameters())
        aliases = dict(self.named_parameters(aliases=True))
        arrays = {name: _array(value) for name, value in state.items()}
        first_name = {id(parameter): name for name, parameter in own.items()}
        problems = [f"missing: {name}" for name in own if name not in arrays]
        for name, array in arrays.items():
            parameter = aliases.get(name)
            if parameter is None:
                problems.append(f"unexpected: {name}")
            elif array.dtype.kind in "OSU":
                problems.append(f"not an array of numbers: {name} is {validate.shown(state[name])}")
            elif array.shape != parameter.shape:
                problems.append(f"wrong shape: {name} is {array.shape}, not {parameter.shape}")
            elif array.dtype.kind != "f":
                problems.append(f"wrong dtype: {name} is {array.dtype}, not a real float")
            elif name not in own:
                first = first_name[id(parameter)]
                if first in arrays and not np.array_equal(array, arrays[first], equal_nan=True):
                    problems.append(f"tied but different: {name} and {first}")
        if problems:
            raise ValueError(
                f"state does not fit this {type(self).__name__}: " + "; ".join(problems)
            )
        for name, parameter in own.items():
            if assign:
                parameter.data = arrays[name].astype(parameter.dtype, copy=False)
            else:
                parameter.data[...] = arrays[name]


def _children(
    container: Mapping[Any, Any] | Sequence[Any], prefix: str, above: frozenset[int] = frozenset()
) -> Iterator[tuple[str, Parameter | Module]]:
    above |= {id(container)}  # a list may contain itself
    items = container.items() if isinstance(container, Mapping) else enumerate(container)
    for key, value in items:
        if isinstance(value, _CHILD):
            yield f"{prefix}{key}", value
        elif isinstance(value, _CONTAINER) and id(value) not in above:
            yield from _children(value, f"{prefix}{key}.", above)


_CHILD = (Parameter, Module)
_CONTAINER = (list, tuple, dict)


def _array(value: ArrayLike | Tensor) -> NDArray[Any]:
    try:
        return np.asarray(value.data if isinstance(value, Tensor) else value)
    except ValueError:  # rows of different lengths
        return np.array(None)


@contextmanager
def evaluating(modules: Sequence[Module]) -> Iterator[None]:
    """Do the same as `Module.evaluating`, for modules that you have listed already.

    Generation lists the modules once, because in a small model, listing them takes a large part of
    the time for a token. Not thread-safe: it switches dropout off for every thread that uses the
    modules.
    """
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        with no_grad():
            yield
    finally:
        for module in training:
            module.training = True
