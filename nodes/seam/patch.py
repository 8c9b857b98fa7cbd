"""The one module that patches the host, and only for the length of a sampling run.

A wrapper around the run takes the carriers out of its conds, tags these, and wraps each forward of the UNet.
Where β is not 0 the forward gets patches: a `middle_patch`, which the host calls in each transformer block
right after self-attention, GLIGEN's place, and an `input_block_patch`, called after the first convolution.
Nothing is written into the model but, for a forward of a UNet that the host compiles, which compilation of it
runs. The wrapper comes with the conditioning (carrier.py), or with the model of a schedule node.
"""

from contextlib import contextmanager

import comfy.hooks
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from comfy.samplers import CFGGuider, Sampler
from comfy_api.torch_helpers.torch_compile import TORCH_COMPILE_KWARGS
from torch import Tensor, nn

from . import carrier
from .betas import Betas, places_of
from .channels import Channels, with_changes
from .conditioning import is_grounded
from .fusing import Fusing
from .record import Record
from .run import Run, Settings
from .tags import TAGS, Tagging, pictures_of

KEY = "gligen"
SETTINGS = "gligen_settings"
RECORD = "gligen_record"
FIRST_BLOCK = ("input", 0)


def with_settings(model: ModelPatcher, settings: Settings) -> ModelPatcher:
    """A clone of the MODEL whose runs ground with these settings."""
    return _with_option(model, SETTINGS, settings)


def recorded(model: ModelPatcher, record: Record) -> ModelPatcher:
    """A clone of the MODEL whose last run is in the record."""
    return _with_option(model, RECORD, record)


def _with_option(model: ModelPatcher, key: str, value: Settings | Record) -> ModelPatcher:
    model = model.clone()
    model.model_options["transformer_options"][key] = value
    model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, outer_sample)
    return model


def outer_sample(
    executor, noise, latent, sampler, sigmas, mask, callback, pbar, seed, *args, **kwargs
):
    """Around a sampling run of a guider."""
    guider = executor.class_obj
    forward = begin(guider, noise, sampler, sigmas, seed)
    if forward is None:
        return executor(noise, latent, sampler, sigmas, mask, callback, pbar, seed, *args, **kwargs)

    def reported(step, *state):
        forward.betas.report(step)
        if callback is not None:
            callback(step, *state)

    options = guider.model_options["transformer_options"]
    add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, forward, options)
    try:
        return executor(noise, latent, sampler, sigmas, mask, reported, pbar, seed, *args, **kwargs)
    finally:
        options["wrappers"][WrappersMP.APPLY_MODEL].pop(KEY, None)
        forward.run.warn_of_lost_tags()


def begin(
    guider: CFGGuider, noise: Tensor, sampler: Sampler, sigmas: Tensor, seed: int | None
) -> "Forward | None":
    """Takes the carriers out of the guider's conds, and tags these. None where nothing is grounded."""
    options = guider.model_options["transformer_options"]
    record = options.get(RECORD)
    if record is not None:
        record.begin()  # of a run in which nothing is grounded it is empty
    if not any(is_grounded(cond) for conds in guider.conds.values() for cond in conds):
        return None
    regions = carrier.regions_in(guider.conds)
    run = Run(guider, tuple(noise.shape[-2:]), regions, options.get(SETTINGS, Settings()))
    carrier.take_off(guider.conds)
    sampling = guider.model_patcher.get_model_object("model_sampling")
    places = places_of(sigmas, noise, sampling, run.settings.count)
    betas = Betas(run.settings.betas, sampler, sigmas, places)
    if not run.inpaints and not any(betas.of_step):
        return None
    tagging = run.tag(guider, pictures_of(noise, seed, run.longest), regions)
    compile_kwargs = guider.model_options.get(TORCH_COMPILE_KWARGS)
    return Forward(run, tagging, betas, Fusing(run.settings.refresh_every, record, compile_kwargs))


class Forward:
    """A wrapper around the forwards of the UNet in one run."""

    def __init__(self, run: Run, tagging: Tagging, betas: Betas, fusing: Fusing):
        self.run, self.tagging, self.betas, self.fusing = run, tagging, betas, fusing

    def __deepcopy__(self, memo) -> "Forward":
        return self  # the host copies its options for each call

    def __call__(self, executor, x, t, concat, context, control, options, **kwargs):
        rows = self.tagging.rows(kwargs.pop(TAGS, None), x)
        sigma = options.get("sigmas", t)
        beta = self.betas.of_call(sigma)
        if not beta and not self.run.inpaints:
            return executor(x, t, concat, context, control, options, **kwargs)
        call = self.run.call(rows, x, sigma)
        channels = [c for c in call.channels if beta or c.grounding.inpaints]
        grounders = call.grounders if beta else []
        if not grounders and not channels:
            return executor(x, t, concat, context, control, options, **kwargs)
        patches = dict(options.get("patches", {}))
        if grounders:
            patch = self.fusing.patch(grounders, beta, x.device, convolves=bool(channels))
            patches["middle_patch"] = [*patches.get("middle_patch", []), patch]
        options = {**options, "patches": patches}
        if channels:
            wrappers = options.get("wrappers", {})
            options["wrappers"] = {kind: dict(of_kind) for kind, of_kind in wrappers.items()}
            wrapper = first_convolution(channels)
            add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, wrapper, options)
        base = executor.class_obj
        unet = self.fusing.unet(base.diffusion_model, grounders, convolves=bool(channels))
        with running(base, unet):
            return executor(x, t, concat, context, control, options, **kwargs)


def first_convolution(channels: list[Channels]):
    """A wrapper around the UNet that puts the GLIGENs' first convolutions in place of its own."""

    def diffusion_model(executor, x, timesteps, context, y, control, options, **kwargs):
        base = executor.class_obj.input_blocks[0][0]

        def input_block_patch(h: Tensor, extra: dict) -> Tensor:
            return with_changes(h, x, base, channels) if extra["block"] == FIRST_BLOCK else h

        patches = options.get("patches", {})
        ours = [input_block_patch, *patches.get("input_block_patch", [])]
        options = {**options, "patches": {**patches, "input_block_patch": ours}}
        return executor(x, timesteps, context, y, control, options, **kwargs)

    return diffusion_model


@contextmanager
def running(base: BaseModel, unet: nn.Module):
    """The host's model with this UNet, in place of its own if that is another."""
    host_unet = base.diffusion_model
    if unet is host_unet:
        yield
        return
    base.diffusion_model = unet
    try:
        yield
    finally:
        base.diffusion_model = host_unet


def brings_no_wrapper(_hook, model: ModelPatcher, *_) -> bool:
    """Whether the model has no wrapper of a run itself."""
    return KEY not in model.wrappers.get(WrappersMP.OUTER_SAMPLE, {})


_HOOK = comfy.hooks.TransformerOptionsHook(
    {"wrappers": {WrappersMP.OUTER_SAMPLE: {KEY: [outer_sample]}}}
)
_HOOK.custom_should_register = brings_no_wrapper
carrier.HOOKS.add(_HOOK)
