"""Readers of layouts and poses as people have them, and the inputs of nodes for them."""
