"""The recurrence on complex logarithms: slower and less accurate than ordinary numbers for states that stay bounded.

The gradient is that of ordinary numbers, at zeros too: the same recurrence run backwards. All readouts keep
every state.
"""

from typing import Any

from cssm.core.typing import Float, HalfSpectrum, Reset, SpectralState, Video

from ..goom import from_goom, scan, to_goom
from ..scan.vjp import scan_with_vjp
from .transform import to_space, to_spectrum


def goom(
    x: Video, spectrum: HalfSpectrum, state: SpectralState, reset: Reset | None, readout: str
) -> tuple[SpectralState, Float[Any, "b *t h w c"]]:
    reset = None if reset is None else reset[:, :, None, None, None]
    states: Any = scan_with_vjp(spectrum[None, None], to_spectrum(x), state, reset, 1, False, _through_goom)
    shown = {"all": lambda: states, "last": lambda: states[:, -1], "mean": lambda: states.mean(1)}[readout]()
    return states[:, -1], to_space(shown, x.shape[3]).astype(x.dtype)


def _through_goom(a, b, h0, reset, axis, reverse):
    reset = None if reset is None else reset[:, :, 0, 0, 0]
    return from_goom(scan(to_goom(a), to_goom(b), to_goom(h0), axis=axis, reverse=reverse, reset=reset))
