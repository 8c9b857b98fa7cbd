"""Random weights of GLIGEN's parts by the authors' names, listed as their code creates them."""

from functools import cache

import torch

HIDDEN = 512
BOX = 64
POINT = 32


@cache
def numbers():
    """Random numbers that all tensors are cut out of: as many anew for each would take seconds."""
    return torch.randn(1 << 24, generator=torch.Generator().manual_seed(0))


class Tensors:
    """Random tensors by name. Activations keep their size through them."""

    def __init__(self, seed):
        self.tensors = {}
        self.generator = torch.Generator().manual_seed(seed)

    def random(self, name, *shape, scale=0.05, around=0.0):
        count = torch.Size(shape).numel()
        start = int(torch.randint(len(numbers()) - count, (), generator=self.generator))
        self.tensors[name] = around + scale * numbers()[start : start + count].view(shape)

    def weights(self, name, *shape, bias=True):
        self.random(f"{name}.weight", *shape, scale=torch.Size(shape[1:]).numel() ** -0.5)
        if bias:
            self.random(f"{name}.bias", shape[0])

    def norm(self, name, width):
        self.random(f"{name}.weight", width, around=1.0)
        self.random(f"{name}.bias", width)

    def gated_layer(self, prefix, width, token_width, gate, fuser):
        if fuser == "gatedCA":
            context = token_width
        else:
            context = width
            self.weights(f"{prefix}.linear", width, token_width)
        self.weights(f"{prefix}.attn.to_q", width, width, bias=False)
        self.weights(f"{prefix}.attn.to_k", width, context, bias=False)
        self.weights(f"{prefix}.attn.to_v", width, context, bias=False)
        self.weights(f"{prefix}.attn.to_out.0", width, width)
        self.weights(f"{prefix}.ff.net.0.proj", 8 * width, width)
        self.weights(f"{prefix}.ff.net.2", width, 4 * width)
        self.norm(f"{prefix}.norm1", width)
        self.norm(f"{prefix}.norm2", width)
        for alpha in ("alpha_attn", "alpha_dense"):
            self.tensors[f"{prefix}.{alpha}"] = torch.tensor(float(gate))

    def mlp(self, name, inputs, outputs):
        self.weights(f"position_net.{name}.0", HIDDEN, inputs)
        self.weights(f"position_net.{name}.2", HIDDEN, HIDDEN)
        self.weights(f"position_net.{name}.4", outputs, HIDDEN)

    def box(self, token_width, width):
        self.mlp("linears", width + BOX, token_width)
        self.random("position_net.null_positive_feature", width)
        self.random("position_net.null_position_feature", BOX)

    def text_image(self, token_width, width):
        for kind in ("text", "image"):
            self.mlp(f"linears_{kind}", width + BOX, token_width)
            self.random(f"position_net.null_{kind}_feature", width)
        self.random("position_net.null_position_feature", BOX)

    def keypoint(self, token_width, _):
        self.random("position_net.person_embeddings", 8, token_width, scale=1)
        self.random("position_net.keypoint_embeddings", 17, token_width, scale=1)
        self.mlp("linears", token_width + POINT, token_width)
        self.random("position_net.null_person_feature", token_width)
        self.random("position_net.null_xy_feature", POINT)

    def map(self, token_width, width, tokens=196):
        self.convnext("position_net.convnext_tiny_backbone", width)
        self.random("position_net.pos_embedding", 1, tokens, width)
        self.mlp("linears", width, token_width)
        self.random("position_net.null_feature", width)

    def convnext(self, prefix, width):
        widths = [3, width // 8, width // 4, width // 2, width]
        for stage, depth in enumerate((3, 3, 9, 3)):
            before, width = widths[stage : stage + 2]
            convolution, norm, size = (1, 0, 2) if stage else (0, 1, 4)
            layer = f"{prefix}.downsample_layers.{stage}"
            self.weights(f"{layer}.{convolution}", width, before, size, size)
            self.norm(f"{layer}.{norm}", before if stage else width)
            for index in range(depth):
                block = f"{prefix}.stages.{stage}.{index}"
                self.random(f"{block}.gamma", width, scale=0.5)
                self.weights(f"{block}.dwconv", width, 1, 7, 7)
                self.norm(f"{block}.norm", width)
                self.weights(f"{block}.pwconv1", 4 * width, width)
                self.weights(f"{block}.pwconv2", width, 4 * width)
