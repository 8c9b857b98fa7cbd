"""What GLIGEN chains with: graphs on the real server, each with other nodes of the host in it.

A case runs three times: without GLIGEN, with GLIGEN at β = 0, which has to give the same picture bit by
bit, and at β = 1, which has to give another. The table in docs/chaining.md is made from the cases:
`python tests/test_chaining.py` writes it.
"""

import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

DOCS = Path(__file__).resolve().parents[1] / "docs" / "chaining.md"
PHRASES = {"a red circle": (0.1, 0.1, 0.35, 0.35), "a blue square": (0.5, 0.5, 0.4, 0.4)}
STEPS = 3


class Graph:
    """A workflow in API form while it is being made: links by what they carry."""

    def __init__(self, tau: float | None):
        self.tau = tau
        self.nodes: dict[str, dict] = {}
        demo = self.add("GligenDemoModel")
        self.model, self.clip, self.vae, self.gligen = ([demo, slot] for slot in range(4))
        self.positive = self.text(" and ".join(PHRASES))
        self.negative = self.text("")
        self.latent = self.out("EmptyLatentImage", width=128, height=128, batch_size=1)

    def add(self, class_type: str, **inputs) -> str:
        id_ = str(len(self.nodes) + 1)
        self.nodes[id_] = {"class_type": class_type, "inputs": inputs}
        return id_

    def out(self, class_type: str, slot: int = 0, **inputs) -> list:
        return [self.add(class_type, **inputs), slot]

    def text(self, text: str) -> list:
        return self.out("CLIPTextEncode", clip=self.clip, text=text)

    def ground(self, conditioning, phrases=PHRASES) -> list:
        if self.tau is None:
            return conditioning
        for phrase, (x, y, width, height) in phrases.items():
            conditioning = self.out(
                "GligenTextBox", conditioning=conditioning, gligen=self.gligen, clip=self.clip,
                text=phrase, x=x, y=y, width=width, height=height,
            )  # fmt: skip
        return conditioning

    def schedule(self, model) -> list:
        if self.tau is None:
            return model
        return self.out(
            "GligenBetaSchedule", model=model, tau=self.tau, decay=0.0, strength=1.0,
            negative_grounding="null",
        )  # fmt: skip

    def sample(self, **changes) -> list:
        inputs = {
            "model": self.model, "positive": self.positive, "negative": self.negative,
            "latent_image": self.latent, "seed": 3, "steps": STEPS, "cfg": 4.0,
            "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
        }  # fmt: skip
        return self.out("KSampler", **{**inputs, **changes})

    def custom(self, guider) -> list:
        return self.out(
            "SamplerCustomAdvanced", guider=guider, latent_image=self.latent,
            noise=self.out("RandomNoise", noise_seed=3),
            sampler=self.out("KSamplerSelect", sampler_name="euler"),
            sigmas=self.out(
                "BasicScheduler", model=self.model, scheduler="normal", steps=STEPS, denoise=1.0
            ),
        )  # fmt: skip

    def save(self, samples) -> dict:
        image = self.out("VAEDecode", samples=samples, vae=self.vae)
        self.add("SaveImage", images=image, filename_prefix="chain")
        return self.nodes


Step = Callable[[Graph], None]


@dataclass
class Case:
    """before, after: what is put into the graph before and after GLIGEN's nodes. sample: of the graph,
    in place of a KSampler; note: for the table; program: what the machine has to have for it; scheduled:
    whether a schedule node is part of it."""

    name: str
    before: Step = lambda g: None
    after: Step = lambda g: None
    sample: Callable[[Graph], list] = Graph.sample
    note: str = ""
    scheduled: bool = True
    program: str = ""

    @property
    def result(self) -> str:
        return "works with a note" if self.note else "works"


def patch(class_type, **inputs) -> Step:
    def step(g):
        g.model = g.out(class_type, model=g.model, **inputs)

    return step


def weights(dtype) -> Step:
    def step(g):
        g.model = g.out("StandInWeights", dtype=dtype)

    return step


def little_memory_for_gligen(g):
    g.gligen = g.out("StandInLittleMemory", 1, gligen=g.gligen)


def little_memory_for_the_model(g):
    g.model = g.out("StandInLittleMemory", model=g.model)


def controlnet(*seeds) -> Step:
    def step(g):
        hint = g.out("EmptyImage", width=128, height=128, batch_size=1, color=0x4080C0)
        for seed in seeds:
            net = g.out("StandInControlNet", seed=seed)
            node = g.add(
                "ControlNetApplyAdvanced", positive=g.positive, negative=g.negative, control_net=net,
                image=hint, strength=0.5, start_percent=0.0, end_percent=1.0,
            )  # fmt: skip
            g.positive, g.negative = [node, 0], [node, 1]

    return step


