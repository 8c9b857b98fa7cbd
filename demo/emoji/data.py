"""Scenes of the demo world as tensors, made from a seed, and kept in the folder of the training's state."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.pool import ThreadPool

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from . import drawing, world
from .device import DEVICE
from .stages import RUN

COUNT = 40_000
CAPTIONS = 4  # of each scene; the last says nothing of the light
MOST = 4  # things in a scene
KINDS = {"mixed": (world.NAMES, MOST), "single": (world.NAMES, 1), "persons": (world.PERSONS, 2)}
"""What is in the scenes of each kind, and the most of it."""
CHUNK = 250  # scenes that are drawn by one process at a time
MOMENTS = [(time, tint) for time in world.TIMES for tint in world.TINTS]


@dataclass(frozen=True)
class Scenes:
    """N scenes, on the device. Things that are not there have the name -1 and a box of zeros."""

    picture: Tensor  # [N, 128, 128, 3] uint8
    owner: Tensor  # [N, 128, 128] uint8, see drawing.Layers
    height: Tensor  # [N, 128, 128] uint8
    name: Tensor  # [N, 4], index into world.NAMES
    box: Tensor  # [N, 4, 4]
    joints: Tensor  # [N, 4, 17, 2]
    place: Tensor  # [N], index into world.PLACES
    moment: Tensor  # [N], index into MOMENTS
    horizon: Tensor  # [N]
    caption: Tensor  # [N, CAPTIONS, 77], token ids

    def __len__(self) -> int:
        return len(self.name)

    def without_held_out(self) -> Tensor:
        """Indices of the scenes that may be grounding data."""
        held = torch.tensor([name in world.HELD_OUT for name in world.NAMES], device=DEVICE)
        return (~(held[self.name] & (self.name >= 0)).any(1)).nonzero()[:, 0]


def scenes(kind: str, count: int | None = None, seed: int = 3) -> Scenes:
    """kind: of `KINDS`."""
    count = count or COUNT
    file = RUN / f"{kind}_{count}_{seed}.pt"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(_drawn_up(kind, count, seed), file.with_suffix(".tmp"))
        file.with_suffix(".tmp").replace(file)
    tensors = torch.load(file, weights_only=True)
    return Scenes(**{name: tensor.to(DEVICE) for name, tensor in tensors.items()})


def listed(kind: str, seed: int, numbers: range) -> list[tuple[world.Scene, np.random.Generator]]:
    """Scenes by their numbers, each with the source of its captions: so that many can be drawn at once."""
    names, most = KINDS[kind]
    rngs = [np.random.default_rng((seed, number)) for number in numbers]
    return [(world.Scene.random(rng, names, most), rng) for rng in rngs]


def _drawn_up(kind: str, count: int, seed: int) -> dict[str, Tensor]:
    tokens = Tokens()
    tokens([*world.texts(), ""])
    chunks = [
        (kind, seed, range(start, min(start + CHUNK, count))) for start in range(0, count, CHUNK)
    ]
    work = partial(_chunk, tokens)
    with get_context("fork").Pool() if hasattr(os, "fork") else ThreadPool() as pool:
        parts = list(tqdm(pool.imap(work, chunks), desc=f"{kind} scenes", total=len(chunks)))
    return {
        key: torch.from_numpy(np.concatenate([part[key] for part in parts])) for key in parts[0]
    }


def _chunk(tokens: "Tokens", chunk: tuple[str, int, range]) -> dict[str, np.ndarray]:
    kind, seed, numbers = chunk
    scenes = listed(kind, seed, numbers)
    captions = [tokens(_captions(scene, rng)) for scene, rng in scenes]
    listing = [scene for scene, _ in scenes]
    picture, owner, height = map(np.stack, zip(*map(drawing.layers, listing), strict=True))
    values = dict(picture=picture, owner=owner, height=height, caption=np.stack(captions))
    return {**values, **{key: value.numpy() for key, value in facts(listing).items()}}


def _captions(scene: world.Scene, rng) -> list[str]:
    light = world.Scene(scene.things, scene.place)
    return [*(world.caption(scene, rng) for _ in range(CAPTIONS - 1)), world.caption(light, rng)]


def facts(listing: Sequence[world.Scene]) -> dict[str, Tensor]:
    """What is known of scenes beside their pictures and captions."""
    count = len(listing)
    name = torch.full((count, MOST), -1)
    box, joints = torch.zeros(count, MOST, 4), torch.zeros(count, MOST, 17, 2)
    for i, scene in enumerate(listing):
        for k, thing in enumerate(scene.things):
            name[i, k] = world.NAMES.index(thing.name)
            box[i, k] = torch.tensor(thing.box)
            if thing.joints:
                joints[i, k] = torch.tensor(thing.joints)
    place = torch.tensor([list(world.PLACES).index(scene.place) for scene in listing])
    moment = torch.tensor([MOMENTS.index((scene.time, scene.tint)) for scene in listing])
    horizon = torch.tensor([scene.horizon for scene in listing])
    return dict(name=name, box=box, joints=joints, place=place, moment=moment, horizon=horizon)


def pixels(picture: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] → float [B, 3, H, W] in -1..1."""
    x = picture.movedim(-1, 1).float() / 127.5 - 1
    return x.contiguous(memory_format=torch.channels_last)


class Tokens:
    """Token ids of texts as the host's own SD 1.x tokenizer gives them, word by word."""

    def __init__(self):
        from comfy.sd1_clip import SD1Tokenizer

        self.tokenizer = SD1Tokenizer()
        self.known: dict[str, list[int]] = {}
        self.start, *_, self.end = self._of("")

    def _of(self, text: str) -> list[int]:
        return [token for token, _ in self.tokenizer.tokenize_with_weights(text)["l"][0]]

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """[len(texts), 77]"""
        return torch.stack([self._ids(text) for text in texts])

    def _ids(self, text: str) -> Tensor:
        ids = torch.full((77,), self.end)
        tokens = [self.start]
        for word in re.findall(r"\w+|[^\w\s]", text):
            if word not in self.known:
                known = self._of(word)
                self.known[word] = known[1 : known.index(self.end)]
            tokens += self.known[word]
        ids[: len(tokens)] = torch.tensor(tokens)
        return ids


def vocabulary(tokens: Tokens) -> list[int]:
    """Every token id that a caption of this world can contain."""
    return sorted(set(tokens([*world.texts(), ""]).flatten().tolist()))
