"""Random models and batches, one training pass, and two comparisons. Nothing here needs torch."""

from __future__ import annotations

import numpy as np

from npgpt2 import GPT2Config, GPT2Model
from npgpt2 import functional as F

NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def random_config(seed, D=(3, 8), **changes):
    """Return a small config; D are the limits of the head size.

    No config has two channels: layer norm turns two channels into +-1, whatever their values.
    Then nearly all of its gradient cancels, and any implementation has few correct digits left.
    """
    rng = np.random.default_rng(seed)
    n_head = int(rng.integers(1, 5))
    sizes = {
        "vocab_size": int(rng.integers(12, 40)),
        "n_positions": int(rng.integers(4, 13)),
        "n_embd": n_head * int(rng.integers(D[0], D[1] + 1)),
        "n_layer": int(rng.integers(1, 4)),
        "n_head": n_head,
        "n_inner": None if rng.random() < 0.5 else 2 * int(rng.integers(2, 20)) + 1,
    }
    return GPT2Config(**{**sizes, **NO_DROPOUT, **changes})


def random_model(config, seed=0, dtype=np.float64):
    """Return a model with random parameters, even the biases and gains, which start as constants.

    The values are rounded to float32, so models of both dtypes have exactly the same values.
    """
    model, rng = GPT2Model(config, rng=seed, dtype=dtype), np.random.default_rng(seed)
    for name, parameter in model.named_parameters():
        around = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
        parameter.data[...] = rng.normal(around, 0.2, parameter.shape).astype(np.float32)
    return model


def random_batch(config, seed=0):
    """Return ids and targets (B, T), for random B and T. About 1 in 5 targets is ignored."""
    rng = np.random.default_rng(seed)
    shape = int(rng.integers(1, 5)), int(rng.integers(config.n_positions // 2, config.n_positions))
    ids, targets = rng.integers(0, config.vocab_size, (2, *shape))
    targets[rng.random(shape) < 0.2] = -100
    targets[0, 0] = 0  # at least one target counts
    return ids, targets


def run(model, ids, targets):
    """Return logits, loss and every parameter's gradient by name."""
    model.zero_grad()
    logits = model(ids)
    loss = F.cross_entropy(logits, targets)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {"logits": logits.data, "loss": loss.data, **gradients}


def assert_close(actual, desired, name=""):
    """Assert agreement to 9 digits, in float64: rounding leaves 13 or more, a wrong formula fewer.

    If larger terms cancel in an entry (the gradient of the key bias is 0), its rounding error is
    as large as in other entries. So the tolerance also allows a tiny part of the largest entry.
    """
    assert np.shape(actual) == np.shape(desired), name
    atol = 1e-12 * np.max(np.abs(desired), initial=0.0)
    np.testing.assert_allclose(actual, desired, rtol=1e-9, atol=atol, err_msg=name)


def assert_as_accurate(actual, other, reference, name=""):
    """Assert that the float32 error is at most twice the error of another implementation.

    So nobody has to choose a tolerance. An error is the norm of the difference from float64, over
    the whole tensor. The other implementation may be lucky, above all if the tensor has few
    entries. So the limit also allows two roundings of the tensor; stack results of small tensors.
    """
    assert actual.dtype == other.dtype == np.float32, name
    error, allowed = (np.linalg.norm((a - reference).ravel()) for a in (actual, other))
    rounding = np.finfo(np.float32).eps * np.linalg.norm(reference.ravel())
    assert error <= 2.0 * (allowed + rounding), f"{name}: {error=}, {allowed=}, {rounding=}"
