"""ConvNeXt-Tiny, which reads spatial maps: "A ConvNet for the 2020s", arXiv 2201.03545.

The layers are those of transformers, under the names of the authors' `ConvNeXt` but for two, which
`host_name` and `authors_name` translate.
Original: ldm/modules/diffusionmodules/convnext.py of gligen/GLIGEN, its last norm and head left out.
"""

import re

from torch import Tensor, nn

DEPTHS = (3, 3, 9, 3)
RENAMED = {"norm": "layernorm", "gamma": "layer_scale_parameter"}  # within a block
BLOCK = re.compile(r"(.*\bstages\.\d+\.\d+\.)(\w+)(.*)")


class ConvNeXt(nn.Module):
    """The ConvNeXt that reads a map. width: F of the last stage's features (768 in
    ConvNeXt-Tiny); each stage doubles it."""

    def __init__(self, width: int):
        super().__init__()
        # Imported here, as it takes seconds, which only spatial maps are to wait for.
        from transformers import ConvNextConfig
        from transformers.models.convnext.modeling_convnext import ConvNextEmbeddings, ConvNextStage

        widths = [width // 8, width // 4, width // 2, width]
        config = ConvNextConfig(hidden_sizes=widths, depths=list(DEPTHS))
        stem = ConvNextEmbeddings(config)
        first, *others = (
            ConvNextStage(config, before, width, stride=min(stage + 1, 2), depth=DEPTHS[stage])
            for stage, (before, width) in enumerate(zip(widths[:1] + widths, widths, strict=False))
        )
        self.downsample_layers = nn.ModuleList(
            [
                nn.Sequential(stem.patch_embeddings, stem.layernorm),
                *(nn.Sequential(*stage.downsampling_layer) for stage in others),
            ]
        )
        self.stages = nn.ModuleList(nn.Sequential(*stage.layers) for stage in (first, *others))

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, 3, H, W]. Returns features [B, F, H/32, W/32]."""
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        return x


def host_name(name: str) -> str:
    """The name here of a tensor that the authors call `name`."""
    return _renamed(name, RENAMED)


def authors_name(name: str) -> str:
    """The authors' name of a tensor that is called `name` here."""
    return _renamed(name, {own: authors for authors, own in RENAMED.items()})


def _renamed(name: str, names: dict[str, str]) -> str:
    return BLOCK.sub(lambda m: m[1] + names.get(m[2], m[2]) + m[3], name)
