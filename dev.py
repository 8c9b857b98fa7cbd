#!/usr/bin/env python3
"""Demos, tests and a playground for the GLIGEN nodes: `python3 dev.py --help`.

Keeps its own ComfyUI and Python environment in a cache folder outside the repository. Set
COMFYUI_PATH to use a ComfyUI of your own (with the Python that runs this file) instead.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit("error: Python 3.10 or newer is needed, this is " + sys.version.split()[0])

if __name__ == "__main__":
    from devtools.commands import main

    sys.exit(main())
