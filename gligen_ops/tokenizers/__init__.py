"""What makes grounding tokens: GLIGEN (arXiv 2301.07093), section 3.1. A file here that has a tokenizer is
all that a new kind of grounding needs of the model: every file is imported."""

from importlib import import_module
from pkgutil import iter_modules

for module in iter_modules(__path__):
    import_module(f".{module.name}", __name__)
