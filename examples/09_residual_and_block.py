"""Lesson 9: the residual stream, and a whole block backwards.

The residual stream is the array x, (B, T, C), that runs through all blocks of GPT-2. A block reads
the stream twice, and adds to it twice. Its two branches are attention and the MLP:

    x1 = x + attn(ln_1(x))
    x2 = x1 + mlp(ln_2(x1))

x and x1 have two uses each, so each gets the sum of two gradients (lesson 1). Given g = dL/dx2:

    dx1 = g + the gradient through mlp and ln_2
    dx = dx1 + the gradient through attn and ln_1

The first summand comes along the residual path. So g reaches x unchanged through any number of
blocks, and the branches add other terms to it. (He et al., Identity Mappings in Deep Residual
Networks, arXiv:1603.05027 (2016), equation 5. Radford et al. (2019), section 2.3, put the layer
norm inside the branch.)
"""

import numpy as np

from autograd import Tensor, no_grad
from npgpt2 import GPT2Config, GPT2Model
from npgpt2 import functional as F

rng = np.random.default_rng(0)
config = GPT2Config(vocab_size=11, n_positions=5, n_embd=8, n_layer=2, n_head=2)
model = GPT2Model(config, rng=0, dtype=np.float64).eval()
for parameter in model.parameters():  # as after training: larger weights, and no bias is 0
    parameter.data[...] += 0.3 * rng.standard_normal(parameter.shape)
block = model.h[0]
x, g = rng.standard_normal((2, 5, 8)), rng.standard_normal((2, 5, 8))

# Forward, op by op. Each result knows its vjp.
stream = Tensor(x, requires_grad=True)
normed_1 = block.ln_1(stream)
qkv = block.attn.c_attn(normed_1)  # (B, T, C) -> (B, T, 3C)
heads = F.causal_attention(qkv, config.n_head)  # -> (B, T, C)
attended = block.attn.c_proj(heads)
middle = stream + attended
normed_2 = block.ln_2(middle)
wide = block.mlp.c_fc(normed_2)  # -> (B, T, 4C)
active = F.gelu(wide)
mlp = block.mlp.c_proj(active)  # -> (B, T, C)

# Backward, by hand: from the end to the start, one vjp at a time. The vjps of linear and layer norm
# return (dx, dweight, dbias); dx is the cotangent for the next vjp.
grads = {}
dactive, *grads["mlp.c_proj"] = mlp.vjp(g)
(dwide,) = active.vjp(dactive)
dnormed_2, *grads["mlp.c_fc"] = wide.vjp(dwide)
through_mlp, *grads["ln_2"] = normed_2.vjp(dnormed_2)
dmiddle = g + through_mlp  # middle has two uses
dheads, *grads["attn.c_proj"] = attended.vjp(dmiddle)
(dqkv,) = heads.vjp(dheads)
dnormed_1, *grads["attn.c_attn"] = qkv.vjp(dqkv)
through_attn, *grads["ln_1"] = normed_1.vjp(dnormed_1)
dx = dmiddle + through_attn  # stream has two uses

leaf = Tensor(x, requires_grad=True)
block(leaf).backward(g)
largest = np.abs(dx - leaf.grad).max()
for name, parameter in block.named_parameters():
    module, _, kind = name.rpartition(".")
    by_hand = grads[module][kind == "bias"]
    largest = max(largest, np.abs(by_hand - parameter.grad).max())
print("Largest difference from the engine:")
print(f"  dx and the gradients of {len(grads) * 2} parameters  {largest:.0e}")
assert largest < 1e-13

print("\nThe norms of dx and of its parts:")
for name, part in (("directly", g), ("through mlp", through_mlp), ("through attn", through_attn)):
    print(f"  {name:<13} {np.linalg.norm(part):6.2f}")
print(f"  {'dx':<13} {np.linalg.norm(dx):6.2f}")

print("\nAdd a constant to all channels of the stream. Every reader first subtracts the")
print("mean (layer norm, lesson 5), so the constant disappears:")
with no_grad():
    shifted, plain = (model.lm_head(model.ln_f(model.h[1](block(a)))) for a in (x + 7.0, x))
print(f"  logits change by {np.abs(shifted.data - plain.data).max():.0e}")
assert np.abs(shifted.data - plain.data).max() < 1e-12
print("So the gradient through a branch sums to 0 over the channels, and the sum of dx")
print("equals the sum of g. Sums over the channels, for two rows:")
for name, part in (("g", g), ("dx", dx), ("through mlp", through_mlp)):
    print(
        f"  {name:<13}" + " ".join(f"{total:7.3f}" for total in part[0, :2].sum(-1).round(12) + 0.0)
    )
assert np.allclose(dx.sum(axis=-1), g.sum(axis=-1), atol=1e-13)
assert not np.allclose((dx - g).sum(axis=-1), g.sum(axis=-1), atol=0.1)  # without g, it fails

print("\nNow you: npgpt2 practice block --start block.py")
