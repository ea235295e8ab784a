"""Sequence layers that are no mixers: S4 and the decay SSM, with the parameters of their PyTorch twins."""
