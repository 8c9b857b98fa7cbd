"""Class maps of ADE20K, the data that GLIGEN's semantic model was trained on.

Classes are 1 (wall) to 150 (flag), 0 is anything else. The colours are those of the dataset's toolkit,
color150.mat, which segmentation nodes paint with.
"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ...gligen_ops.errors import GligenError
from ...gligen_ops.tokenizers.maps import CLASSES

PALETTE = """
    787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d
    787846 08ff33 ff0652 8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0
    0907e6 dcdcdc ff095c 7009ff 08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06
    ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff eb0cff a09614 00a3ff 8c8c8c fa0a0f 14ff00 1fff00
    ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff 0bc8c8 ff5200 00fff5 003dff 00ff70
    00ff85 ff0000 ffa300 ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad 0a00ff adff00 00ff99
    ff5c00 ff00ff ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2 00ff52
    000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00
    08b8aa 8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff
    9900ff 47ff00 ff00a3 ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00
    00ccff 1400ff ffff00 0099ff 0029ff 00ffcc 2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8
    005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
"""
COLOURS = torch.tensor([list(bytes.fromhex(colour)) for colour in PALETTE.split()])  # [150, 3]
NEAR = 24  # of 255, summed over red, green and blue: what saving and resizing change
STRANGE = 0.05  # share of the pixels
READINGS = ("automatic", "indices", "palette")


def class_map(image: Tensor, reading: str) -> Tensor:
    """A picture [B, H, W, 3] of 0..1 as one-hot classes [B, 152, H, W].

    reading: "indices", classes as grey values 0..151 of 255; "palette", the colours of ADE20K; or
    "automatic": indices where all is grey. Raises GligenError where values are no classes.
    """
    pixels = (image * 255).round().long()
    grey = bool((pixels[..., :1] == pixels).all())
    indices = reading == "indices" or (reading == "automatic" and grey)
    classes = pixels[..., 0] if indices else _by_colour(pixels)
    if int(classes.max()) >= CLASSES:
        raise GligenError(
            f"image: its class indices reach {int(classes.max())}, and ADE20K has 0 to {CLASSES - 1}. "
            "Give a map of class indices as grey values, or one in the colours of ADE20K with classes "
            "set to 'palette'."
        )
    return one_hot(classes, CLASSES).movedim(-1, 1).float()


def _by_colour(pixels: Tensor) -> Tensor:
    """[B, H, W, 3] of 0..255 → classes [B, H, W]: the nearest colour's, 0 for black."""
    seen, index = pixels.reshape(-1, 3).unique(dim=0, return_inverse=True)
    known = torch.cat([torch.zeros(1, 3, dtype=torch.long), COLOURS])
    distance = (seen[:, None] - known).abs().sum(-1)  # [colours seen, 151]
    nearest, classes = distance.min(dim=1)
    strange = (nearest > NEAR)[index].float().mean().item()
    if strange > STRANGE:
        raise GligenError(
            f"image: {strange:.0%} of its pixels have colours that ADE20K does not use, so it is not a "
            "map in its palette. Make the map with a segmenter for ADE20K, or give class indices as grey "
            "values."
        )
    return classes[index].reshape(pixels.shape[:-1])
