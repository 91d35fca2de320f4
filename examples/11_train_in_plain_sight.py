"""Lesson 11: train a model of characters, with nothing hidden: data, model, loss, step, sample.

`npgpt2 train` does the same, with checkpoints, a learning rate schedule and a progress line.
"""

import numpy as np

from npgpt2 import AdamW, GPT2Config, GPT2Model, clip_grad_norm
from npgpt2 import functional as F

# Data: each character is a token, and its target is the next character.
text = "the cat sat on the mat. the dog sat on the log. " * 20
characters = sorted(set(text))
tokens = np.array([characters.index(c) for c in text])
T = 16
rng = np.random.default_rng(0)


def batch(size):
    """Return (inputs, targets), both (size, T)."""
    starts = rng.integers(len(tokens) - T, size=size)
    windows = tokens[starts[:, None] + np.arange(T + 1)]
    return windows[:, :-1], windows[:, 1:]


# Model: two blocks of 32 channels.
config = GPT2Config(
    vocab_size=len(characters), n_positions=T, n_embd=32, n_layer=2, n_head=4,
    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
)  # fmt: skip
model = GPT2Model(config, rng=0)
optimizer = AdamW(model.parameters(), lr=3e-3)
print(f"{model.get_num_params():,} parameters, {len(characters)} characters")
blind = np.log(len(characters))
print(f"loss of a blind guess: ln {len(characters)} = {blind:.3f} nats (bits would use log2)\n")

for step in range(201):
    inputs, targets = batch(16)
    logits = model(inputs)  # (B, T) -> (B, T, V)
    loss = F.cross_entropy(logits, targets)
    loss.backward()  # fills .grad of every parameter
    norm = clip_grad_norm(model.parameters(), 1.0)  # a joint norm above 1 is scaled down to 1
    optimizer.step()  # changes every parameter a little
    optimizer.zero_grad()  # otherwise backward() adds the next gradients to these
    if step % 40 == 0:
        print(f"step {step:3d}  loss {loss.item():.3f}  gradient norm {norm:.2f}")

prompt = np.array([[characters.index(c) for c in "the "]])
sample = model.generate(prompt, 60, temperature=0.5, rng=1, sliding_window=True)
print("\nsample: " + "".join(characters[i] for i in sample[0]))
