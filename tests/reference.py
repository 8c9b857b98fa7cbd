"""GLIGEN's formulas written down plainly, in float64: what the pack's layers are held against."""

import math

import torch
from torch.nn import functional as F


def relative(a, b):
    """How far a is from b, as a share of b."""
    a, b = a.double(), b.double()
    return ((a - b).norm() / b.norm()).item()


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


def or_null(values, mask, null):
    """The learned null feature where there is nothing."""
    return mask[..., None] * values + (1 - mask[..., None]) * null


def box_tokens(state, boxes, mask, features):
    """MLP([f_text(e), Fourier(l)]), a slot without entity with the learned null features."""
    text = or_null(features, mask, state["null_positive_feature"])
    place = or_null(fourier(boxes), mask, state["null_position_feature"])
    return mlp(state, "linears", torch.cat([text, place], dim=-1))


def text_image_tokens(state, boxes, mask, text_mask, image_mask, text, image):
    """[MLP_text([f_text(e), Fourier(l)]), MLP_image([f_image(e), Fourier(l)])], each masked by itself."""
    place = or_null(fourier(boxes), mask, state["null_position_feature"])
    tokens = []
    for kind, feature, its_mask in (("text", text, text_mask), ("image", image, image_mask)):
        feature = or_null(feature, its_mask, state[f"null_{kind}_feature"])
        tokens.append(mlp(state, f"linears_{kind}", torch.cat([feature, place], dim=-1)))
    return torch.cat(tokens, dim=1)


def keypoint_tokens(state, points, mask):
    """MLP([person + keypoint, Fourier(l)]), a missing point with the learned null features."""
    tokens = []
    for i in range(points.shape[1]):
        who = state["person_embeddings"][i // 17] + state["keypoint_embeddings"][i % 17]
        who = or_null(who.expand(len(points), -1), mask[:, i], state["null_person_feature"])
        place = or_null(fourier(points[:, i]), mask[:, i], state["null_xy_feature"])
        tokens.append(mlp(state, "linears", torch.cat([who, place], dim=-1)))
    return torch.stack(tokens, dim=1)


def map_tokens(state, maps, mask):
    """MLP(ConvNeXt(e) + position) of a square map at its own resolution; no map: the null feature."""
    if "in_conv.weight" in state:
        maps = F.conv2d(maps, state["in_conv.weight"], state["in_conv.bias"], padding=1)
    features = convnext(state, "convnext_tiny_backbone.", maps).flatten(2).transpose(1, 2)
    features = or_null(features, mask, state["null_feature"])
    return mlp(state, "linears", features + state["pos_embedding"])


def convnext(state, prefix, x):
    """arXiv 2201.03545, figure 4, with the authors' names: patches of 4, four stages of 3, 3, 9 and 3
    blocks, a convolution of 2 between them; no final norm."""
    for stage, depth in enumerate((3, 3, 9, 3)):
        down = f"{prefix}downsample_layers.{stage}"
        if stage:
            x = channel_norm(state, f"{down}.0", x)
            x = F.conv2d(x, state[f"{down}.1.weight"], state[f"{down}.1.bias"], stride=2)
        else:
            x = F.conv2d(x, state[f"{down}.0.weight"], state[f"{down}.0.bias"], stride=4)
            x = channel_norm(state, f"{down}.1", x)
        for index in range(depth):
            block = f"{prefix}stages.{stage}.{index}"
            w, b = state[f"{block}.dwconv.weight"], state[f"{block}.dwconv.bias"]
            h = F.conv2d(x, w, b, padding=3, groups=len(w))
            h = channel_norm(state, f"{block}.norm", h).movedim(1, -1)
            h = F.gelu(
                F.linear(h, state[f"{block}.pwconv1.weight"], state[f"{block}.pwconv1.bias"])
            )
            h = F.linear(h, state[f"{block}.pwconv2.weight"], state[f"{block}.pwconv2.bias"])
            x = x + (state[f"{block}.gamma"] * h).movedim(-1, 1)
    return x


def channel_norm(state, name, x):
    """Of the channels at each place, ε = 1e-6."""
    mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    x = (x - mean) / torch.sqrt(variance + 1e-6)
    return x * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def downsampled(state, picture, mode, size):
    """Conv(SiLU(Conv(map at four times the latent's size))): 256 × 256 for one of 64 × 64."""
    height, width = size
    x = F.interpolate(picture, (4 * height, 4 * width), mode=mode)
    for i in (0, 2):
        w, b = (state[f"downsample_net.layers.{i}.{part}"] for part in ("weight", "bias"))
        x = F.conv2d(x, w, b, stride=2, padding=1)
        x = F.silu(x) if i == 0 else x
    return x


def norm(state, name, x):
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def attention(state, x, context, heads):
    q, k, v = (
        F.linear(tokens, state[f"attn.to_{n}.weight"]).unflatten(-1, (heads, -1)).transpose(1, 2)
        for n, tokens in (("q", x), ("k", context), ("v", context))
    )
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    out = (weights @ v).transpose(1, 2).flatten(-2)
    return F.linear(out, state["attn.to_out.0.weight"], state["attn.to_out.0.bias"])


def feed_forward(state, x):
    x, gate = F.linear(x, state["ff.net.0.proj.weight"], state["ff.net.0.proj.bias"]).chunk(2, -1)
    return F.linear(x * F.gelu(gate), state["ff.net.2.weight"], state["ff.net.2.bias"])


def gated(state, v, found, beta):
    """v + β·tanh(γ_attn)·found, then v + β·tanh(γ_dense)·FF(LN2(v))."""
    v = v + beta * torch.tanh(state["alpha_attn"]) * found
    return v + beta * torch.tanh(state["alpha_dense"]) * feed_forward(
        state, norm(state, "norm2", v)
    )


def both(state, v, tokens):
    """LN1([v, W h^e])"""
    h = F.linear(tokens, state["linear.weight"], state["linear.bias"])
    return norm(state, "norm1", torch.cat([v, h], dim=1))


def gated_self_attention(state, v, tokens, heads, beta=1.0):
    """found = TS(SelfAttn(LN1([v, W h^e]))): the visual tokens of it."""
    x = both(state, v, tokens)
    return gated(state, v, attention(state, x, x, heads)[:, : v.shape[1]], beta)


def gated_grid_attention(state, v, tokens, heads, beta=1.0, grid=None):
    """found = the grounding tokens of the same, a square, resized to the grid of the visual ones."""
    x = both(state, v, tokens)
    out = attention(state, x, x, heads)[:, v.shape[1] :]
    side, root = math.isqrt(tokens.shape[1]), math.isqrt(v.shape[1])
    out = out.transpose(1, 2).unflatten(2, (side, side))
    out = F.interpolate(out, grid or (root, root), mode="bicubic", align_corners=False)
    return gated(state, v, out.flatten(2).transpose(1, 2), beta)


def gated_cross_attention(state, v, tokens, heads, beta=1.0):
    """found = CrossAttn(LN1(v), h^e)."""
    return gated(state, v, attention(state, norm(state, "norm1", v), tokens, heads), beta)
