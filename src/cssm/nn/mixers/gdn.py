"""GDN: the gated delta rule on spectra, a small matrix memory per head and spatial frequency.

u_t = silu(4-frame causal depthwise conv of dwconv_3x3(x)); q, k, v = rfft2(Dense(u_t)), split into N heads
of d channels n, N + n, ...; k has norm 1 over d at every frequency. Per head and frequency, S is d x d:
S_t = alpha_t W S_{t-1} (I - beta_t k k^H) + beta_t v k^H, o_t = S_t q_t; y_t = Dense(RMSNorm(irfft2 o) silu(Dense x)).
W = rho z / (1 + |z|) is the spectrum of a learned kernel per head; alpha in [0.1, 0.99] and beta in (0, 1) per head
come from the spatial mean of the frame. With alpha = W = beta = 1, S k = v after the write: the memory recalls.

|S_t| <= max|v| / (1 - 0.99 max|W|) in the spectral norm, hence every entry: |I - beta k k^H| <= 1 as |k| <= 1, so
|S_t| <= 0.99 |W| |S_{t-1}| + |v|. The field stays real: alpha, beta are real and do not depend on the frequency, the
kernel is real, and all else maps conjugate inputs to conjugate outputs.

Source: docs/math.md section 3; 002 and 003 (`gdn`, `GatedDeltaNetCSSM`); Yang et al. 2024, Gated delta networks.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.core.errors import UsageError
from cssm.core.typing import Complex, Float, Frame, Grid, Video
from cssm.ops import delta_static, kernel_spectrum, stable_spectrum
from cssm.ops.cell import EPSILON, cell_scan, cell_step
from cssm.ops.cell import delta as delta_cell
from cssm.ops.spectral import to_space, to_spectrum

from ..mixer import MIXERS, Mixer, repeat_frame, select
from ..parts.dense import Dense
from ..shared.bounds import decay_bound, dense_bound, spectrum_bound
from ..shared.causal_conv import CausalConv, DepthwiseConv
from ..shared.spectral import checked_margin, initial_kernel

LEAST, MOST = 0.1, 0.99  # alpha


class GDNState(NamedTuple):
    past: Float[Any, "b p h w c"]
    memory: Complex[Any, "b heads d d h wf"]


@MIXERS.register("gdn")
class GDN(Mixer):
    """The gated delta rule per head and spatial frequency.

    Args:
      channels: C. head_dim: d, channels of q, k and v per head; C is a multiple of it. kernel_size, rho, init_scale: of
        the kernel W of each head, as in `no_gate` (circular boundary). memory: gain of the identity added to the
        initial W. conv_size: taps of the depthwise convolution over space, zero boundary. conv_frames: over time.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> GDN(4, rngs=nnx.Rngs(0))(jnp.zeros((1, 3, 8, 8, 4))).shape
    (1, 3, 8, 8, 4)
    """

    closed_form = ("last",)

    def __init__(
        self, channels: int, *, head_dim: int = 2, kernel_size: int = 11, rho: float = 0.999, memory: float = 1.0,
        init_scale: float = 0.02, conv_size: int = 3, conv_frames: int = 4, rngs: nnx.Rngs,
    ):  # fmt: skip
        checked_margin("gdn", kernel_size, rho, "circular", None)
        if head_dim < 1 or channels % head_dim:
            raise UsageError(f"gdn: {channels} channels do not split into heads of head_dim = {head_dim}")
        self.channels, self.heads, self.rho = channels, channels // head_dim, rho
        self.recurrence_kernel = initial_kernel(rngs.params(), self.heads, kernel_size, init_scale, memory)
        self.space_conv = DepthwiseConv(channels, conv_size, rngs=rngs)
        self.time_conv = CausalConv(channels, conv_frames, rngs=rngs)
        self.qkv = Dense(channels, 3 * channels, rngs=rngs)
        self.context = Dense(channels, 2 * self.heads, rngs=rngs)
        self.norm = nnx.RMSNorm(channels, rngs=rngs)
        self.gate = Dense(channels, channels, rngs=rngs)
        self.out = Dense(channels, channels, rngs=rngs)

    def gain(self, grid: Grid) -> Complex[Any, "heads h wf"]:
        """(heads, H, W // 2 + 1): W, |W| < rho."""
        return stable_spectrum(kernel_spectrum(self.recurrence_kernel[...], grid), self.rho)

    def init_state(self, batch: int, grid: Grid) -> GDNState:
        d = self.channels // self.heads
        memory = jnp.zeros((batch, self.heads, d, d, grid[0], grid[1] // 2 + 1), jnp.complex64)
        return GDNState(self.time_conv.init_state(batch, grid), memory)

    def _step(self, state: GDNState, x: Frame) -> tuple[GDNState, Frame]:
        past, u = self.time_conv.step(state.past, self.space_conv(x))
        memory, field = cell_step(self.cell, *self._parts(x, jax.nn.silu(u)), _to_cell(state.memory))
        return GDNState(past, self._from_cell(memory)), self.output(x, field)

    def _scan(self, state: GDNState, x: Video, *, reset=None, readout="all") -> tuple[GDNState, Video | Frame]:
        past, u = self.convolved(state.past, x, reset)
        options = {"reset": reset, "readout": "none" if readout == "last" else "all"}
        memory, field = cell_scan(self.cell, *self._parts(x, u), _to_cell(state.memory), **options)
        after = GDNState(past, self._from_cell(memory))
        if readout == "last":
            o = jnp.einsum("bnijhw,bnjhw->bnihw", after.memory, self.projections(u[:, -1])[0])
            return after, self.output(x[:, -1], self.field(o, x.shape[3]))
        return after, select(self.output(x, field), readout)

    def _static(self, state: GDNState, x: Frame, steps: int) -> tuple[GDNState, Frame]:
        """Frame by frame while the convolution still sees the past, then in closed form."""
        first = min(self.time_conv.taps, steps)
        if first == steps:
            return self._scan(state, repeat_frame(x, steps), readout="last")
        state, _ = self._scan(state, repeat_frame(x, first), readout="last")
        u = self.convolved(state.past, x[:, None], None)[1][:, 0]
        options = {"gain": self.gain(x.shape[1:3]), "state": state.memory, "steps": steps - first}
        memory, o = delta_static(*self.projections(u), *self.gates(x), **options)
        return GDNState(state.past, memory), self.output(x, self.field(o, x.shape[2]))

    def state_bound(self, grid: Grid, input_bound: float = 1.0) -> float:
        """The bound of the module's docstring, with every layer's gain for v; entries of past frames too."""
        past = self.space_conv.bound(input_bound)
        u = self.time_conv.bound(past)  # |silu(u)| <= |u|
        v = spectrum_bound(grid, dense_bound(self.qkv, u)[2 * self.channels :]).reshape(-1, self.heads)
        norm, gain = np.sqrt(np.square(v).sum(0)), np.abs(np.asarray(self.gain(grid))).max((1, 2))
        return float(max(past.max(), decay_bound(norm, MOST * gain)))

    def projections(self, u):
        """q, k, v (..., heads, d, H, Wf) of u (..., H, W, C); q is scaled so that o does not depend on H W."""
        pixels = u.shape[-3] * u.shape[-2]
        spectra = to_spectrum(self.qkv(u))
        split = spectra.reshape(*spectra.shape[:-3], 3, -1, self.heads, *spectra.shape[-2:])
        q, k, v = jnp.moveaxis(jnp.swapaxes(split, -4, -3), -5, 0)
        norm = jnp.square(k.real) + jnp.square(k.imag)
        return q * pixels**-0.5, k * jax.lax.rsqrt(norm.sum(-3, keepdims=True) + EPSILON * pixels), v

    def gates(self, x):
        """alpha and beta, (..., heads), of frames x (..., H, W, C)."""
        logits = self.context(x.mean((-3, -2))).astype(jnp.promote_types(x.dtype, jnp.float32))
        alpha, beta = jnp.split(jax.nn.sigmoid(logits), 2, -1)
        return LEAST + (MOST - LEAST) * alpha, beta

    @property
    def cell(self):
        return delta_cell(self.channels // self.heads)

    def _parts(self, x, u):
        """What comes in, planes, gates and statics of the cell, for frames x (..., H, W, C), convolved to u."""
        gates = jnp.stack(self.gates(x), -2)
        height, width = x.shape[-3:-1]
        return (
            self.qkv(u),
            jnp.zeros((*x.shape[:-3], 0, height, width // 2 + 1)),
            gates,
            self.gain((height, width))[None],
        )

    def _from_cell(self, states):
        """(B, heads, d, d, H, Wf) of states of the cell."""
        d = self.channels // self.heads
        return jnp.moveaxis(states.reshape(states.shape[0], d, d, *states.shape[2:]), 3, 1)

    def convolved(self, past, x, reset):
        """u of a clip x (B, T, H, W, C), and the frames to remember."""
        past, u = self.time_conv.scan(past, self.space_conv(x), reset)
        return past, jax.nn.silu(u)

    def field(self, o, width: int):
        """o (..., heads, d, H, Wf) over space, (..., H, W, C)."""
        o = jnp.swapaxes(o, -4, -3)
        return to_space(o.reshape(*o.shape[:-4], self.channels, *o.shape[-2:]), width)

    def output(self, x, field):
        """The field that was read, and x (..., H, W, C), give y."""
        return self.out(self.norm(field).astype(x.dtype) * jax.nn.silu(self.gate(x)))


def _to_cell(memory):
    """(B, heads, d, d, H, Wf) as states of the cell, (B, d d, heads, H, Wf)."""
    memory = jnp.moveaxis(memory, 1, 3)
    return memory.reshape(memory.shape[0], -1, *memory.shape[3:])
