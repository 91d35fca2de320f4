"""Random models and batches, one training pass, and two tolerances: all of it without torch."""

from __future__ import annotations

import numpy as np

from npgpt2 import GPT2Config, GPT2Model
from npgpt2 import functional as F

NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def random_config(seed, D=(3, 8), **changes):
    """Return a small config; D are the limits of the head size.

    Two channels are left out: layer norm makes +-1 of them whatever they are, so that nearly all
    of its gradient cancels and the digits that remain are few in any implementation.
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
    """Return a model with every parameter random: also biases and gains, which start out flat.

    The values are rounded to float32, so that models of both dtypes have exactly the same.
    """
    model, rng = GPT2Model(config, rng=seed, dtype=dtype), np.random.default_rng(seed)
    for name, parameter in model.named_parameters():
        around = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
        parameter.data[...] = rng.normal(around, 0.2, parameter.shape).astype(np.float32)
    return model


def random_batch(config, seed=0):
    """Return ids and targets (B, T) of random B and T, about a fifth of the targets ignored."""
    rng = np.random.default_rng(seed)
    shape = int(rng.integers(1, 5)), int(rng.integers(config.n_positions // 2, config.n_positions))
    ids, targets = rng.integers(0, config.vocab_size, (2, *shape))
    targets[rng.random(shape) < 0.2] = -100
    targets[0, 0] = 0  # one counts at least
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
    """Same to 9 digits, in float64: rounding leaves 13 or more, a wrong formula never so many.

    Entries in which larger terms cancel (the gradient of the key bias is 0) have rounding errors
    as large as those of the others, hence an absolute part relative to the largest entry.
    """
    assert np.shape(actual) == np.shape(desired), name
    atol = 1e-12 * np.max(np.abs(desired), initial=0.0)
    np.testing.assert_allclose(actual, desired, rtol=1e-9, atol=atol, err_msg=name)


def assert_as_accurate(actual, other, reference, name=""):
    """In float32, the error is at most twice that of another float32 implementation.

    That needs no tolerance of its own. Errors are norms over the tensor, against float64. The
    floor, two roundings of that tensor, is for the case that the other one was lucky, which
    happens where entries are few: so stack several results where a tensor has only some.
    """
    assert actual.dtype == other.dtype == np.float32, name
    error, allowed = (np.linalg.norm((a - reference).ravel()) for a in (actual, other))
    rounding = np.finfo(np.float32).eps * np.linalg.norm(reference.ravel())
    assert error <= 2.0 * (allowed + rounding), f"{name}: {error=}, {allowed=}, {rounding=}"
