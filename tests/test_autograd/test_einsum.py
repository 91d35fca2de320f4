"""einsum: its options. test_ops.py tests its value and its gradients."""

from __future__ import annotations

import numpy as np

import autograd
from autograd import Tensor


def test_einsum_chooses_the_order_if_asked_to(monkeypatch):
    given, einsum = [], np.einsum
    monkeypatch.setattr(np, "einsum", lambda *a, **k: given.append(k) or einsum(*a, **k))
    for optimize in (True, False):
        x, weights = (
            Tensor(np.array([0.3, 0.9, 0.5]).astype(np.float32), requires_grad=True),
            np.eye(3) + 0.5,
        )  # float64 becomes float32
        out = autograd.einsum("i,ij,j->", x, weights, x, optimize=optimize)
        out.backward()
        assert out.dtype == x.grad.dtype == np.float32
        assert len(given) >= 3 and {"optimize": optimize} in given
        assert all(k == {"optimize": optimize} for k in given)
        given.clear()
