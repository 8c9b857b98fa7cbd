"""Pictures of attention and of gates."""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate

from .drawing import fitted
from .images import from_picture

HEAT = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
OPACITY = 0.65
BLUE, ORANGE, GREY = (52, 120, 200), (235, 130, 40), (120, 120, 120)
NARROWEST, HEIGHT, MARGIN = 18, 240, 44


def heat_picture(image: Tensor, heat: list[Tensor], caption: str) -> Tensor:
    """The mean of maps [1, 1, h, w] of any sizes over a picture [H, W, 3], from none to the most that
    there is, with a caption below. Returns [H', W, 3]."""
    size = image.shape[:2]
    maps = [interpolate(h.float().cpu(), size, mode="bilinear") for h in heat]
    mean = torch.stack(maps).mean(0)[0, 0].numpy()
    share = mean / max(mean.max(), 1e-12)
    stops = np.linspace(0, 1, len(HEAT))
    colour = np.stack([np.interp(share, stops, [c[i] for c in HEAT]) for i in range(3)], -1)
    picture = image[..., :3].cpu().numpy() * 255 * (1 - OPACITY) + colour * OPACITY
    return _captioned(picture.clip(0, 255).astype(np.uint8), f"{caption}  (most {mean.max():.0%})")


def _captioned(picture: np.ndarray, caption: str) -> Tensor:
    height, width = picture.shape[:2]
    font = ImageFont.load_default(max(10, width // 28))
    bar = round(font.size * 1.8)
    sheet = Image.new("RGB", (width, height + bar), "black")
    sheet.paste(Image.fromarray(picture))
    caption = fitted(caption, font, width - 8)
    draw = ImageDraw.Draw(sheet)
    draw.text((width / 2, height + bar / 2), caption, "white", font, anchor="mm")
    return from_picture(sheet)


def bar_plot(gates: dict) -> Tensor:
    """tanh(γ_attn) and tanh(γ_dense) of each layer of each GLIGEN, by the order of the layers. Returns
    [H, W, 3]."""
    sheets = [_bars(name, layers) for name, layers in gates.items()]
    width = max(sheet.width for sheet in sheets)
    whole = Image.new("RGB", (width, sum(sheet.height for sheet in sheets)), "white")
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    return from_picture(whole)


def _bars(name: str, layers: dict) -> Image.Image:
    font = ImageFont.load_default(12)
    step = max(NARROWEST * 2 + 8, 52)
    width = max(2 * MARGIN + step * len(layers), 360)
    sheet = Image.new("RGB", (width, HEIGHT + 2 * MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 14), f"{name}: tanh γ by layer", "black", font, anchor="lm")
    draw.text((MARGIN, 30), "attention", BLUE, font, anchor="lm")
    draw.text((MARGIN + 70, 30), "feed-forward", ORANGE, font, anchor="lm")
    zero = MARGIN + HEIGHT / 2
    for level in (-1, -0.5, 0, 0.5, 1):
        y = zero - level * HEIGHT / 2
        draw.line((MARGIN, y, width - 8, y), fill=(210, 210, 210) if level else GREY)
        draw.text((MARGIN - 6, y), f"{level:g}", GREY, font, anchor="rm")
    for i, (block, values) in enumerate(layers.items()):
        x = MARGIN + 6 + i * step
        for j, (value, colour) in enumerate(zip(values, (BLUE, ORANGE), strict=True)):
            y = zero - float(value) * HEIGHT / 2
            left = x + j * NARROWEST
            draw.rectangle((left, min(y, zero), left + NARROWEST - 2, max(y, zero)), fill=colour)
        label = f"{block.kind[:3]} {block.number}" + (f".{block.index}" if block.index else "")
        draw.text((x + NARROWEST, MARGIN + HEIGHT + 12), label, "black", font, anchor="mm")
    return sheet
