"""Stage 3: gated layers and box tokenizer on grounded scenes, over the frozen base."""

import json

import numpy as np
import torch
from torch import nn

from gligen_ops import training
from gligen_ops.box_tokens import BoxTokenizer
from gligen_ops.checkpoint import tensors_of
from gligen_ops.entity import Box, Entity
from gligen_ops.model import Block, Gligen, blocks_of

from . import data, models, train_base, train_vae, world
from .stages import FOLDER, RUN, save_weights

BATCH = 64
KEEP = 0.9  # share of a scene's things that are grounded: the rest come from the caption alone
JITTER = 0.2  # noise on a phrase's features, in their spread, for pairs that are never seen here


def grounded_scenes() -> list[int]:
    """Indices of the scenes without a held-out pair."""
    return [
        i
        for i, scene in enumerate(data.scenes())
        if not any((t.colour, t.shape) in world.HELD_OUT for t in scene.things)
    ]


def denoiser(unet: nn.Module) -> training.Denoise:
    def denoise(z, t, context, fuse):
        def middle_patch(v, extra):
            return fuse(v, Block(*extra["block"], extra["block_index"]), extra["n_heads"])

        patches = {"patches": {"middle_patch": [middle_patch]}}
        return unet(z, t, context=context, transformer_options=patches)

    return denoise


def phrase_features(text: nn.Module, scenes) -> dict[str, torch.Tensor]:
    """What the text encoder makes of each thing's phrase, with its article and without. [F]"""
    phrases = sorted({p for s in scenes for t in s.things for p in (t.phrase, t.name)})
    with torch.no_grad():
        return dict(zip(phrases, text(data.Tokens()(phrases))[3], strict=True))


def entities(scene: world.Scene, features: dict[str, torch.Tensor], spread, rng) -> list[Entity]:
    """Things of a scene as they are grounded. spread: of the noise on their features, [F]."""
    found = []
    for thing in [t for t in scene.things if rng.random() < KEEP]:
        phrase = thing.name if rng.random() < world.BARE else thing.phrase
        feature = features[phrase] + spread * torch.randn(models.CONTEXT)
        found.append(Entity(Box(*thing.box), phrase, feature))
    return found


def train(steps: int) -> None:
    torch.manual_seed(2)
    unet, text = (training.freeze(m) for m in train_base.trained())
    before = training.fingerprint([*unet.parameters(), *text.parameters()])
    scenes, usable = data.scenes(), np.array(grounded_scenes())
    latents = data.latents(train_vae.trained(), scenes)
    tokens = data.Tokens()
    gligen = Gligen(BoxTokenizer(models.CONTEXT, models.CONTEXT), models.CONTEXT, blocks_of(unet))
    features = phrase_features(text, scenes)
    spread = torch.stack(list(features.values())).std(0) * JITTER
    with torch.no_grad():
        null_context = text(tokens([""]))[0]

    def batches(step: int) -> tuple[training.Batch, torch.Tensor]:
        rng = np.random.default_rng((5, step))
        picked = rng.choice(usable, size=BATCH)
        chosen = [scenes[i] for i in picked]
        with torch.no_grad():
            context = text(tokens([world.caption(s, rng) for s in chosen]))[0]
        inputs = [gligen.position_net.inputs(entities(s, features, spread, rng)) for s in chosen]
        grounding = tuple(torch.cat(parts) for parts in zip(*inputs, strict=True))
        batch = training.Batch(latents[torch.from_numpy(picked)], context, grounding)
        # Layout is decided where there is much noise: four in five steps are drawn from there.
        low = np.where(rng.random(BATCH) < 0.6, 500, 0)
        return batch, torch.from_numpy(rng.integers(low, training.Diffusion.steps))

    gates = FOLDER / "gates.jsonl"
    if not (RUN / "gligen.pt").exists():
        gates.write_text("")

    def every(step: int) -> None:
        if step % 20 == 0 or step + 1 == steps:
            with gates.open("a") as file:
                print(json.dumps({"step": step, **training.gate_values(gligen)}), file=file)

    file = RUN / "gligen.pt"
    training.learn(denoiser(unet), gligen, batches, null_context, file, steps, every)
    after = [*unet.parameters(), *text.parameters()]
    if not all(torch.equal(a, b) for a, b in zip(before, after, strict=True)):
        raise RuntimeError("The frozen base changed during training.")
    save_weights("gligen", tensors_of(gligen))
