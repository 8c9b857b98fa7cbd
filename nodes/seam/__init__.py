"""How this pack meets a sampling run of ComfyUI.

conditioning.py  puts entries into a CONDITIONING
carrier.py       what carries them: a ControlNet that controls nothing
entries.py       what a conditioning grounds, by whichever pack
gligens.py       a GLIGEN as a ModelPatcher
patch.py         the wrapper around a run and the patches of its forwards: all that touches the host
run.py           one run; groundings.py: what a cond grounds by a GLIGEN
tags.py          which cond, picture and region each row of a model call makes
parts.py, channels.py, fusing.py, betas.py   tokens and keys, first convolution, layers, β of a call
"""

from . import patch  # noqa: F401  (carriers bring its wrapper)
