"""A toy base with a GLIGEN in it, and examples: what a training needs, in a thousandth of the time."""

import small
import torch
from gligen_pack.gligen_ops.learning import training
from gligen_pack.gligen_ops.model import Block, Gligen
from gligen_pack.gligen_ops.tokenizers.box import BoxTokenizer

BLOCK = Block("middle", 0, 0)
WIDTH = 32


class ToyBase(torch.nn.Module):
    """Visual tokens in and out, one block, a linear map for everything that a UNet does."""

    def __init__(self):
        super().__init__()
        self.into, self.out = torch.nn.Linear(4, WIDTH), torch.nn.Linear(WIDTH, 4)

    def forward(self, z, t, context, fuse, first=None):
        v = self.into(z.flatten(2).transpose(1, 2)) if first is None else visual(first(z))
        v = v + context.mean(1, keepdim=True)
        return self.out(fuse(v, BLOCK, 4)).transpose(1, 2).unflatten(2, z.shape[2:])


def visual(h):
    return h.flatten(2).transpose(1, 2)


def toy():
    torch.manual_seed(0)
    gligen = Gligen(BoxTokenizer(16, 16, hidden=16), 16, {BLOCK: WIDTH})
    return training.freeze(small.randomise(ToyBase(), 1)), gligen


def batch(count=8):
    boxes = torch.rand(count, 30, 4)
    mask = torch.ones(count, 30)
    grounding = (boxes, mask, torch.randn(count, 30, 16))
    latents, context = torch.randn(count, 4, 4, 4), torch.randn(count, 5, WIDTH)
    return training.Batch(latents, context, grounding)