def lora(g):
    node = g.add("LoraLoader", model=g.model, clip=g.clip, lora_name="stand_in.safetensors",
                 strength_model=0.7, strength_clip=0.7)  # fmt: skip
    g.model, g.clip = [node, 0], [node, 1]
    g.positive = g.text(" and ".join(PHRASES))


def on_positive(class_type, name="conditioning", **inputs) -> Step:
    def step(g):
        g.positive = g.out(class_type, **{name: g.positive}, **inputs)

    return step


def half_mask(g):
    left = g.out("SolidMask", value=0.0, width=128, height=128)
    part = g.out("SolidMask", value=1.0, width=64, height=128)
    return g.out("MaskComposite", destination=left, source=part, x=0, y=0, operation="add")


def masked(g):
    g.positive = g.out(
        "ConditioningSetMask", conditioning=g.positive, mask=half_mask(g), strength=1.0,
        set_cond_area="default",
    )  # fmt: skip


def combined(g):
    other = g.text("a yellow ring")
    g.positive = g.out("ConditioningCombine", conditioning_1=g.positive, conditioning_2=other)


def averaged(g):
    g.positive = g.out(
        "ConditioningAverage", conditioning_to=g.positive, conditioning_from=g.text("a green star"),
        conditioning_to_strength=0.7,
    )  # fmt: skip


def concatenated(g):
    g.positive = g.out(
        "ConditioningConcat", conditioning_to=g.positive, conditioning_from=g.text("a green star")
    )


def hooked(g):
    hooks = g.out("CreateHookLora", lora_name="stand_in.safetensors", strength_model=0.7,
                  strength_clip=0.0)  # fmt: skip
    g.positive = g.out("ConditioningSetProperties", cond_NEW=g.positive, strength=1.0,
                       set_cond_area="default", hooks=hooks, mask=half_mask(g))  # fmt: skip
    g.positive = g.out("ConditioningCombine", conditioning_1=g.positive,
                       conditioning_2=g.text("a yellow ring"))  # fmt: skip


def nested(g):
    g.model = g.out("PerpNeg", model=g.model, empty_conditioning=g.text(""), neg_scale=1.0)


def soft_mask(g):
    pixels = g.out("EmptyImage", width=128, height=128, batch_size=1, color=0xB0B0A8)
    latent = g.out("VAEEncode", pixels=pixels, vae=g.vae)
    g.latent = g.out("SetLatentNoiseMask", samples=latent, mask=half_mask(g))


def differential(g):
    soft_mask(g)
    patch("DifferentialDiffusion", strength=1.0)(g)


def batch_of_4(g):
    g.latent = g.out("EmptyLatentImage", width=128, height=128, batch_size=4)


def windows(g):
    batch_of_4(g)
    patch("ContextWindowsManual", context_length=3, context_overlap=1, context_stride=1, closed_loop=False,
          context_schedule="standard_static", fuse_method="pyramid", dim=0, freenoise=False,
          cond_retain_index_list="", split_conds_to_windows=False, latent_retain_index_list="",
          causal_window_fix=False)(g)  # fmt: skip


def from_batch(g):
    part = g.out("LatentFromBatch", samples=g.sample(), batch_index=2, length=2)
    return g.sample(latent_image=part, denoise=0.6)


def two_samplers(g):
    shared = {
        "noise_seed": 3, "steps": STEPS + 1, "cfg": 4.0, "sampler_name": "euler",
        "scheduler": "normal", "model": g.model, "positive": g.positive, "negative": g.negative,
    }  # fmt: skip
    first = g.out("KSamplerAdvanced", **shared, latent_image=g.latent, add_noise="enable",
                  start_at_step=0, end_at_step=2, return_with_leftover_noise="enable")  # fmt: skip
    return g.out("KSamplerAdvanced", **shared, latent_image=first, add_noise="disable",
                 start_at_step=2, end_at_step=10, return_with_leftover_noise="disable")  # fmt: skip


def second_pass(g):
    first = g.sample()
    larger = g.out("LatentUpscale", samples=first, upscale_method="bilinear", width=192, height=128,
                   crop="disabled")  # fmt: skip
    return g.sample(latent_image=larger, denoise=0.6)


def crop(g):
    """A quarter of the picture, sampled once more by itself at the full size."""
    picture = g.out("VAEDecode", samples=g.sample(), vae=g.vae)
    cut = g.out("ImageCrop", image=picture, width=64, height=64, x=8, y=8)
    large = g.out(
        "ImageScale", image=cut, upscale_method="lanczos", width=128, height=128, crop="disabled"
    )
    if g.tau is not None:
        place = dict(x=8 / 128, y=8 / 128, width=0.5, height=0.5)
        g.positive = g.out("GligenFitToRegion", conditioning=g.positive, **place)
    return g.sample(latent_image=g.out("VAEEncode", pixels=large, vae=g.vae), denoise=0.8)


