"""GLIGEN's formulas written down plainly, in float64: what the pack's layers are held against."""

import math

import torch
from torch.nn import functional as F


def fourier(x):
    """[..., n] → [..., 16 n]: per frequency 100^(k/8) the sines of all coordinates, then the cosines."""
    parts = []
    for k in range(8):
        parts += [torch.sin(100 ** (k / 8) * x), torch.cos(100 ** (k / 8) * x)]
    return torch.cat(parts, dim=-1)


def mlp(state, prefix, x):
    for i in (0, 2, 4):
        x = F.linear(x, state[f"{prefix}.{i}.weight"], state[f"{prefix}.{i}.bias"])
        x = F.silu(x) if i < 4 else x
    return x


def box_tokens(state, boxes, mask, features):
    """MLP([f_text(e), Fourier(l)]), a slot without entity with the learned null features."""
    m = mask[..., None]
    text = m * features + (1 - m) * state["null_positive_feature"]
    place = m * fourier(boxes) + (1 - m) * state["null_position_feature"]
    return mlp(state, "linears", torch.cat([text, place], dim=-1))


def norm(state, name, x):
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def self_attention(state, x, heads):
    q, k, v = (
        F.linear(x, state[f"attn.to_{n}.weight"]).unflatten(-1, (heads, -1)).transpose(1, 2)
        for n in "qkv"
    )
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    out = (weights @ v).transpose(1, 2).flatten(-2)
    return F.linear(out, state["attn.to_out.0.weight"], state["attn.to_out.0.bias"])


def feed_forward(state, x):
    x, gate = F.linear(x, state["ff.net.0.proj.weight"], state["ff.net.0.proj.bias"]).chunk(2, -1)
    return F.linear(x * F.gelu(gate), state["ff.net.2.weight"], state["ff.net.2.bias"])


def gated_self_attention(state, v, tokens, heads, beta=1.0):
    """v + β·tanh(γ_attn)·TS(SelfAttn(LN1([v, W h^e]))), then the same with the feed-forward."""
    h = F.linear(tokens, state["linear.weight"], state["linear.bias"])
    both = norm(state, "norm1", torch.cat([v, h], dim=1))
    v = (
        v
        + beta
        * torch.tanh(state["alpha_attn"])
        * self_attention(state, both, heads)[:, : v.shape[1]]
    )
    return v + beta * torch.tanh(state["alpha_dense"]) * feed_forward(
        state, norm(state, "norm2", v)
    )
