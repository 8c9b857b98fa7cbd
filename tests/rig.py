"""The pack's nodes on a small model, held only by what stays: a node's inputs, the host's own sampler, and
hooks on modules of the UNet and of gated layers."""

import asyncio
from contextlib import ExitStack, contextmanager
from functools import cache, cached_property

import small
import torch
from files import random_tensors

WIDE = (8, 16)
"""Height and width of the usual latent: one that is no square, so that swapped sides show."""
MAPS = ["hed map", "canny map", "depth map", "normal map", "semantic map"]


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


class Rig:
    """The nodes by their ids, the small model, and a GLIGEN of each kind."""

    def __init__(self, pack, model=None):
        extension = asyncio.run(pack.comfy_entrypoint())
        nodes = asyncio.run(extension.get_node_list())
        self.nodes = {node.GET_SCHEMA().node_id: node for node in nodes}
        self.model = model or small.short()
        self.unet = self.model.model.diffusion_model
        self.prompt, self.negative = small.conditioning(1), small.conditioning(2)
        self.kept = cache(self.new_gligen)

    @cached_property
    def other_model(self):
        return small.short(1)

    def gligen(self, kind="text box", seed=0, fuser="gatedSA", gate=0.6):
        """Of random weights, the same one for the same words."""
        return self.kept(kind, seed, fuser, gate)

    def new_gligen(self, kind, seed=0, fuser="gatedSA", gate=0.6):
        """As another loader gives the same file. Maps have a narrow backbone."""
        from gligen_pack.gligen_ops.model import blocks_of

        width = 768 if "box" in kind else 32
        widths = blocks_of(self.unet)
        tensors = random_tensors(kind, widths, 768, width, seed, gate, fuser=fuser)
        return small.gligen(tensors, f"{kind} {seed}.safetensors", (kind, fuser))

    def node(self, name, **inputs):
        """The outputs of a node, where what is not given stays as the node has it."""
        schema = self.nodes[name].GET_SCHEMA()
        values = {i.id: first_value(i) for i in schema.inputs if first_value(i) is not None}
        return self.nodes[name].execute(**values | inputs).result

    def schedule(self, model=None, tau=1.0, **inputs):
        model = model or self.model
        return self.node("GligenBetaSchedule", model=model, tau=tau, **inputs)[0]

    def text_box(self, text, *box, to=None, kind="text box", seed=0, **inputs):
        """box: x, y, width, height."""
        places = dict(zip(("x", "y", "width", "height"), box, strict=True))
        inputs = {"clip": small.Clip(), "gligen": self.gligen(kind, seed), **places, **inputs}
        return self.node("GligenTextBox", conditioning=to or self.prompt, text=text, **inputs)[0]

    def spatial_map(self, image, kind="depth map", to=None, **inputs):
        inputs = {"gligen": self.gligen(kind), "image": image, **inputs}
        return self.node("GligenSpatialMap", conditioning=to or self.prompt, **inputs)[0]

    def keypoints(self, pose, to=None, **inputs):
        inputs = {"gligen": self.gligen("keypoints"), "pose_keypoint": pose, **inputs}
        return self.node("GligenKeypoints", conditioning=to or self.prompt, **inputs)[0]

    def sample(self, model, positive, negative=None, steps=1, cfg=1.0, size=WIDE, **kwargs):
        """Of the host's own KSampler; without guidance, so that the positive alone is run."""
        negative = negative or self.negative
        return small.sample(model, positive, negative, steps, cfg, size=size, **kwargs)

    def plain(self, **kwargs):
        return self.sample(self.model, self.prompt, **kwargs)

    def scheduled(self, positive, **kwargs):
        """A latent with β 1 in all steps."""
        return self.sample(self.schedule(), positive, **kwargs)


def first_value(schema_input):
    """The value of a widget that nobody touched; None for an input that is a link."""
    default = getattr(schema_input, "default", None)
    options = getattr(schema_input, "options", None)
    return options[0] if default is None and options else default


class Clip(small.Clip):
    """With the text projection that pictures need."""

    projection = torch.randn(768, 768, generator=torch.manual_seed(7)) / 768**0.5

    def get_sd(self):
        return {"clip_l.transformer.text_projection.weight": self.projection}


class Vae:
    """Stands in for a VAE: eight pixels to one place of four channels."""

    def __init__(self, scale=1.0):
        self.scale = scale

    def encode(self, image):
        colours = torch.nn.functional.avg_pool2d(image.movedim(-1, 1), 8)
        return self.scale * torch.cat([colours, colours.mean(1, keepdim=True)], dim=1)


def picture(seed=0, count=1, size=(64, 128)):
    """[B, H, W, 3], by default of a wide latent's size."""
    return torch.rand(count, *size, 3, generator=torch.manual_seed(seed))


def person(dx=0.0):
    points = [[0.2 + dx + 0.02 * i, 0.1 + 0.05 * i] for i in range(17)]
    return {"people": [{"pose_keypoints_2d": [v for x, y in points for v in (x, y, 1.0)]}]}


def gated_layers(gligen):
    """The gated layers of a GLIGEN in the order of the UNet's blocks."""
    return [m for m in gligen.model.modules() if hasattr(m, "alpha_attn")]


def tensors_of(gligen, prefix):
    """A GLIGEN's weights below a name of the authors'."""
    state = gligen.model.state_dict().items()
    return {k.partition(prefix)[2]: v.double() for k, v in state if prefix in k}


@contextmanager
def calls_of(*modules):
    """Lists (inputs, output) of every call of modules."""
    calls = []
    with ExitStack() as hooks:
        for module in modules:
            hook = module.register_forward_hook(lambda _, i, o: calls.append((i, o)))
            hooks.callback(hook.remove)
        yield calls


def tokens_in(rig, gligen, positive, **kwargs):
    """Grounding tokens [B, G, D] as a run of one step gives them to the first gated layer."""
    with calls_of(gated_layers(gligen)[0].linear) as calls:
        rig.scheduled(positive, **kwargs)
    ((tokens,), _) = calls[0]
    return tokens.double()


@contextmanager
def added_tokens(rig):
    """Lists what each call of the UNet adds to the visual tokens of the first transformer block between
    self-attention and cross-attention, where GLIGEN's place is."""
    block = rig.unet.input_blocks[1][1].transformer_blocks[0]
    added, before = [], []
    hooks = [
        block.norm1.register_forward_pre_hook(lambda _, i: before.append(i[0].clone())),
        block.attn1.register_forward_hook(lambda _, i, o: before.append(o.clone())),
        block.norm2.register_forward_pre_hook(
            lambda _, i: added.append(i[0] - (before.pop() + before.pop()))
        ),
    ]
    try:
        yield added
    finally:
        for hook in hooks:
            hook.remove()


def in_area(positive, x, y, width, height):
    """In pixels, as core's own node does it."""
    import nodes as host

    return host.ConditioningSetArea().append(positive, width, height, x, y, 1.0)[0]


def extra_channels(rig, gligen, positive, **kwargs):
    """What the GLIGEN's first convolution sees beside the noisy latent, of each of its calls."""
    convolutions = [m for m in gligen.model.modules() if isinstance(m, torch.nn.Conv2d)]
    (first,) = [m for m in convolutions if (m.out_channels, m.kernel_size) == (32, (3, 3))]
    with calls_of(first) as calls:
        rig.scheduled(positive, **kwargs)
    return [inputs[0][:, 4:] for inputs, _ in calls]
