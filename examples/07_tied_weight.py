"""Lesson 7: the tied weight has two uses, and so two gradients.

GPT-2 looks tokens up in wte, (V, C). Its head (lm_head, the last layer) multiplies by the same
matrix to get the logits: the head is tied to wte. As with x * x in lesson 1, the gradient of wte is
the sum over both uses. A model whose head has a copy of wte, an untied model, shows the two parts.
"""

import numpy as np

from npgpt2 import GPT2Config, GPT2Model, Parameter
from npgpt2 import functional as F

config = GPT2Config(vocab_size=8, n_positions=6, n_embd=16, n_layer=2, n_head=2)
ids = np.array([[1, 4, 2, 2, 5]])
targets = np.array([[4, 2, 2, 5, 1]])

tied = GPT2Model(config, rng=0, dtype=np.float64).eval()  # eval: no dropout
print(f"lm_head.weight is wte.weight: {tied.lm_head.weight is tied.wte.weight}")
F.cross_entropy(tied(ids), targets).backward()

untied = GPT2Model(config, rng=0, dtype=np.float64).eval()
untied.lm_head.weight = Parameter(untied.wte.weight.data.copy())
F.cross_entropy(untied(ids), targets).backward()
embedding, head = untied.wte.weight.grad, untied.lm_head.weight.grad

print("\nNorm of the gradient of each token's row:")
print("  token  embedding    head    tied")
for token in range(config.vocab_size):
    norms = [np.linalg.norm(part[token]) for part in (embedding, head, tied.wte.weight.grad)]
    note = "" if token in ids else "   not in the input: no embedding gradient"
    print(f"  {token:5d}" + "".join(f"{norm:9.4f}" for norm in norms) + note)

difference = np.abs(embedding + head - tied.wte.weight.grad).max()
print(f"\nLargest difference between embedding + head and tied: {difference:.0e}")
assert difference < 1e-14
print(
    f"Parameters: {tied.get_num_params():,} tied, {untied.get_num_params():,} untied "
    f"({config.vocab_size} x {config.n_embd} more)"
)

print("\nNow you: npgpt2 practice tied_head --start tied_head.py")
