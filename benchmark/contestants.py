"""Who runs: the host alone, the host's own GLIGEN, diffusers' GLIGEN, and this pack. Each samples the
same number of steps with classifier-free guidance, from the same noise, on weights of one shape."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import comfy.gligen
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import torch

from ..gligen_ops.entities import BoxEntity, Pose, SpatialMap
from ..gligen_ops.files.checkpoint import checkpoint_of, tensors_of
from ..gligen_ops.kinds import KINDS
from ..gligen_ops.model import Gligen, blocks_of
from ..gligen_ops.places import Box
from ..gligen_ops.schedule import BetaSchedule
from ..nodes.seam import gligens, patch
from ..nodes.seam.conditioning import ground
from ..nodes.seam.run import Settings
from . import shapes

BOXES = (Box(0.05, 0.1, 0.45, 0.6), Box(0.5, 0.3, 0.95, 0.9))
FEATURE = 768
CFG = 7.5


@dataclass(frozen=True)
class Setting:
    shape: str
    size: int  # pixels a side
    batch: int
    steps: int
    dtype: torch.dtype

    @property
    def latent(self) -> tuple[int, ...]:
        return self.batch, 4, self.size // 8, self.size // 8


class Host:
    """The host's UNet, shared by all who run on it, and its KSampler."""

    def __init__(self, setting: Setting):
        self.setting = setting
        self.model = shapes.host_model(setting.shape, setting.dtype)
        self.unet = self.model.model.diffusion_model
        self.blocks = blocks_of(self.unet)
        self.width = shapes.SHAPES[setting.shape][1]["context_dim"]
        self.positive, self.negative = self.prompt(1), self.prompt(2)

    @cached_property
    def compiled(self):
        """The model as the host's TorchCompileModel node gives it."""
        from comfy_extras.nodes_torch_compile import TorchCompileModel

        return TorchCompileModel.execute(self.model, "inductor").result[0]

    def prompt(self, seed: int):
        generator = torch.Generator().manual_seed(seed)
        extra = {}
        if self.setting.shape == "sdxl":
            extra["pooled_output"] = torch.randn(1, 1280, generator=generator)
        return [[torch.randn(1, 77, self.width, generator=generator), extra]]

    def sample(self, model, positive):
        latent = torch.zeros(self.setting.latent)
        noise = comfy.sample.prepare_noise(latent, 5)
        with torch.inference_mode():
            return comfy.sample.sample(
                model, noise, self.setting.steps, CFG, "euler", "normal", positive, self.negative,
                latent, disable_pbar=True, seed=5,
            )  # fmt: skip

    def gligen(self, kind_name: str):
        """GLIGEN of a kind with random weights, for this UNet."""
        kind = next(k for k in KINDS if k.name == kind_name)
        widths = (FEATURE, FEATURE) if kind_name != "keypoints" else (FEATURE,)
        first_conv = kind.build_first_conv(self.unet.input_blocks[0][0].out_channels)
        gligen = Gligen(kind.tokenizer(*widths), FEATURE, self.blocks, first_conv=first_conv)
        shapes.randomise(gligen).to(self.setting.dtype)
        return gligens.from_checkpoint(checkpoint_of(tensors_of(gligen), kind_name, [kind_name]))


def entities(kind: str) -> list:
    generator = torch.Generator().manual_seed(3)

    def feature():
        return torch.randn(FEATURE, generator=generator)

    if kind == "text box":
        return [BoxEntity(box, "thing", feature()) for box in BOXES]
    if kind == "text and image box":
        return [BoxEntity(box, "thing", feature(), feature()) for box in BOXES]
    if kind == "keypoints":
        return [Pose(torch.rand(17, 2, generator=generator)) for _ in BOXES]
    return [SpatialMap(torch.rand(3, 512, 512, generator=generator) * 2 - 1)]


@dataclass(frozen=True)
class Contestant:
    """run: samples once. unet: the one whose calls count. compiled: by torch.compile, which does its work
    at the first run."""

    name: str
    unet: torch.nn.Module
    run: Callable[[], object]
    compiled: bool = False


