"""How this pack meets a sampling run of ComfyUI.

patch.py         patches the host for the length of a run, and nothing else does: begin here
carrier.py       carries entries in a CONDITIONING, as a ControlNet that controls nothing
conditioning.py  puts entries into a CONDITIONING
entries.py       reads what a CONDITIONING grounds, whoever put it in
gligens.py       a GLIGEN as a ModelPatcher
run.py           one run: what it makes once, and what each call of the model needs of that
tags.py          which cond, picture and region each row of a call makes
groundings.py    what a cond grounds by a GLIGEN
grounders.py     what a GLIGEN adds to a call: tokens, keys and gates
channels.py      what goes into the first convolution
fusing.py        how the gated layers are fused into a forward; compiled.py: where the UNet is compiled
betas.py         β of a call
record.py        where the gated layers look
"""

from . import patch  # noqa: F401  (carriers bring its wrapper)
