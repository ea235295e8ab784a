"""S4ND with the full S4 state spaces: a global separable convolution within each frame. Not recurrent: a control.

As `s4nd`, with A = diag(L) - P P^* (diagonal minus low rank, HiPPO), by the bilinear rule: along rows and columns,
k_d[l] = C_d A_bar^l B_bar for d = forward and backward, the four quadrants summed, y = Dense(GELU(k * x + D x)).
A_bar is a contraction (see `s4`): the kernels decay, and there is no state to bound. dt is in pixels, so that no
parameter depends on the grid.

Source: docs/math.md section 3; Nguyen et al. 2022, S4ND: modeling images and videos as multidimensional signals using
state spaces (per-axis, rank-1 kernels).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from cssm.core.errors import UsageError
from cssm.core.typing import Grid, Video
from cssm.ops.s4 import s4_kernel
from cssm.shared.hippo import NPLR_INITS, initial_parameters

from ..mixer import MIXERS, Control
from ..parameter import RecurrenceParam
from ..parts.dense import Dense
from ..shared import axis_kernels, ssm


@MIXERS.register("s4nd_full")
class S4NDFull(Control):
    """Separable global convolution per frame with full S4 kernels along each axis, in four quadrants: a control.

    Args:
      channels: C. d_state: N real states per channel and axis. init: legs, legt or fourier. dt_min, dt_max: pixels
        per step, log-uniform between these at the start; kernels reach about 2 / dt pixels.

    >>> from flax import nnx
    >>> S4NDFull(4, rngs=nnx.Rngs(0))(jnp.zeros((1, 3, 8, 8, 4))).shape
    (1, 3, 8, 8, 4)
    """

    def __init__(
        self, channels: int, *, d_state: int = 64, init: str = "legs", dt_min: float = 0.01, dt_max: float = 0.5,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        ssm.check_state_size("s4nd_full", d_state)
        ssm.check_steps("s4nd_full", dt_min, dt_max)
        if init not in NPLR_INITS:
            raise UsageError(f"s4nd_full: unknown init {init!r}, use {', '.join(NPLR_INITS)}")
        self.channels, heads = channels, 2 * channels  # one head per channel and axis: rows, then columns
        keys = jax.random.split(rngs.params(), 3)
        initial = initial_parameters("s4", init, d_state)
        each = lambda value: jnp.stack([jnp.asarray(value, jnp.float32)] * heads)  # noqa: E731
        self.log_A_real, self.A_imag = (
            RecurrenceParam(each(initial["log_A_real"])),
            RecurrenceParam(each(initial["A_imag"])),
        )
        self.B = RecurrenceParam(jnp.moveaxis(each(initial["B"]), -1, 0))
        self.P = RecurrenceParam(jnp.stack([jnp.asarray(initial["P"], jnp.float32)] * heads, 1))  # r heads n 2
        self.C = RecurrenceParam(ssm.complex_normal(keys[0], (2, heads, d_state // 2), 1.0))  # one per direction
        self.D = RecurrenceParam(jax.random.normal(keys[1], (channels,)))
        self.log_step = RecurrenceParam(ssm.log_uniform(keys[2], (heads,), dt_min, dt_max))
        self.out = Dense(channels, channels, rngs=rngs)

    def kernels(self, grid: Grid):
        """Rows (2, C, H) and columns (2, C, W): the taps of the forward and of the backward direction."""
        A = lax.complex(-jnp.exp(ssm.real(self.log_A_real)), ssm.real(self.A_imag))
        step = jnp.exp(ssm.real(self.log_step))
        low_rank = ssm.real(self.P)
        P = lax.complex(low_rank[..., 0], low_rank[..., 1])
        taps = s4_kernel(A, P, ssm.compound(self.B), ssm.compound(self.C), step, max(grid))
        return axis_kernels.split_axes(taps, grid)

    def _mix(self, x: Video) -> Video:
        y = axis_kernels.convolve(x, *self.kernels(x.shape[2:4])) + ssm.real(self.D) * x
        return self.out(jax.nn.gelu(y.astype(x.dtype)))
