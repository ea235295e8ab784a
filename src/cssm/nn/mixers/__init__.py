"""One file per mixer; importing it here registers it."""

from . import attention, conv_ssm, convs5, gated, gdn, lru, mingru, no_gate, realspace, s5, standard

__all__ = ["attention", "conv_ssm", "convs5", "gated", "gdn", "lru", "mingru", "no_gate", "realspace", "s5", "standard"]
