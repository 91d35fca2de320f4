"""GPT-2 on NumPy alone: forward, backward, training, generation.

>>> import numpy as np
>>> import npgpt2
>>> config = npgpt2.GPT2Config(vocab_size=65, n_positions=32, n_embd=64, n_layer=2, n_head=4)
>>> model = npgpt2.GPT2Model(config, rng=0).eval()
>>> ids = np.arange(8).reshape(2, 4)
>>> loss = npgpt2.functional.cross_entropy(model(ids), ids + 1)
>>> loss.backward()
>>> model.lm_head.weight is model.wte.weight
True
"""

import autograd

if not hasattr(autograd, "record"):
    raise ImportError(
        f"npgpt2 brings a package `autograd` of its own, but found another one at "
        f"{autograd.__file__}: the two cannot share an environment, so uninstall that one "
        "(pip uninstall autograd) and install npgpt2 again, or use a fresh environment"
    )

from npgpt2 import composed, functional  # noqa: E402
from npgpt2.config import GPT2Config  # noqa: E402
from npgpt2.layers import Dropout, Embedding, LayerNorm, Linear  # noqa: E402
from npgpt2.model import MLP, CausalSelfAttention, GPT2Model, TransformerBlock  # noqa: E402
from npgpt2.module import Module, Parameter  # noqa: E402
from npgpt2.optim import SGD, AdamW, clip_grad_norm, cosine_schedule  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "SGD",
    "AdamW",
    "CausalSelfAttention",
    "Dropout",
    "Embedding",
    "GPT2Config",
    "GPT2Model",
    "LayerNorm",
    "Linear",
    "Module",
    "Parameter",
    "TransformerBlock",
    "clip_grad_norm",
    "composed",
    "cosine_schedule",
    "functional",
]
