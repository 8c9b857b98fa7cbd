"""What is lost where the gated layers' residuals are kept for some calls, measured with the demo model.

Names as the repository is a package inside ComfyUI (see __main__.py).
"""

import numpy as np
from tqdm import tqdm

from ..measuring.measures import STEPS, Boxes, Demo, placed

EVERY = (1, 2, 3, 4, 6, 10)
GROUNDED = 1.415  # FLOPs of a forward of SD 1.5 with gated layers, as a ratio to one without


def flops(every: int) -> float:
    """Of a run, as a ratio to one without grounding."""
    computed = len(range(0, STEPS, every))
    return 1 + (GROUNDED - 1) * computed / STEPS


def curve(layouts: int) -> dict[str, dict[str, float]]:
    """At τ = 1: share of things in place, and the mean difference of a pixel's colour, 0..1, from the exact
    picture."""
    demo, measure = Demo("text box"), Boxes()
    in_place: dict[int, list] = {every: [] for every in EVERY}
    difference: dict[int, list] = {every: [] for every in EVERY}
    for seed, scene in enumerate(
        tqdm(measure.scenes(layouts), desc="refresh_every", mininterval=5)
    ):
        positive, *_ = measure.grounded(demo, scene)
        pictures = {n: demo.sample(positive, 1.0, seed, refresh_every=n) for n in EVERY}
        for every, picture in pictures.items():
            in_place[every] += placed(picture, scene.things)["in place"]
            difference[every].append(np.abs(picture - pictures[1]).mean())
    return {
        str(every): {
            "flops": flops(every),
            "in place": float(np.mean(in_place[every])),
            "difference": float(np.mean(difference[every])),
        }
        for every in EVERY
    }
