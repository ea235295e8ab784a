"""S4 and S4D layers over sequences: a recurrence per feature, run as one long convolution.

The layer of `cssm.torch.FFTConvS4`, channels last, with the same options, parameters and numbers.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Shaped

from cssm.core.errors import ShapeError
from cssm.core.typing import Complex, Float
from cssm.ops.s4 import cauchy, diagonal, dplr
from cssm.shared.fft_plan import fast_length
from cssm.shared.hippo import initial_parameters
from cssm.shared.reset import check_reset
from cssm.shared.s4_options import LayerOptions, check_rate, kernel_options

from ..parameter import RecurrenceParam
from ..shared.wide import wide

FAMILIES = {"s4": dplr, "s4d": diagonal}
State = Complex[Any, "b h n"]


class S4(nnx.Module):
    """d_model independent linear state spaces of d_state real states each, and `channels` outputs from each.

        x_t = A_bar x_{t-1} + B_bar u_t,   y_t = 2 Re(C x_t) + D u_t        (D with skip=True)

    `step` is the definition; `scan` computes all steps at once, from a carried state; a call is the convolution from
    rest, of l_max taps at most. Beyond l_max these differ: the recurrence remembers more than l_max steps, so that
    `scan` ignores l_max, and the call truncates. The state is a plain array; nothing is stored in the module.

    Against `FFTConvS4`: input and output are channels last, (B, L, H) and (B, L, C, H), where PyTorch's are (B, H, L)
    and (B, C, H, L); the state comes first, (state, y); dropout works where a key is given, in place of train();
    `transposed` and `param_config` have no use here (set `layer.C[...] = value`).

    Args:
      d_model: H. l_max: taps of the kernel in a call; None for as many as there are steps.
      channels: C. swap_channels: y is (B, L, H, C), and (B, H, C) in `step`.
      dropout: probability, on y. tie_dropout: one mask for all steps. drop_kernel: probability, on the kernel's taps.
      kernel: "s4" or "s4d". kernel_args: d_state=64, init="legs", disc, dt_min=1e-3, dt_max=0.1, skip=False,
        implementation (see cssm.shared.s4_options.KernelOptions).

    Raises:
      UsageError: an option that does not exist, or does not fit the kernel.

    Source: docs/math.md section 5; 004, FFTConvS4; Gu et al. 2022 (S4; S4D).

    >>> from flax import nnx
    >>> layer = S4(4, kernel="s4d", d_state=8, channels=2, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((3, 16, 4))).shape
    (3, 16, 2, 4)
    """

    def __init__(
        self,
        d_model: int,
        *,
        l_max: int | None = None,
        channels: int = 1,
        swap_channels: bool = False,
        dropout: float = 0.0,
        tie_dropout: bool = False,
        drop_kernel: float = 0.0,
        kernel: str = "s4",
        rngs: nnx.Rngs,
        **kernel_args,
    ):
        self.layer = LayerOptions(
            d_model=d_model, l_max=l_max, channels=channels, swap_channels=swap_channels, transposed=False,
            dropout=dropout, tie_dropout=tie_dropout, drop_kernel=drop_kernel,
        )  # fmt: skip
        self.options = kernel_options(kernel, kernel_args)
        half, key = self.options.d_state // 2, rngs.params()
        keys = jax.random.split(key, 3)
        low, high = jnp.log(self.options.dt_min), jnp.log(self.options.dt_max)
        self.log_dt = RecurrenceParam(jax.random.uniform(keys[0], (d_model,), minval=low, maxval=high))
        initial = initial_parameters(kernel, self.options.init, self.options.d_state)
        self.log_A_real, self.A_imag, self.B = (self._heads(initial[name], 0) for name in ("log_A_real", "A_imag", "B"))
        if kernel == "s4":
            self.P = self._heads(initial["P"], 1)
        self.C = RecurrenceParam(jax.random.normal(keys[1], (channels, d_model, half, 2)) * 0.5**0.5)
        if self.options.skip:
            self.D = RecurrenceParam(jax.random.normal(keys[2], (channels, d_model)))

    def _heads(self, value, axis: int) -> nnx.Param:
        """The same initial value for every head."""
        value = jnp.expand_dims(jnp.asarray(value, float), axis)
        return RecurrenceParam(jnp.repeat(value, self.layer.d_model, axis))

    @property
    def d_output(self) -> int:
        """d_model * channels: the features of y, when its last two axes are merged."""
        return self.layer.d_model * self.layer.channels

    def init_state(self, batch: int) -> State:
        """(B, H, d_state / 2) complex zeros: no past."""
        shape = (batch, self.layer.d_model, self.options.d_state // 2)
        return jnp.zeros(shape, jnp.result_type(self._real(self.log_dt), jnp.complex64))

    def setup_step(self, *, rate: float = 1.0) -> Any:
        """The discretised state spaces, a plain pytree: compute once, and give to every `step`."""
        dt = jnp.exp(self._real(self.log_dt)) * check_rate(rate)
        A = lax.complex(-jnp.exp(self._real(self.log_A_real)), self._real(self.A_imag))
        B, C = self._complex(self.B), self._complex(self.C)
        if self.options.kernel == "s4":
            return dplr.discretise(A, self._complex(self.P), B, C, dt)
        return diagonal.discretise(A, B, C, dt, str(self.options.disc))

    def step(self, state, x: Shaped[Any, "b h"], *, system=None) -> tuple[State, Float[Any, "b _ _"]]:
        """One step: the state after x, and y (B, C, H). system: what `setup_step` returned, computed when omitted."""
        self._check(x, "step", ("B", "H"))
        self._check_state(state, x)
        family = FAMILIES[self.options.kernel]
        system = self.setup_step() if system is None else system
        state = family.step(system, state, x.astype(state.real.dtype)).astype(state.dtype)
        y = self._skip(family.read(system, state)[..., None], x[..., None])[..., 0]
        return state, self._order(y.astype(x.dtype), 1)

    def scan(
        self, state, x: Shaped[Any, "b l h"], *, reset=None, rate: float = 1.0, key=None
    ) -> tuple[State, Float[Any, "b l _ _"]]:
        """All steps from a carried state: the state after them, and y (B, L, C, H).

        Args:
          state: of `init_state`. reset: (B, L) bool, forgets all steps before that one; runs step by step.
          rate: the steps of x are that many times as long: 2.0 for every second sample. key: a PRNG key, for dropout.
        """
        system = self._start(state, x, rate)
        if reset is not None:
            return self._stepwise(system, state, x, reset, key)
        u, keys = self._features(x), self._keys(key)
        family, length = FAMILIES[self.options.kernel], x.shape[1]
        plan = family.plan(system, length)
        y = self._convolve(system, plan, u, length, keys) + family.response(system, plan, state, length)
        after = family.absorb(system, plan, state, u).astype(state.dtype)
        return after, self._output(y, u, x.dtype, keys)

    def advance(self, state, x: Shaped[Any, "b l h"], *, rate: float = 1.0) -> State:
        """The state after all steps of x; no output is computed."""
        system, family = self._start(state, x, rate), FAMILIES[self.options.kernel]
        after = family.absorb(system, family.plan(system, x.shape[1]), state, self._features(x))
        return after.astype(state.dtype)

    def __call__(self, x: Shaped[Any, "b l h"], *, rate: float = 1.0, key=None) -> Float[Any, "b l _ _"]:
        """y (B, L, C, H) from rest, by a kernel of l_max / rate taps at most; arguments as `scan`."""
        self._check(x, "call", ("B", "L", "H"))
        system, taps = self.setup_step(rate=rate), self.layer.taps(x.shape[1], rate)
        u, keys = self._features(x), self._keys(key)
        cauchy_alone = self.options.implementation == "cauchy"
        plan = None if cauchy_alone else FAMILIES[self.options.kernel].plan(system, taps)
        return self._output(self._convolve(system, plan, u, taps, keys), u, x.dtype, keys)

    def _start(self, state, x, rate):
        self._check(x, "scan", ("B", "L", "H"))
        self._check_state(state, x)
        return self.setup_step(rate=rate)

    def _convolve(self, system, plan, u, taps: int, keys):
        """K * u (B, C, H, L), with K of that many taps."""
        if self.options.implementation == "cauchy":
            K = cauchy.kernel(system, taps)
        else:
            K = FAMILIES[self.options.kernel].kernel(system, plan, taps)
        K = _drop(keys[0], K, self.layer.drop_kernel, K.shape)
        length = u.shape[-1]
        n = fast_length(length + taps - 1)
        return jnp.fft.irfft(jnp.fft.rfft(K, n) * jnp.fft.rfft(u, n)[:, None], n)[..., :length]

    def _stepwise(self, system, state, x, reset, key):
        check_reset("S4", reset, x.shape[:2])
        family, u, keys, dtype = FAMILIES[self.options.kernel], self._features(x), self._keys(key), state.dtype

        def step(state, now):
            u, reset = now
            state = family.step(system, jnp.where(reset[:, None, None], 0, state), u)
            return state.astype(dtype), family.read(system, state)

        state, y = lax.scan(step, state, (jnp.moveaxis(u, -1, 0), jnp.moveaxis(jnp.asarray(reset), 1, 0)))
        return state, self._output(jnp.moveaxis(y, 0, -1), u, x.dtype, keys)

    def _output(self, y, u, dtype, keys):
        """(B, C, H, L) -> (B, L, C, H)."""
        y = self._skip(y, u)
        tied = (*y.shape[:-1], 1) if self.layer.tie_dropout else y.shape
        y = _drop(keys[1], y, self.layer.dropout, tied)
        return self._order(jnp.moveaxis(y, -1, 1).astype(dtype), 2)

    def _skip(self, y, u):
        return y + self._real(self.D)[..., None] * u[:, None] if self.options.skip else y

    def _order(self, y, axis: int):
        return jnp.swapaxes(y, axis, axis + 1) if self.layer.swap_channels else y

    def _features(self, x):
        return jnp.swapaxes(x, 1, 2).astype(jnp.promote_types(x.dtype, self._real(self.log_dt).dtype))

    def _keys(self, key):
        return (None, None) if key is None else jax.random.split(key)

    def _real(self, parameter):
        return wide(parameter[...])

    def _complex(self, parameter):
        return lax.complex(self._real(parameter)[..., 0], self._real(parameter)[..., 1])

    def _check(self, x, name: str, axes):
        if x.ndim != len(axes) or x.shape[-1] != self.layer.d_model or 0 in x.shape:
            expected = ", ".join(axes).replace("H", str(self.layer.d_model))
            raise ShapeError(f"S4: {name} takes x of shape ({expected}) with at least one step, got {x.shape}")
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ShapeError(f"S4: x is {x.dtype}, expected real floating numbers: cast it")

    def _check_state(self, state, x):
        expected = (x.shape[0], self.layer.d_model, self.options.d_state // 2)
        if jnp.shape(state) != expected or not jnp.iscomplexobj(state):
            got = f"{jnp.result_type(state)} {jnp.shape(state)}"
            raise ShapeError(f"S4: the state is {got}, expected complex {expected}: start from init_state(batch)")


def _drop(key, value, probability: float, shape):
    """Zero with that probability, scaled to keep the mean; one draw for all of an axis that has size 1 in shape."""
    if key is None or not probability:
        return value
    keep = jax.random.bernoulli(key, 1 - probability, shape)
    return jnp.where(keep, value / (1 - probability), 0)
