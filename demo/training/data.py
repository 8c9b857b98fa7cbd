"""Scenes of the demo world as latents, captions and boxes, made from a seed and cached in demo/run."""

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from .. import models, world
from .stages import RUN
from .train_vae import encode

COUNT = 12000
FIGURES = 0.15


def scenes() -> list[world.Scene]:
    rng = np.random.default_rng(3)
    return [world.Scene.random(rng, world.pairs(), figures=FIGURES) for _ in range(COUNT)]


@torch.no_grad()
def latents(vae: nn.Module, scenes: list[world.Scene], name: str = "latents") -> Tensor:
    """[N, 4, 16, 16], scaled as the diffusion model sees them. name: of the cache's file."""
    file = RUN / f"{name}_{len(scenes)}.pt"
    if file.exists():
        return torch.load(file, weights_only=True)
    parts = []
    for start in tqdm(range(0, len(scenes), 2), desc="latents", mininterval=5):
        stack = np.stack([world.render(s) for s in scenes[start : start + 2]])
        x = torch.from_numpy(stack).movedim(-1, 1).contiguous() * 2 - 1
        parts.append(encode(vae, x)[0] * models.LATENT_SCALE)
    out = torch.cat(parts)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(out, file)
    return out


class Tokens:
    """Token ids of texts, by the host's own SD 1.x tokenizer."""

    def __init__(self):
        from comfy.sd1_clip import SD1Tokenizer

        self.tokenizer = SD1Tokenizer()
        self.known: dict[str, list[int]] = {}

    def __call__(self, texts: list[str]) -> Tensor:
        """[len(texts), 77]"""
        for text in texts:
            if text not in self.known:
                chunks = self.tokenizer.tokenize_with_weights(text)["l"]
                self.known[text] = [token for token, _ in chunks[0]]
        return torch.tensor([self.known[t] for t in texts])


def vocabulary(tokens: Tokens) -> list[int]:
    """Every token id that a caption of this world can contain."""
    words = " ".join((*world.COLOURS, *world.SHAPES, world.FIGURE, *world.LIGHTS))
    rest = "a and , light from the on at in the middle left right top bottom"
    return sorted(set(tokens([words, rest, ""]).flatten().tolist()))