def on_host(name: str, host: Host, model, positive, compiled: bool = False) -> Contestant:
    return Contestant(name, host.unet, lambda: host.sample(model, positive), compiled)


def plain(host: Host, compiled: bool = False) -> Contestant:
    model = host.compiled if compiled else host.model
    return on_host("plain, compiled" if compiled else "plain", host, model, host.positive, compiled)


def this_pack(
    host: Host, kind: str, tau: float = 1.0, gligen=None, refresh_every=1, compiled=False
) -> Contestant:
    """This pack, with a kind of grounding and τ."""
    name = f"this pack, {kind}, τ = {tau:g}"
    name += f", refresh_every {refresh_every}" if refresh_every > 1 else ""
    name += ", compiled" if compiled else ""
    positive = ground(host.positive, gligen or host.gligen(kind), [(e,) for e in entities(kind)])
    model = host.compiled if compiled else host.model
    model = patch.with_settings(model, Settings(BetaSchedule(tau), "null", refresh_every))
    return on_host(name, host, model, positive, compiled)


def core(host: Host, tensors: dict) -> Contestant:
    """The host's own GLIGEN: no schedule, text boxes only."""
    gligen = comfy.gligen.load_gligen(tensors)
    device = comfy.model_management.get_torch_device()
    gligen = comfy.model_patcher.CoreModelPatcher(gligen, device, torch.device("cpu"))
    side = host.setting.size // 8
    entries = [
        (e.text[None], round((e.box.y1 - e.box.y0) * side), round((e.box.x1 - e.box.x0) * side),
         round(e.box.y0 * side), round(e.box.x0 * side))
        for e in entities("text box")
    ]  # fmt: skip
    positive = [[c, {**x, "gligen": ("position", gligen, entries)}] for c, x in host.positive]
    return on_host("host core, text box", host, host.model, positive)


def diffusers(host: Host, unet, grounded: bool) -> Contestant:
    name = "diffusers, text box, τ = 1" if grounded else "diffusers, plain"
    return Contestant(name, unet, DiffusersLoop(host, unet, grounded))


class DiffusersLoop:
    """diffusers' UNet, plain or with text boxes, in a loop like that of its GLIGEN pipeline."""

    def __init__(self, host: Host, unet, grounded: bool):
        from diffusers import EulerDiscreteScheduler

        self.host, self.unet, self.grounded = host, unet, grounded
        setting = host.setting
        self.device = comfy.model_management.get_torch_device()
        self.scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012,
                                                beta_schedule="scaled_linear")  # fmt: skip
        rows = 2 * setting.batch
        self.context = torch.cat([host.negative[0][0], host.positive[0][0]])
        self.context = self.context.repeat_interleave(setting.batch, 0).to(
            self.device, setting.dtype
        )
        boxes, masks = torch.zeros(rows, 30, 4), torch.zeros(rows, 30)
        features = torch.zeros(rows, 30, FEATURE)
        for i, e in enumerate(entities("text box")):
            boxes[:, i] = torch.tensor([e.box.x0, e.box.y0, e.box.x1, e.box.y1])
            features[:, i], masks[setting.batch :, i] = e.text, 1
        self.gligen = {"boxes": boxes, "positive_embeddings": features, "masks": masks}
        self.gligen = {k: v.to(self.device, setting.dtype) for k, v in self.gligen.items()}

    @torch.inference_mode()
    def __call__(self):
        setting, steps = self.host.setting, self.host.setting.steps
        self.scheduler.set_timesteps(steps, device=self.device)
        x = torch.randn(setting.latent, generator=torch.Generator().manual_seed(5))
        x = x.to(self.device, setting.dtype) * self.scheduler.init_noise_sigma
        for t in self.scheduler.timesteps:
            both = self.scheduler.scale_model_input(torch.cat([x, x]), t)
            out = self.unet(
                both, t, encoder_hidden_states=self.context,
                cross_attention_kwargs={"gligen": dict(self.gligen)} if self.grounded else None,
            ).sample  # fmt: skip
            negative, positive = out.chunk(2)
            x = self.scheduler.step(negative + CFG * (positive - negative), t, x).prev_sample
        return x
