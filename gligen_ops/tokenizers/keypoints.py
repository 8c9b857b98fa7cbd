"""Grounding tokens of persons' keypoints: GLIGEN (arXiv 2301.07093), section 3.1, keypoints.

    h^e = MLP(person + keypoint, Fourier(l))

for a point l, with learned embeddings of which person and which of the 17 COCO points it is. A point
that is missing takes learned null features.
Original: `PositionNet` in ldm/modules/diffusionmodules/keypoint_grounding_net.py of gligen/GLIGEN.
"""

import torch
from einops import rearrange
from torch import Tensor, nn

from ..entities import Pose
from ..kinds import OFFICIAL, Kind
from .fourier import fourier_embedding, fourier_width
from .mlp import HIDDEN, mlp_sizes, token_mlp
from .slots import or_null
from .tokenizer import Tokenizer

PERSONS = 8
POINTS = 17
POSITION = fourier_width(2)
SIGNATURE = {"position_net.person_embeddings": None}


class KeypointTokenizer(Tokenizer):
    """Makes a token of each point of each person.

    token_width: D of the grounding tokens, and of the embeddings (768 on SD 1.x). hidden: of the MLP.
    """

    kinds = (Kind("keypoints", OFFICIAL + "generation-keypoint", SIGNATURE),)
    sizes = mlp_sizes("linears")
    slots = PERSONS
    slot_of_token = [person for person in range(PERSONS) for _ in range(POINTS)]

    def __init__(self, token_width: int, operations=nn, hidden: int = HIDDEN):
        super().__init__()
        self.person_embeddings = nn.Parameter(torch.zeros(PERSONS, token_width))
        self.keypoint_embeddings = nn.Parameter(torch.zeros(POINTS, token_width))
        self.linears = token_mlp(token_width + POSITION, token_width, operations, hidden)
        self.null_person_feature = nn.Parameter(torch.zeros(token_width))
        self.null_xy_feature = nn.Parameter(torch.zeros(POSITION))

    def inputs(self, entities: list[Pose]) -> tuple[Tensor, ...]:
        """What `forward` takes, for at most `slots` persons; none: the null grounding."""
        points = torch.zeros(PERSONS, POINTS, 2)
        for person, pose in enumerate(entities):
            points[person] = pose.points
        points = points.reshape(1, PERSONS * POINTS, 2)
        return points, (points != 0).any(-1).float()

    def forward(self, points: Tensor, mask: Tensor) -> Tensor:
        """points: [B, 136, 2] xy as fractions of the image, person by person; mask: [B, 136], 1 where
        there is a point, else 0. Returns tokens [B, 136, D].
        """
        who = self.person_embeddings[:, None] + self.keypoint_embeddings  # [8, 17, D]
        who = rearrange(who.to(points), "person point d -> (person point) d")
        who = or_null(who.expand(len(points), -1, -1), mask, self.null_person_feature)
        position = or_null(fourier_embedding(points), mask, self.null_xy_feature)
        return self.linears(torch.cat([who, position], dim=-1))
