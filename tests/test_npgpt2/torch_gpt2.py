"""The oracle: GPT-2 made of torch's own layers, under the same parameter names.

The oracle has no dropout: compare it with models whose pdrops are 0.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as tF


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x):
        q, k, v = (
            part.unflatten(-1, (self.n_head, -1)).transpose(1, 2)  # (B, T, C) -> (B, H, T, D)
            for part in self.c_attn(x).chunk(3, dim=-1)
        )
        out = tF.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(out.transpose(1, 2).flatten(-2))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, config.n_inner)
        self.c_proj = nn.Linear(config.n_inner, config.n_embd)

    def forward(self, x):
        return self.c_proj(tF.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class TorchGPT2(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, ids):
        ids = torch.as_tensor(np.asarray(ids))
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


class Conv1D(nn.Module):
    """x @ weight + bias, weight (in, out): openai/gpt-2, src/model.py."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_in, n_out))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x):
        return x @ self.weight + self.bias


def published(config):
    """Return the oracle with Conv1D, as in the published model; load values before you use it."""
    with torch.random.fork_rng(devices=[]):
        model = TorchGPT2(config)
    for block in model.h:
        for part, name in ((block.attn, "c_attn"), (block.attn, "c_proj"), (block.mlp, "c_fc")):
            old = getattr(part, name)
            setattr(part, name, Conv1D(old.in_features, old.out_features))
        block.mlp.c_proj = Conv1D(config.n_inner, config.n_embd)
    return model


def load(config, state, dtype=np.float64):
    """Return the oracle with the values of a `state_dict()`, which must have the same names."""
    with torch.random.fork_rng(devices=[]):  # its initial values are replaced
        model = TorchGPT2(config)
    parameters = dict(model.named_parameters())  # the tied weight once, under its first name
    assert list(parameters) == list(state), "parameter names differ"
    for name, parameter in parameters.items():
        assert tuple(parameter.shape) == state[name].shape, name
        parameter.data = torch.from_numpy(state[name].astype(dtype))
    return model


def run_torch(model, ids, targets):
    """Return logits, loss and every parameter's gradient by name, as `cases.run` does."""
    model.zero_grad()
    logits = model(ids)
    labels = torch.as_tensor(np.asarray(targets)).flatten()
    loss = tF.cross_entropy(logits.flatten(0, 1), labels, ignore_index=-100)
    loss.backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    return {"logits": logits.detach().numpy(), "loss": loss.detach().numpy(), **gradients}
