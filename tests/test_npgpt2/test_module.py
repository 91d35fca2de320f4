"""Module finds its parameters by walking attributes, and a tied parameter stays one parameter."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autograd import Tensor
from npgpt2 import Dropout, LayerNorm, Linear, Module, Parameter


class Scale(Module):
    """x * gain, with dropout: a small module with one parameter."""

    def __init__(self):
        self.gain = Parameter(np.array([1.0, -2.0, 0.5], np.float32))
        self.drop = Dropout(0.5)

    def forward(self, x):
        return self.drop(x * self.gain)


class Tree(Module):
    """Every kind of attribute: parameters, modules, lists of both, ties, and other things."""

    def __init__(self):
        self.first = Linear(2, 3, rng=0)
        self.name, self.sizes, self.nothing = "a tree", [2, 3], None
        self.constant = Tensor(np.ones(3, np.float32))
        self.shift = Parameter(np.zeros(3, np.float32))
        self.layers = [Scale(), LayerNorm(3), Scale()]
        self.gains = [Parameter(np.ones(3, np.float32)), Parameter(np.ones(1, np.float32))]
        self.head = Linear(2, 3, bias=False)
        self.head.weight = self.first.weight
        self.again = self.first

    def forward(self, x):
        x = self.first(x) + self.shift
        for layer in self.layers:
            x = layer(x)
        return (x * self.gains[0] * self.gains[1]) @ self.head.weight


NAMES = [
    "first.weight", "first.bias", "shift", "layers.0.gain", "layers.1.weight", "layers.1.bias",
    "layers.2.gain", "gains.0", "gains.1",
]  # fmt: skip
ALIASES = ["head.weight", "again.weight", "again.bias"]
X = np.array([[1.0, -1.0], [0.5, 2.0]], np.float32)


def give_gradients(module):
    """Give a gradient to every parameter but the last."""
    for parameter in list(module.parameters())[:-1]:
        parameter.grad = np.full_like(parameter.data, 2.0)


# -- walking -------------------------------------------------------------------------------------


def test_a_parameter_is_a_leaf_that_requires_a_gradient():
    parameter = Parameter([1.0, 2.0])
    assert isinstance(parameter, Tensor)
    assert parameter.requires_grad and parameter.parents == () and parameter.grad is None


def test_names_are_attribute_paths_in_order_of_assignment():
    assert [name for name, _ in Tree().named_parameters()] == NAMES


def test_a_tied_parameter_is_listed_once_and_with_aliases_under_all_its_names():
    tree = Tree()
    listed = list(tree.named_parameters(aliases=True))
    assert [name for name, _ in listed] == NAMES + ALIASES
    for name, parameter in listed:
        owner = tree
        for part in name.split("."):
            owner = owner[int(part)] if part.isdigit() else getattr(owner, part)
        assert parameter is owner, name


def test_parameters_are_those_of_named_parameters():
    tree = Tree()
    named = [parameter for _, parameter in tree.named_parameters()]
    assert all(p is q for p, q in zip(tree.parameters(), named, strict=True))


def test_modules_come_once_each_and_parents_first():
    tree = Tree()
    a, norm, b = tree.layers
    expected = [tree, tree.first, a, a.drop, norm, b, b.drop, tree.head]
    assert all(m is n for m, n in zip(tree.modules(), expected, strict=True))


def test_a_parameter_set_later_is_found_and_one_set_to_none_is_not():
    tree = Tree()
    tree.late = Parameter(np.zeros(1))
    tree.shift = None
    names = [name for name, _ in tree.named_parameters()]
    assert names == [name for name in NAMES if name != "shift"] + ["late"]


def test_a_tuple_is_walked_as_a_list_is():
    tree = Tree()
    names = [name for name, _ in tree.named_parameters()]
    tree.layers, tree.gains = tuple(tree.layers), tuple(tree.gains)
    assert [name for name, _ in tree.named_parameters()] == names


def test_calling_a_module_is_calling_forward():
    class Both(Module):
        def forward(self, a, *, b):
            return a - b

    assert Both()(Tensor(5.0), b=Tensor(3.0)).item() == 2.0


def test_a_module_without_forward_says_so():
    class Empty(Module):
        pass

    with pytest.raises(NotImplementedError, match="Empty defines no forward"):
        Empty()(Tensor(1.0))


# -- training and evaluation ---------------------------------------------------------------------


def test_modules_are_made_in_training_mode():
    assert all(module.training is True for module in Tree().modules())


def test_eval_and_train_switch_every_module_and_return_self():
    tree = Tree()
    assert tree.eval() is tree
    assert not any(module.training for module in tree.modules())
    assert tree.train() is tree
    assert all(module.training for module in tree.modules())
    assert tree.train(False) is tree
    assert not any(module.training for module in tree.modules())
    assert Tree().training, "another instance is not concerned"


def test_evaluating_has_no_dropout_and_no_graph():
    tree = Tree()
    expected = copy.deepcopy(tree).eval()(Tensor(X))
    with tree.evaluating():
        out = tree(Tensor(X))
    assert np.array_equal(out.data, expected.data)
    assert expected.requires_grad and not out.requires_grad and out.parents == ()


@pytest.mark.parametrize("fails", [False, True])
def test_evaluating_restores_every_module_also_after_an_exception(fails):
    tree = Tree()
    tree.layers[1].eval()
    tree.layers[2].drop.eval()
    before = [module.training for module in tree.modules()]
    assert True in before and False in before
    try:
        with tree.evaluating():
            assert not any(module.training for module in tree.modules())
            if fails:
                raise KeyError("inside")
    except KeyError:
        assert fails
    assert [module.training for module in tree.modules()] == before
    assert tree(Tensor(X)).requires_grad


def test_evaluating_may_be_nested():
    tree = Tree()
    with tree.evaluating():
        with tree.evaluating():
            pass
        assert not tree.training and not tree(Tensor(X)).requires_grad
    assert tree.training and tree(Tensor(X)).requires_grad


def test_zero_grad_forgets_all_gradients():
    tree = Tree()
    give_gradients(tree)
    tree.zero_grad()
    assert all(parameter.grad is None for parameter in tree.parameters())


# -- dtype ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, "float32", np.dtype("float64")])
def test_astype_converts_values_and_gradients_in_place_and_keeps_ties(dtype):
    tree, before = Tree(), Tree().state_dict()
    parameters = list(tree.parameters())
    give_gradients(tree)
    assert tree.astype(dtype) is tree
    assert [id(p) for p in tree.parameters()] == [id(p) for p in parameters]
    assert tree.head.weight is tree.first.weight
    for name, parameter in tree.named_parameters():
        assert parameter.dtype == dtype and np.array_equal(parameter.data, before[name])
    for parameter in parameters[:-1]:
        assert parameter.grad.dtype == dtype and (parameter.grad == 2.0).all()
    assert parameters[-1].grad is None
    arrays = [(p.data, p.grad) for p in parameters]
    tree.astype(dtype)  # they have this dtype already, so nothing is copied
    assert all(p.data is a and p.grad is g for p, (a, g) in zip(parameters, arrays, strict=True))


@pytest.mark.parametrize("dtype", [np.float16, np.int64, complex, bool, "U3", np.longdouble])
def test_astype_refuses_all_but_float32_and_float64(dtype):
    tree = Tree()
    with pytest.raises(TypeError, match=f"float32 or float64, not {np.dtype(dtype)}"):
        tree.astype(dtype)
    assert all(parameter.dtype == np.float32 for parameter in tree.parameters())


# -- state_dict and load_state_dict --------------------------------------------------------------


def test_state_dict_has_every_parameter_once_by_name():
    tree = Tree()
    state = tree.state_dict()
    assert list(state) == NAMES
    for name, parameter in tree.named_parameters():
        assert type(state[name]) is np.ndarray and state[name].dtype == np.float32
        assert np.array_equal(state[name], parameter.data)


def test_state_dict_is_a_copy():
    tree, before = Tree(), Tree().state_dict()
    for array in tree.state_dict().values():
        array += 1.0
    assert all(np.array_equal(p.data, before[name]) for name, p in tree.named_parameters())


def random_state(dtype=np.float32):
    rng = np.random.default_rng(8)
    return {name: rng.normal(size=a.shape).astype(dtype) for name, a in Tree().state_dict().items()}


def test_load_state_dict_takes_values_into_the_same_parameters_as_a_copy():
    tree, state = Tree(), random_state()
    parameters, arrays = list(tree.parameters()), [p.data for p in tree.parameters()]
    tree.load_state_dict(dict(reversed(state.items())))  # the order does not matter
    for parameter, array, now in zip(parameters, arrays, tree.parameters(), strict=True):
        assert parameter is now and array is now.data
    for array in state.values():
        array += 1.0
    expected = random_state()
    assert all(np.array_equal(p.data, expected[name]) for name, p in tree.named_parameters())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("given", [np.float16, np.float32, np.float64])
def test_loaded_values_take_the_dtype_of_the_parameters(dtype, given):
    tree, state = Tree().astype(dtype), random_state(given)
    tree.load_state_dict(state)
    for name, parameter in tree.named_parameters():
        assert parameter.dtype == dtype
        assert np.array_equal(parameter.data, state[name].astype(dtype))


def test_arrays_that_are_assigned_become_the_parameters_own():
    tree, state = Tree(), random_state()
    state["first.weight"] = np.asfortranarray(state["first.weight"])
    parameters = list(tree.parameters())
    tree.load_state_dict(dict(reversed(state.items())), assign=True)
    for parameter, (name, now) in zip(parameters, tree.named_parameters(), strict=True):
        assert parameter is now and now.data is state[name], name
    assert tree.head.weight is tree.first.weight


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("given", ["<f2", "<f4", ">f4", "<f8"])
def test_arrays_of_another_dtype_are_converted_as_they_are_assigned(dtype, given):
    tree, state = Tree().astype(dtype), random_state(given)
    state["first.weight"] = np.asfortranarray(state["first.weight"])
    tree.load_state_dict(state, assign=True)
    assert tree.first.weight.data.flags.f_contiguous, "as it was laid out"
    for name, parameter in tree.named_parameters():
        assert parameter.dtype == dtype and parameter.data.dtype.isnative
        assert np.array_equal(parameter.data, state[name].astype(dtype))
        assert np.shares_memory(parameter.data, state[name]) == (state[name].dtype == dtype)


def test_nested_lists_and_tensors_may_be_loaded():
    tree, state = Tree(), random_state()
    mixed = {name: array.tolist() for name, array in state.items()}
    tree.load_state_dict({**mixed, "shift": Tensor(state["shift"])})
    assert all(np.array_equal(p.data, state[name]) for name, p in tree.named_parameters())


@pytest.mark.parametrize("value", [1.5, np.nan])
def test_aliases_of_a_tied_parameter_are_taken_if_equal(value):
    tree, state = Tree(), random_state()
    state["first.weight"][0] = value
    tree.load_state_dict({**state, "head.weight": state["first.weight"].copy()})
    assert np.array_equal(tree.head.weight.data, state["first.weight"], equal_nan=True)
    assert tree.head.weight is tree.first.weight


Change = Callable[[dict[str, Any]], Any]
MISFITS = {
    "missing: shift": lambda s: s.pop("shift"),
    "missing: gains.1": lambda s: s.pop("gains.1"),
    "unexpected: shifts": lambda s: s.update(shifts=np.zeros(3)),
    "unexpected: layers.3.gain": lambda s: s.update({"layers.3.gain": np.zeros(3)}),
    "wrong shape: first.bias is (1,), not (3,)": lambda s: s.update({"first.bias": np.ones(1)}),
    "wrong shape: head.weight is (2, 3), not (3, 2)": lambda s: s.update(
        {"head.weight": s["first.weight"].T}
    ),
    "wrong dtype: layers.0.gain is int64": lambda s: s.update(
        {"layers.0.gain": np.zeros(3, np.int64)}
    ),
    "wrong dtype: layers.1.weight is complex128": lambda s: s.update(
        {"layers.1.weight": np.zeros(3, complex)}
    ),
    "wrong dtype: layers.1.bias is bool": lambda s: s.update({"layers.1.bias": np.zeros(3, bool)}),
    "tied but different: again.weight and first.weight": lambda s: s.update(
        {"again.weight": s["first.weight"] + 1.0}
    ),
    "tied but different: again.bias and first.bias": lambda s: s.update(
        {"again.bias": np.full(3, np.nan)}
    ),
}


def refusal(tree, state):
    """Return the error message for this state, and assert that the tree is unchanged."""
    before, messages = tree.state_dict(), set()
    for assign in (False, True):
        with pytest.raises(ValueError, match="state does not fit this Tree") as error:
            tree.load_state_dict(state, assign)
        assert all(np.array_equal(p.data, before[name]) for name, p in tree.named_parameters())
        messages.add(str(error.value))
    [message] = messages
    return message


@pytest.mark.parametrize("problem", MISFITS)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(problem):
    tree, state = Tree(), random_state()
    MISFITS[problem](state)
    message = refusal(tree, state)
    assert problem in message and ";" not in message, "this problem and no other"


def test_all_problems_are_in_one_error():
    tree, state = Tree(), random_state()
    together = [p for p in MISFITS if "again.bias" not in p]  # first.bias has another problem
    for problem in together:
        MISFITS[problem](state)
    message = refusal(tree, state)
    assert all(problem in message for problem in together)
    assert message.count(";") == len(together) - 1


def test_an_alias_does_not_stand_in_for_the_first_name():
    state = random_state()
    state["head.weight"] = state.pop("first.weight")
    assert "missing: first.weight" in refusal(Tree(), state)


# -- copies --------------------------------------------------------------------------------------


def pickled(tree):
    return pickle.loads(pickle.dumps(tree))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])
def test_copies_have_equal_values_and_the_same_ties(duplicate):
    tree = Tree().eval()
    give_gradients(tree)
    again = duplicate(tree)
    pairs = zip(again.named_parameters(), tree.named_parameters(), strict=True)
    for (name, ours), (other, theirs) in pairs:
        assert name == other and type(ours) is Parameter and ours.requires_grad
        assert ours is not theirs and not np.shares_memory(ours.data, theirs.data)
        assert ours.dtype == theirs.dtype and np.array_equal(ours.data, theirs.data)
        assert (ours.grad is None) == (theirs.grad is None)
        assert ours.grad is None or np.array_equal(ours.grad, theirs.grad)
    assert again.head.weight is again.first.weight and again.again is again.first
    assert not any(module.training for module in again.modules())
    assert np.array_equal(again(Tensor(X)).data, tree(Tensor(X)).data)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])
def test_a_copy_goes_its_own_way(duplicate):
    tree = Tree()
    again = duplicate(tree)
    for parameter in again.parameters():
        parameter.data += 1.0
    expected = Tree().state_dict()
    assert all(np.array_equal(p.data, expected[name]) for name, p in tree.named_parameters())
    again.layers[0].drop.rng.random()
    states = [t.layers[0].drop.rng.bit_generator.state for t in (tree, again)]
    assert states[0] != states[1]


class Node(Module):
    def __init__(self):
        self.weight = Parameter(np.ones(2, np.float32))

    def forward(self, x):
        return x * self.weight


def test_modules_that_lead_back_to_each_other_are_walked_once():
    root, child = Node(), Node()
    root.child, child.parent, root.self = child, root, root
    root.extra = Parameter(np.ones(1, np.float32))
    names = ["weight", "child.weight", "extra"]
    assert [name for name, _ in root.named_parameters()] == names
    assert [name for name, _ in root.named_parameters(aliases=True)] == names
    assert [path for path, _ in root.named_modules()] == ["", "child"]
    assert [name for name, _ in child.named_parameters()] == [
        "weight", "parent.weight", "parent.extra"
    ]  # fmt: skip
    for twin in (copy.deepcopy(root), pickle.loads(pickle.dumps(root))):
        twin.load_state_dict({n: a + 1 for n, a in root.state_dict().items()})
        assert twin.child.parent is twin and twin.astype(np.float64).eval().child.training is False
        assert twin.extra.data.tolist() == [2.0] and twin.extra.dtype == np.float64


def test_a_shared_module_has_a_name_for_each_path():
    root, shared = Node(), Node()
    root.layers = [shared, shared]
    assert [n for n, _ in root.named_parameters()] == ["weight", "layers.0.weight"]
    aliases = [n for n, _ in root.named_parameters(aliases=True)]
    assert aliases == ["weight", "layers.0.weight", "layers.1.weight"]


def test_a_deep_chain_of_modules_is_walked():
    root = node = Node()
    for _ in range(3000):
        node.next = Node()
        node = node.next
    assert len(list(root.parameters())) == len(list(root.modules())) == 3001


def test_children_are_found_in_nested_lists_and_dicts():
    root = Node()
    root.grid = [[Node(), 3], (Node(),)]
    root.table = {"a": Node(), 2: [Parameter(np.ones(1))], "text": "b"}
    names = ["weight", "grid.0.0.weight", "grid.1.0.weight", "table.a.weight", "table.2.0"]
    assert [name for name, _ in root.named_parameters()] == names
    assert len(list(root.modules())) == 4
    root.load_state_dict({name: array * 3 for name, array in root.state_dict().items()})
    assert root.table[2][0].data.tolist() == [3.0]


@pytest.mark.parametrize("state", ["weights.npz", None, [1.0], 3, Tensor(1.0)])
def test_a_state_that_is_no_dict_is_refused(state):
    with pytest.raises(TypeError, match="state must be a Mapping, not .*pass a dict of arrays"):
        Node().load_state_dict(state)


@pytest.mark.parametrize("value", ["text", None, [[1.0], [1.0, 2.0]]])
def test_a_value_that_is_no_array_is_a_problem_of_the_state(value):
    with pytest.raises(ValueError, match="not an array of numbers: weight is ") as error:
        Node().load_state_dict({"weight": value, 3: np.ones(1)})
    assert "unexpected: 3" in str(error.value)


def test_parameters_of_another_module_are_a_state():
    node, other = Node(), Node()
    other.weight.data[...] = 5.0
    node.load_state_dict(dict(other.named_parameters()))
    assert node.weight.data.tolist() == [5.0, 5.0]


def test_a_list_may_contain_itself():
    root = Module()
    root.parts = [Parameter(np.ones(2)), {"more": (Parameter(np.ones(3)),)}]
    root.parts.append(root.parts)
    root.again = root.parts
    assert [name for name, _ in root.named_parameters()] == ["parts.0", "parts.1.more.0"]
    names = [name for name, _ in root.named_parameters(aliases=True)]
    assert names == ["parts.0", "parts.1.more.0", "again.0", "again.1.more.0"]
