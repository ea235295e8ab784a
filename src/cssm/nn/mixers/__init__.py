"""One file per mixer; importing it here registers it."""

from . import attention, conv3d, conv_ssm, convs5, gated, gdn, lru, mingru, no_gate, realspace, s5, standard

__all__ = ["attention", "conv3d", "conv_ssm", "convs5", "gated", "gdn", "lru", "mingru", "no_gate", "realspace", "s5", "standard"]