def cfg_guider(g):
    return g.custom(
        g.out("CFGGuider", model=g.model, positive=g.positive, negative=g.negative, cfg=4.0)
    )


def dual_guider(g):
    return g.custom(g.out("DualCFGGuider", model=g.model, cond1=g.positive, cond2=g.text("a blue square"),
                          negative=g.negative, cfg_conds=4.0, cfg_cond2_negative=1.5,
                          style="regular"))  # fmt: skip


def perp_neg_guider(g):
    return g.custom(g.out("PerpNegGuider", model=g.model, positive=g.positive, negative=g.negative,
                          empty_conditioning=g.text(""), cfg=4.0, neg_scale=1.0))  # fmt: skip


def three_models(g):
    """The demo model three times in one prompt, each grounded by its own."""
    first = g.sample()
    for _ in range(2):
        demo = g.add("GligenDemoModel")
        g.model, g.clip, g.gligen = g.schedule([demo, 0]), [demo, 1], [demo, 3]
        g.positive = g.ground(g.text(" and ".join(PHRASES)))
        first = g.sample(latent_image=first, denoise=0.7)
    return first


CASES = [
    Case("KSampler"),
    Case("KSampler without a schedule node", scheduled=False,
         note="β is 1 in every step: the same picture as with the node at tau 1, bit by bit"),
    Case("ControlNet before the boxes", before=controlnet(1)),
    Case("ControlNet after the boxes", after=controlnet(1)),
    Case("two ControlNets", before=controlnet(1), after=controlnet(2)),
    Case("LoRA", before=lora),
    Case("FreeU", before=patch("FreeU_V2", b1=1.3, b2=1.4, s1=0.9, s2=0.2)),
    Case("FreeU after the schedule", after=patch("FreeU_V2", b1=1.3, b2=1.4, s1=0.9, s2=0.2)),
    Case("Perturbed-Attention Guidance", before=patch("PerturbedAttentionGuidance", scale=3.0)),
    Case(
        "Self-Attention Guidance", before=patch("SelfAttentionGuidance", scale=0.5, blur_sigma=2.0)
    ),
    Case("ToMe", before=patch("TomePatchModel", ratio=0.3)),
    Case("HyperTile", before=patch("HyperTile", tile_size=64, swap_size=2, max_depth=1,
                                   scale_depth=False)),
    Case("PatchModelAddDownscale (Kohya Deep Shrink)", before=patch(
        "PatchModelAddDownscale", block_number=2, downscale_factor=2.0, start_percent=0.0,
        end_percent=0.35, downscale_after_skip=True, downscale_method="bicubic",
        upscale_method="bicubic")),
    Case("RescaleCFG", before=patch("RescaleCFG", multiplier=0.7)),
    Case("PerpNeg (patch)", before=nested),
    Case("PerpNegGuider", sample=perp_neg_guider),
    Case("PerpNegGuider without a schedule node", sample=perp_neg_guider, scheduled=False),
    Case("NAG", before=patch("NAGuidance", nag_scale=5.0, nag_alpha=0.5, nag_tau=1.5)),
    Case("DifferentialDiffusion", before=differential),
    Case("SetLatentNoiseMask", before=soft_mask),
    Case("ConditioningSetAreaPercentage",
         after=on_positive("ConditioningSetAreaPercentage", width=0.5, height=1.0, x=0.0, y=0.0,
                           strength=1.0),
         note="the boxes' fractions are of the area"),
    Case("ConditioningSetArea",
         after=on_positive("ConditioningSetArea", width=64, height=128, x=64, y=0, strength=1.0),
         note="the boxes' fractions are of the area"),
    Case("ConditioningSetMask", after=masked),
    Case("ConditioningSetTimestepRange",
         after=on_positive("ConditioningSetTimestepRange", start=0.0, end=0.5)),
    Case("ConditioningCombine", after=combined,
         note="each prompt keeps the boxes that it has: one without boxes is not grounded"),
    Case("ConditioningAverage", after=averaged,
         note="the boxes of conditioning_to stay, those of conditioning_from are dropped by ComfyUI"),
    Case("ConditioningConcat", after=concatenated,
         note="the boxes of conditioning_to stay, those of conditioning_from are dropped by ComfyUI"),
    Case("cond hooks: LoRA on one region", after=hooked),
    Case("KSamplerAdvanced, start and end", sample=two_samplers,
         note="tau is of the whole run, by noise level"),
    Case("SamplerCustomAdvanced, CFGGuider", sample=cfg_guider),
    Case("SamplerCustomAdvanced, DualCFGGuider", sample=dual_guider),
    Case("DualCFGGuider without a schedule node", sample=dual_guider, scheduled=False),
    Case("latent upscale, second pass at another size", sample=second_pass),
    Case("a crop, sampled by itself", sample=crop, note="GLIGEN Fit to Region gives it its part"),
    Case("batch of 4", before=batch_of_4),
    Case("Context Windows (Manual)", before=windows,
         note="each picture of a batch keeps its own boxes"),
    Case("LatentFromBatch, second pass", before=batch_of_4, sample=from_batch,
         note="pictures of a batch keep their own boxes, by their noise: not where a sampler adds none"),
    Case("fp16 weights", before=weights("float16")),
    Case("bf16 weights", before=weights("bfloat16")),
    Case("fp8 weights", before=weights("float8_e4m3fn")),
    Case("little memory: weights loaded in part", before=little_memory_for_gligen,
         after=little_memory_for_the_model),
    Case("TorchCompileModel", before=patch("TorchCompileModel", backend="inductor"),
         program="g++",
         note="with the schedule node or the GLIGEN KSampler, which have the gated layers compiled too; "
              "steps with a map or an inpainting model run uncompiled"),
    Case("three models in one prompt", sample=three_models),
]  # fmt: skip


