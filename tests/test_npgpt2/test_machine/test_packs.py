"""Packs hold every parameter once, and write changes back to the parameters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autograd import Tensor
from npgpt2.machine.packs import flattened, make_packs
from npgpt2.machine.work import BLOCK

SHAPES = st.lists(st.sampled_from([(), (3,), (2, 3), (0,), (1, 1), (BLOCK // 2 + 1,), (BLOCK, 2)]))


def parameters(shapes, dtype=np.float32):
    return [Tensor(np.zeros(shape, dtype), requires_grad=True) for shape in shapes]


@given(SHAPES)
def test_every_parameter_is_in_one_pack_with_moments_of_its_size(shapes):
    given = parameters(shapes)
    packs = make_packs(given)
    members = [p for pack in packs for p, _ in pack.members]
    assert sorted(map(id, members)) == sorted(map(id, given))
    for pack in packs:
        cuts = [at for _, at in pack.members]
        assert [at.start for at in cuts] == [0, *(at.stop for at in cuts[:-1])]
        assert pack.m.shape == pack.v.shape == (cuts[-1].stop,)
        assert all(p.size == at.stop - at.start for p, at in pack.members)
        assert len({p.ndim >= 2 for p, _ in pack.members}) == 1
        assert len(pack.members) == 1 or pack.m.size <= BLOCK
    assert [pack.m.size for pack in packs] == sorted((pack.m.size for pack in packs), reverse=True)


def test_a_pack_has_one_dtype():
    both = [*parameters([(3,)]), *parameters([(3,)], np.float64)]
    assert sorted(pack.m.dtype.name for pack in make_packs(both)) == ["float32", "float64"]


def test_members_without_a_gradient_are_left_out():
    given = parameters([(2,), (3,), (4,)])
    (pack,) = make_packs(given)
    assert list(pack.pieces()) == []
    for p in (given[0], given[2]):
        p.grad = np.ones_like(p.data)
    one, two = pack.pieces()
    assert one[0] == [given[0]] and two[0] == [given[2]] and two[1].shape == (4,)
    given[1].grad = np.ones_like(given[1].data)
    ((together, m, v),) = pack.pieces()
    assert [p.size for p in together] == [2, 3, 4] and m is pack.m and v is pack.v


@pytest.mark.parametrize("shapes", [[(2, 3)], [(2, 3), (4, 1)]])
@pytest.mark.parametrize("order", "CF")
def test_what_is_done_to_the_flat_data_reaches_the_parameters(shapes, order):
    given, values = parameters(shapes), []
    for p in given:
        p.data = np.asarray(np.random.default_rng(0).standard_normal(p.shape), order=order)
        p.grad = 2.0 * p.data
        values.append(p.data.copy())
    with flattened(given) as (data, grad):
        np.testing.assert_array_equal(grad, 2.0 * data)
        data += grad
    for p, before in zip(given, values, strict=True):
        np.testing.assert_allclose(p.data, 3.0 * before)
    if len(shapes) == 1 and order == "C":
        assert np.shares_memory(data, given[0].data)
