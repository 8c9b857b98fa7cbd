"""Draws what a workflow grounds on the picture it made, and says how well the picture keeps to it.

Called by dev.py with PICTURE WORKFLOW ANNOTATED, the workflow in API format.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..demo import world
from ..demo.training import eye, joints
from ..gligen_ops.entities import PhraseBox, Pose
from ..gligen_ops.places import Box
from ..nodes.pictures.drawing import draw_boxes, draw_lines

SHOWN = 512


class Workflow:
    """nodes: by id, as the server takes them."""

    def __init__(self, nodes: dict):
        self.nodes = nodes

    def inputs(self, kind: str) -> list[dict]:
        """Of the nodes of a kind, in order of their ids (those in a subgraph: "3:5")."""
        ids = sorted(self.nodes, key=lambda name: [int(n) for n in name.split(":")])
        return [n["inputs"] for n in map(self.nodes.get, ids) if n["class_type"] == kind]

    def painted(self, link: list) -> list[PhraseBox]:
        """What a GligenDemoPicture paints that a link leads back to."""
        node = self.nodes[link[0]]
        if node["class_type"] == "GligenDemoPicture":
            return [read_line(line) for line in node["inputs"]["things"].strip().splitlines()]
        return self.painted(node["inputs"]["image"])

    def boxes(self) -> list[PhraseBox]:
        """Of text boxes, and of image boxes with what their picture shows as phrase."""
        text = [PhraseBox(i["text"], box_of(i)) for i in self.inputs("GligenTextBox")]
        image = [
            PhraseBox(self.painted(i["clip_vision_output"])[0].phrase, box_of(i))
            for i in self.inputs("GligenImageBox")
            if i["use"] != "style"
        ]
        return text + image

    def poses(self) -> list[Pose]:
        people = [json.loads(i["json"]) for i in self.inputs("GligenKeypoints")]
        return [Pose(torch.tensor(points)) for group in people for points in group]


def read_line(line: str) -> PhraseBox:
    phrase, numbers = line.split(":")
    return PhraseBox(phrase, Box.from_size(*map(float, numbers.split(","))))


def box_of(inputs: dict) -> Box:
    return Box.from_size(*(inputs[name] for name in ("x", "y", "width", "height")))


def accuracy(picture: np.ndarray, boxes: list[PhraseBox]) -> list[float]:
    """For each box the IoU with the thing of its phrase that the picture shows; 0 without one."""
    found = eye.detect(picture)
    return [
        eye.box_accuracy(found, *b.phrase.split()[-2:], (b.box.x0, b.box.y0, b.box.x1, b.box.y1))
        for b in boxes
    ]


def figures(picture: np.ndarray, workflow: Workflow) -> list[str]:
    """What the picture [128, 128, 3] of 0..1 shows of what the workflow grounds, line by line."""
    lines = []
    boxes = workflow.boxes()
    if boxes:
        values = accuracy(picture, boxes)
        lines += [
            f"{b.phrase}: IoU with its box {v:.2f}" for b, v in zip(boxes, values, strict=True)
        ]
        hits = sum(v > 0.5 for v in values)
        lines.append(
            f"Box accuracy: {hits} of {len(boxes)} in place (IoU > 0.5), "
            f"mean IoU {np.mean(values):.2f}"
        )
    for pose in workflow.poses():
        errors = [
            np.linalg.norm(found - pose.points.numpy(), axis=-1).mean()
            for found in (joints.find(picture, colour) for colour in world.COLOURS)
            if found is not None
        ]
        lines.append(
            f"Mean joint error: {min(errors):.1%} of the picture" if errors else "No person found."
        )
    for i in workflow.inputs("GligenImageBox"):
        if i["use"] == "style":
            colour = workflow.painted(i["clip_vision_output"])[0].phrase.split()[-2]
            share = eye.share_of(picture, colour)
            lines.append(f"Coloured pixels that are {colour}, as the style is: {share:.0%}")
    for i in workflow.inputs("GligenSpatialMap"):
        wanted = eye.edges(paint(workflow.painted(i["image"])))[0]
        agreement = eye.edge_agreement(eye.edges(picture)[0], wanted)
        lines.append(f"Edge agreement (F1, {eye.SLACK} pixels of slack): {agreement:.2f}")
    for i in workflow.inputs("GligenInpaint"):
        kept = workflow.painted(i["image"])
        stay = sum(v > 0.5 for v in accuracy(picture, kept))
        lines.append(f"Still there of the picture painted into: {stay} of {len(kept)}")
    return lines


def paint(boxes: list[PhraseBox]) -> np.ndarray:
    things = [
        world.Thing(*b.phrase.split()[-2:], (b.box.x0, b.box.y0, b.box.x1, b.box.y1)) for b in boxes
    ]
    return world.render(world.Scene(tuple(things)))


def main(arguments: Sequence[str]) -> None:
    picture, workflow, annotated = arguments
    image = Image.open(picture).convert("RGB")
    wanted = Workflow(json.loads(Path(workflow).read_text(encoding="utf-8")))
    small = image.resize((world.SIZE, world.SIZE), Image.Resampling.BOX)
    print("\n".join(figures(np.asarray(small, dtype=np.float32) / 255, wanted)))
    if image.width < SHOWN:
        image = image.resize((SHOWN, SHOWN * image.height // image.width), Image.Resampling.LANCZOS)
    sketches = [pose.sketch() for pose in wanted.poses()]
    draw_boxes(draw_lines(image, sketches), wanted.boxes()).save(annotated)
