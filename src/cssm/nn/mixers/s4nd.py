"""S4ND with diagonal state spaces: a global separable convolution within each frame. Not recurrent: a control.

Along rows and along columns, every channel has a state space (zero-order hold) and a kernel per direction:
k_d[l] = 2 Re sum_n C_dn B_bar_n e^(l z_n), z = dt A, A = -exp(a) + i b, d = forward or backward. The four quadrants
(forward or backward along each axis) are summed: y = Dense(GELU(k * x + D x)), k the outer product of the two-sided
kernels of both axes, zeros outside the frame. |e^z| < 1: the kernels decay, and there is no state to bound. Frames do
not see each other. dt is in pixels, so that no parameter depends on the grid.

Source: docs/math.md section 3; Nguyen et al. 2022, S4ND: modeling images and videos as multidimensional signals using
state spaces (per-axis, rank-1 kernels).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from cssm.core.errors import UsageError
from cssm.core.typing import Grid, Video
from cssm.ops.s4 import s4d_kernel
from cssm.shared.hippo import INITS, initial_parameters

from ..mixer import MIXERS, Control
from ..parameter import RecurrenceParam
from ..parts.dense import Dense
from ..shared import axis_kernels, ssm


@MIXERS.register("s4nd")
class S4ND(Control):
    """Separable global convolution per frame with S4D kernels along each axis, in four quadrants: a control.

    Args:
      channels: C. d_state: N real states per channel and axis. init: of A (legs, lin, inv, ...). dt_min, dt_max: pixels
        per step, log-uniform between these at the start; kernels reach about 2 / dt pixels.

    >>> from flax import nnx
    >>> S4ND(4, rngs=nnx.Rngs(0))(jnp.zeros((1, 3, 8, 8, 4))).shape
    (1, 3, 8, 8, 4)
    """

    def __init__(
        self, channels: int, *, d_state: int = 64, init: str = "legs", dt_min: float = 0.01, dt_max: float = 0.5,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        ssm.check_state_size("s4nd", d_state)
        ssm.check_steps("s4nd", dt_min, dt_max)
        if init not in INITS:
            raise UsageError(f"s4nd: unknown init {init!r}, use {', '.join(INITS)}")
        self.channels, heads = channels, 2 * channels  # one head per channel and axis: rows, then columns
        keys = jax.random.split(rngs.params(), 3)
        initial = initial_parameters("s4d", init, d_state)
        each = lambda value: jnp.stack([jnp.asarray(value, jnp.float32)] * heads)  # noqa: E731
        self.log_A_real, self.A_imag = (
            RecurrenceParam(each(initial["log_A_real"])),
            RecurrenceParam(each(initial["A_imag"])),
        )
        self.B = RecurrenceParam(jnp.moveaxis(each(initial["B"]), -1, 0))
        self.C = RecurrenceParam(ssm.complex_normal(keys[0], (2, heads, d_state // 2), 1.0))  # one per direction
        self.D = RecurrenceParam(jax.random.normal(keys[1], (channels,)))
        self.log_step = RecurrenceParam(ssm.log_uniform(keys[2], (heads,), dt_min, dt_max))
        self.out = Dense(channels, channels, rngs=rngs)

    def kernels(self, grid: Grid):
        """Rows (2, C, H) and columns (2, C, W): the taps of the forward and of the backward direction."""
        A = lax.complex(-jnp.exp(ssm.real(self.log_A_real)), ssm.real(self.A_imag))
        step = jnp.exp(ssm.real(self.log_step))
        taps = s4d_kernel(A, ssm.compound(self.B), ssm.compound(self.C), step, max(grid))
        return axis_kernels.split_axes(taps, grid)

    def _mix(self, x: Video) -> Video:
        y = axis_kernels.convolve(x, *self.kernels(x.shape[2:4])) + ssm.real(self.D) * x
        return self.out(jax.nn.gelu(y.astype(x.dtype)))
