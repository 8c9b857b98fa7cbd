"""How this pack meets a sampling run of ComfyUI.

A node puts what it grounds into a CONDITIONING, which brings a wrapper around the run to any sampler. The
wrapper takes that out of the conds, tags these, and patches each forward of the UNet. Begin with patch.py.

patch.py         the one file that patches the host, for the length of a run
conditioning.py  what a CONDITIONING grounds: put in, and read again
carrier.py       how that travels: as a ControlNet that controls nothing
gligens.py       a GLIGEN as a ModelPatcher
unet.py          whether a GLIGEN fits a UNet
operations.py    what its layers compute with
run.py           one run: what it makes once, and what each call of the model needs of that
tags.py          which cond, picture and region each row of a call makes
betas.py         β of a call
groundings.py    what a cond grounds by a GLIGEN
grounders.py     what a GLIGEN adds to a call: tokens, keys and gates
channels.py      what a GLIGEN adds to the first convolution
fusing.py        how the gated layers are fused into a forward
compiled.py      the same where the host compiles the UNet
record.py        where the gated layers look
"""

from . import patch  # noqa: F401  (carriers bring its wrapper)
