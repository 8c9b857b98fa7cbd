"""GLIGEN in plain PyTorch: the model, its files and its training. Never imports the host."""
