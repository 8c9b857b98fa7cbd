"""How a run knows what each row of each model call makes.

Every cond of a run gets a map as large as its latents, [pictures, 4, 2h, 2w]: of each cell its x and y in
the whole picture, the number of its picture and the number of its cond. The host hands it on with the cond,
and whoever cuts, repeats, batches or reorders latents does the same to it.
"""

import logging
from typing import NamedTuple

import comfy.conds
import comfy.sample
import comfy.utils
import torch
from torch import Tensor

from ...gligen_ops.places import Box

TAGS = "gligen_tags"
SCALE = 2
"""Cells a latent pixel: some who cut latents into tiles fail on maps of the latent's own size."""
DIGITS = 5
"""Of a region's fractions: the maps are of float32."""
UNKNOWN = -1
BEYOND = 64
"""How many pictures are looked for after the last that anything is grounded in."""
UNSURE = (
    "GLIGEN: %d pictures are sampled, and their grounding is for %d. Which of those they are is known by "
    "their noise alone, and here is none of this seed: they get what is for the first ones."
)


class Row(NamedTuple):
    """What a row of a model call makes. cond and picture: numbers; `UNKNOWN` for what no tag tells of.
    region: of the whole picture; None where it cannot be told."""

    cond: int
    picture: int
    region: Box | None


class Tags(comfy.conds.CONDRegular):
    """The map of a cond, which the host cuts with its area."""

    def process_cond(self, batch_size, area=None, **_):
        """area: height, width, y and x in latent pixels."""
        data = self.cond
        for dim in range(2 if area is not None else 0):
            data = data.narrow(2 + dim, SCALE * area[2 + dim], SCALE * area[dim])
        return self._copy_with(comfy.utils.repeat_to_batch_size(data, batch_size))


class Tagging:
    """The maps of one run. size: of its latents; pictures: the number of each; regions: of the whole
    picture, what each of them shows (as many as pictures, or repeated)."""

    def __init__(self, size: tuple[int, int], pictures: list[int], regions: list[Box]):
        height, width = SCALE * size[0], SCALE * size[1]
        self.base = torch.empty(len(pictures), 4, height, width)
        self.steps = set()
        for i, picture in enumerate(pictures):
            region = regions[i % len(regions)]
            across = (region.x1 - region.x0) / width
            down = (region.y1 - region.y0) / height
            self.base[i, 0] = region.x0 + across * (torch.arange(width) + 0.5)
            self.base[i, 1] = (region.y0 + down * (torch.arange(height) + 0.5))[:, None]
            self.base[i, 2] = picture
            self.steps.add((across, down))

    def put_on(self, cond: dict, number: int) -> None:
        tags = self.base.clone()
        tags[:, 3] = number
        cond["model_conds"] = {**cond["model_conds"], TAGS: Tags(tags)}

    def rows(self, tags: Tensor | None, x: Tensor) -> tuple[Row, ...]:
        """What each row of a call's input x [B, 4, h, w] makes, by the tags that came with it. Only the
        corners are read, and they lie on the CPU unless somebody has moved them."""
        if tags is None or len(tags) != len(x):
            return (Row(UNKNOWN, 0, None),) * len(x)
        height, width = tags.shape[-2:]
        whole = SCALE * x.shape[-2] >= height and SCALE * x.shape[-1] >= width  # it may have grown
        corners = tags[:, :, :: height - 1, :: width - 1].tolist()
        return tuple(self._row(corner, height, width, whole) for corner in corners)

    def _row(self, corners: list, height: int, width: int, whole: bool) -> Row:
        ((x0, x1), _), ((y0, _), (y1, _)), ((picture, _), _), ((cond, _), _) = corners
        across, down = (x1 - x0) / (width - 1), (y1 - y0) / (height - 1)
        even = any(abs(across - a) < a / 100 and abs(down - d) < d / 100 for a, d in self.steps)
        region = None
        if whole and even:  # else it was cut by somebody alone, or rolled
            ends = (x0 - across / 2, y0 - down / 2, x1 + across / 2, y1 + down / 2)
            region = Box(*(round(v, DIGITS) for v in ends))
        return Row(round(cond), round(picture), region)


def pictures_of(noise: Tensor, seed: int | None, longest: int) -> list[int]:
    """The numbers of a run's pictures in the batch that they are from. The host tells a sampler nothing of
    a latent's batch_index but the noise: of picture i it is the i-th that the seed gives. longest: how many
    pictures anything is grounded in; what is for the last of them is for any more."""
    in_order = [min(i, longest - 1) for i in range(len(noise))]
    if longest <= 1:
        return in_order
    found = _drawn(noise, seed, longest)
    if None in found:
        found = _drawn(noise, seed, longest + BEYOND)
    known = [number for number in found if number is not None]
    if known and len(set(known)) == len(known):  # else all have the noise of one
        return [longest - 1 if number is None else min(number, longest - 1) for number in found]
    if len(noise) < longest:
        logging.warning(UNSURE, len(noise), longest)
    return in_order


def _drawn(noise: Tensor, seed: int | None, count: int) -> list[int | None]:
    """Of each picture, which of the first noises that the seed gives it has."""
    if seed is None or not noise.any():
        return [None] * len(noise)
    with torch.random.fork_rng(devices=[]):
        drawn = comfy.sample.prepare_noise(noise[:1].cpu(), seed, list(range(count)))
    return [next((i for i, d in enumerate(drawn) if d.equal(n)), None) for n in noise.cpu()]
