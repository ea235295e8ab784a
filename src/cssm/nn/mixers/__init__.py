"""One file per mixer; importing it here registers it."""

from . import attention, conv_ssm, no_gate, standard

__all__ = ["attention", "conv_ssm", "no_gate", "standard"]
