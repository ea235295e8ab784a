"""One file per mixer; importing it here registers it."""

from . import (  # noqa: F401
    attention,
    conv3d,
    conv_ssm,
    convs5,
    gated,
    gdn,
    gdn_seq,
    lru,
    mamba2_seq,
    mingru,
    no_fft,
    no_gate,
    opponent,
    realspace,
    s4,
    s4d,
    s4nd,
    s4nd_full,
    s5,
    standard,
)
