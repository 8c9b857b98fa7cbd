"""Draws a workflow's boxes on the picture it made and says how well the picture keeps to them.

Called by dev.py: show.py PICTURE WORKFLOW ANNOTATED, the workflow in API format.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo import eye, world  # noqa: E402
from gligen_ops.entity import Box, PhraseBox  # noqa: E402
from nodes.drawing import draw_boxes  # noqa: E402

SHOWN = 512


def boxes_of(workflow: dict) -> list[PhraseBox]:
    """The boxes of a workflow's GligenTextBox nodes, in order of their node ids."""
    nodes = sorted(workflow.items(), key=lambda item: [int(n) for n in item[0].split(":")])
    return [
        PhraseBox(i["text"], Box.from_size(i["x"], i["y"], i["width"], i["height"]))
        for i in (node["inputs"] for _, node in nodes if node["class_type"] == "GligenTextBox")
    ]


def accuracy(picture: Image.Image, boxes: list[PhraseBox]) -> list[float]:
    """For each box the IoU with the thing of its phrase that the picture shows; 0 without one."""
    small = picture.resize((world.SIZE, world.SIZE), Image.Resampling.BOX)
    found = eye.detect(np.asarray(small, dtype=np.float32) / 255)
    return [
        eye.box_accuracy(found, *b.phrase.split()[-2:], (b.box.x0, b.box.y0, b.box.x1, b.box.y1))
        for b in boxes
    ]


def main(picture: str, workflow: str, annotated: str) -> None:
    image = Image.open(picture).convert("RGB")
    boxes = boxes_of(json.loads(Path(workflow).read_text(encoding="utf-8")))
    values = accuracy(image, boxes)
    for b, iou in zip(boxes, values, strict=True):
        print(f"{b.phrase}: IoU with its box {iou:.2f}")
    hits = sum(v > 0.5 for v in values)
    print(
        f"Box accuracy: {hits} of {len(boxes)} in place (IoU > 0.5), mean IoU {np.mean(values):.2f}"
    )
    if image.width < SHOWN:
        image = image.resize((SHOWN, SHOWN * image.height // image.width), Image.Resampling.LANCZOS)
    draw_boxes(image, boxes).save(annotated)


if __name__ == "__main__":
    main(*sys.argv[1:])
