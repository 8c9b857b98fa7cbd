"""What the gated layers cost, counted by torch on tensors without values, at Stable Diffusion's sizes."""

import pytest
import torch
from files import SD15_WIDTHS
from gligen_pack.gligen_ops.model import Gligen
from gligen_pack.gligen_ops.schedule import BetaSchedule
from gligen_pack.gligen_ops.tokenizers.box import SLOTS, BoxTokenizer
from torch.utils.flop_counter import FlopCounterMode

PLAIN = 803e9  # FLOPs of the UNet of SD 1.5, one forward of one picture of 512 × 512
FLOOR = 1.415  # with GLIGEN, as a ratio to that
SIDES = {320: 64, 640: 32, 1280: 16}  # of the latent, by a block's width


@pytest.fixture(scope="module")
def gligen():
    with torch.device("meta"):
        return Gligen(BoxTokenizer(768, 768), 768, SD15_WIDTHS)


def side(block, width):
    return 8 if block.kind == "middle" else SIDES[width]


def flops(run, *args):
    with FlopCounterMode(display=False) as counter:
        run(*args)
    return counter.get_total_flops()


def layers(gligen, tokens=SLOTS):
    """FLOPs of all gated layers in one forward, the keys of the grounding tokens made before."""
    total = 0
    for block, width in gligen.widths.items():
        layer = gligen.layer(block)
        keys = layer.keys(torch.zeros(1, tokens, 768, device="meta"))
        v = torch.zeros(1, side(block, width) ** 2, width, device="meta")
        total += flops(layer, v, keys, 8, layer.gates())
    return total


def key_flops(gligen):
    """FLOPs of the keys of the grounding tokens, which are made once a run."""
    tokens = torch.zeros(1, SLOTS, 768, device="meta")
    return sum(flops(gligen.layer(block).keys, tokens) for block in gligen.widths)


def test_a_grounded_forward_costs_what_its_arithmetic_costs(gligen):
    assert 1 + layers(gligen) / PLAIN <= FLOOR


def test_more_grounding_tokens_cost_keys_to_attend_to_and_no_queries(gligen):
    more = layers(gligen, 2 * SLOTS) - layers(gligen, SLOTS)
    attended = sum(2 * 2 * side(b, w) ** 2 * SLOTS * w for b, w in gligen.widths.items())
    assert more == attended


def test_keys_of_a_run_cost_less_than_a_hundredth_of_a_forward(gligen):
    assert key_flops(gligen) < 0.01 * PLAIN


def test_a_run_of_20_steps_with_tau_0_3_costs_an_eighth_more(gligen):
    grounded = sum(beta > 0 for beta in BetaSchedule(0.3).betas(20))
    run = 20 * PLAIN + grounded * layers(gligen) + key_flops(gligen)
    assert 1.12 < run / (20 * PLAIN) <= 1.126