def workflow(case: Case, tau: float | None) -> dict:
    g = Graph(tau)
    case.before(g)
    g.positive = g.ground(g.positive)
    if case.scheduled:
        g.model = g.schedule(g.model)
    case.after(g)
    return g.save(case.sample(g))


OTHERS = (
    "## Other packs",
    "",
    "Run by hand with the demo model and the packs' own code:",
    "",
    "| Pack | Result | Note |",
    "|---|---|---|",
    "| AnimateDiff-Evolved d8d163c, static context windows | works | a box that moves over 8 pictures "
    "is where it is without windows |",
    "| TiledDiffusion a155b1b, MultiDiffusion | works with a note | each tile gets its part of the "
    "layout; the prompt is that of the whole in every tile, so that a thing may come again in an empty "
    "one |",
    "| Ultimate SD Upscale 34a3c2c | works with a note | as TiledDiffusion; with a schedule node at tau 1 "
    "and without one the picture is the same, bit by bit |",
    "| Impact Pack 727295b, Detailer (SEGS) | works with a note | with GLIGEN Fit to Region and "
    "`follow_detailer` each crop gets its part: at denoise 0.7 two things stay two and in place (mean IoU "
    "0.87 over four seeds); without it each crop gets the whole layout (0.13, four things) |",
    "| Inpaint-CropAndStitch 3a57816 | works with a note | GLIGEN Fit to Region reads the region from its "
    "stitcher |",
)


@pytest.fixture(scope="module")
def stand_ins(server):
    """A LoRA for the demo model."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for place in ("input_blocks_3_1", "middle_block_1", "output_blocks_3_1"):
        for projection in ("attn1_to_q", "attn2_to_v"):
            name = f"lora_unet_{place}_transformer_blocks_0_{projection}"
            tensors[f"{name}.lora_up.weight"] = torch.randn(64, 4, generator=generator) * 0.1
            tensors[f"{name}.lora_down.weight"] = torch.randn(4, 64, generator=generator) * 0.3
    file = server.base / "models" / "loras" / "stand_in.safetensors"
    file.parent.mkdir(exist_ok=True)
    save_file(tensors, file)
    yield
    file.unlink()


def pictures(server, graph: dict) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in server.run(graph)])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_chains(server, stand_ins, case):
    if case.program and not shutil.which(case.program):
        pytest.skip(f"this machine has no {case.program}")
    plain = pictures(server, workflow(case, None))
    assert plain.std() > 1
    grounded = pictures(server, workflow(case, 1.0))
    if case.scheduled:
        assert np.array_equal(pictures(server, workflow(case, 0.0)), plain)
    else:
        scheduled = workflow(replace(case, scheduled=True), 1.0)
        assert np.array_equal(pictures(server, scheduled), grounded)
    assert grounded.shape == plain.shape
    assert np.abs(grounded.astype(int) - plain).mean() > 1


def table() -> str:
    rows = [f"| {case.name} | {case.result} | {case.note} |" for case in CASES]
    head = [
        "# What GLIGEN chains with",
        "",
        "Each line is a graph that the tests run on a real ComfyUI with the demo model: without GLIGEN, "
        "with GLIGEN at β = 0, which gives the same picture bit by bit, and at β = 1.",
        "",
        "| In the graph | Result | Note |",
        "|---|---|---|",
    ]
    return "\n".join([*head, *rows, "", *OTHERS]) + "\n"


def test_the_table_in_the_docs_is_that_of_the_cases():
    assert DOCS.read_text(encoding="utf-8") == table(), "run `python tests/test_chaining.py`"


if __name__ == "__main__":
    DOCS.write_text(table(), encoding="utf-8")
