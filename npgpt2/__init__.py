"""GPT-2 in plain NumPy: forward, backward, training, generation.

>>> import numpy as np
>>> import npgpt2
>>> config = npgpt2.GPT2Config(vocab_size=65, n_positions=32, n_embd=64, n_layer=2, n_head=4)
>>> model = npgpt2.GPT2Model(config, rng=0).eval()
>>> ids = np.arange(8).reshape(2, 4)
>>> loss = npgpt2.functional.cross_entropy(model(ids), ids + 1)
>>> loss.backward()
>>> model.lm_head.weight is model.wte.weight
True

Import these names from `npgpt2`:

    models:      GPT2Config GPT2Model TransformerBlock CausalSelfAttention MLP
    layers:      Module Parameter Linear Embedding LayerNorm Dropout
    ops:         functional composed
    training:    TrainingConfig Trainer AdamW SGD clip_grad_norm cosine_schedule
    generation:  Sampling Limits stream complete Completion
    texts:       TextModel evaluate Evaluation

The study tools are in `npgpt2.learn`. `autograd.testing` and `npgpt2.testing` help you to test ops
and models.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from npgpt2.interrupt import end_at_once

end_at_once()

import autograd  # noqa: E402

if not hasattr(autograd, "record"):
    raise ImportError(
        f"npgpt2 needs its own package `autograd`, but found another one at {autograd.__file__}. "
        "The two cannot share an environment: uninstall the other one (pip uninstall autograd) and "
        "install npgpt2 again, or use a fresh environment"
    )

from npgpt2 import composed, functional  # noqa: E402
from npgpt2.config import GPT2Config, TrainingConfig  # noqa: E402
from npgpt2.layers import Dropout, Embedding, LayerNorm, Linear  # noqa: E402
from npgpt2.model import MLP, CausalSelfAttention, GPT2Model, TransformerBlock  # noqa: E402
from npgpt2.module import Module, Parameter  # noqa: E402
from npgpt2.optim import SGD, AdamW, clip_grad_norm, cosine_schedule  # noqa: E402

if TYPE_CHECKING:
    from npgpt2.generation.evaluation import Evaluation, evaluate
    from npgpt2.generation.generation import Completion, complete, stream
    from npgpt2.generation.sampling import Limits, Sampling
    from npgpt2.text import TextModel
    from npgpt2.training.trainer import Trainer

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "SGD",
    "AdamW",
    "CausalSelfAttention",
    "Completion",
    "Dropout",
    "Embedding",
    "Evaluation",
    "GPT2Config",
    "GPT2Model",
    "LayerNorm",
    "Limits",
    "Linear",
    "Module",
    "Parameter",
    "Sampling",
    "TextModel",
    "Trainer",
    "TrainingConfig",
    "TransformerBlock",
    "clip_grad_norm",
    "complete",
    "composed",
    "cosine_schedule",
    "evaluate",
    "functional",
    "stream",
]

# These names are imported when you use them. Otherwise `import npgpt2` would take almost twice as
# long.
_IMPORTED_ON_USE = {
    "Completion": "npgpt2.generation.generation",
    "Evaluation": "npgpt2.generation.evaluation",
    "Limits": "npgpt2.generation.sampling",
    "Sampling": "npgpt2.generation.sampling",
    "TextModel": "npgpt2.text",
    "Trainer": "npgpt2.training.trainer",
    "complete": "npgpt2.generation.generation",
    "evaluate": "npgpt2.generation.evaluation",
    "stream": "npgpt2.generation.generation",
}


if not TYPE_CHECKING:  # a type checker that sees a __getattr__ accepts every misspelt name

    def __getattr__(name: str) -> object:
        if name not in _IMPORTED_ON_USE:
            raise AttributeError(f"module 'npgpt2' has no attribute {name!r}")
        return getattr(import_module(_IMPORTED_ON_USE[name]), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
