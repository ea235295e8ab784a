"""The gated delta rule and decayed attention for PyTorch, as in `cssm.ops.delta`; its README has the maths.

Plain operations: differentiable with autograd any number of times, and traced whole by torch.compile.
"""

from typing import Annotated

import torch
from torch import Tensor

from cssm.core.typing import Float, Inexact
from cssm.shared.delta import READOUTS, check_choice, check_decayed_attention, check_delta
from cssm.shared.reset import check_reset

from ..devices import one_device
from ..tensors import check_tensors
from .chunked import chunked
from .reference import decayed_attention_reference, delta_rule_reference
from .sequential import sequential
from .ssd import ssd

IMPLEMENTATIONS = {"sequential": sequential, "chunked": chunked, "reference": delta_rule_reference}
DECAY_IMPLEMENTATIONS = {"chunked": ssd, "reference": decayed_attention_reference}

__all__ = ["DECAY_IMPLEMENTATIONS", "IMPLEMENTATIONS", "decayed_attention", "delta_rule"]


def delta_rule(
    q: Annotated[Tensor, "b t n dk ..."],
    k: Annotated[Tensor, "b t n dk ..."],
    v: Annotated[Tensor, "b t n dv ..."],
    alpha: Annotated[Tensor, "b t n"],
    beta: Annotated[Tensor, "b t n"],
    *,
    gain: Annotated[Tensor, "n ..."] | None = None,
    state: Annotated[Tensor, "b n dv dk ..."] | None = None,
    reset: Annotated[Tensor, "b t"] | None = None,
    readout: str = "all",
    implementation: str | None = None,
) -> tuple[Inexact[Tensor, "b n dv dk ..."], Inexact[Tensor, "b ..."]]:
    """S_t = alpha_t W S_{t-1} (I - beta_t k_t k_t^H) + beta_t v_t k_t^H, o_t = S_t q_t: `cssm.ops.delta_rule`.

    Args:
      q, k: (B, T, N, Dk, ...), real or complex. v: (B, T, N, Dv, ...).
      alpha, beta: (B, T, N) real; alpha >= 0 for "chunked" (NaN elsewhere).
      gain: W, (N, ...), real or complex, the same at every step; 1 when omitted.
      state: (B, N, Dv, Dk, ...), S before the first step; zeros when omitted.
      reset: (B, T) bool; True forgets all that came before.
      readout: "all" (o for every step) or "last" (only that of the last step).
      implementation: "chunked" (matrix products over chunks of 64 tokens; real, no axes "...", no gain: picked
        there), "sequential" (one step after another, vectorised over the rest: picked otherwise), "reference" (the
        definition; its gradient keeps every state), or None to pick.

    Returns:
      (S, o): the state after the last step, float32 / complex64 (double where given), and o (B, T, N, Dv, ...), for
      readout "last" (B, N, Dv, ...). Gradients keep the states between chunks, or 2 sqrt(T) states; they go through
      torch.utils.checkpoint; under torch.func, which knows none, all are kept.

    Raises:
      ShapeError: shapes or dtypes that do not fit together, or T = 0. UsageError: an unknown readout or
        implementation, "chunked" where it does not apply, or tensors on several devices.

    Source: docs/math.md section 3 (`gdn`); Yang et al. 2024, Gated delta networks.

    >>> import torch
    >>> k = torch.eye(2)[None, :, None]  # two steps, orthogonal keys
    >>> v, one = torch.tensor([3.0, 5.0]).reshape(1, 2, 1, 1), torch.ones(1, 2, 1)
    >>> delta_rule(k, k, v, one, one)[0].tolist()  # both values are held
    [[[[3.0, 5.0]]]]
    """
    check_tensors("delta_rule", q, k, v, alpha, beta, gain, state, reset)
    shape = check_delta("delta_rule", (q, k, v, alpha, beta), gain, state, time=True)
    check_reset("delta_rule", reset, k.shape[:2])
    check_choice("delta_rule", "readout", readout, READOUTS)
    one_device("delta_rule", q, k, v, alpha, beta, gain, state, reset)
    dtype = _carry(q, k, v, alpha, beta, gain, state)
    if implementation is None:
        implementation = "chunked" if gain is None and k.ndim == 4 and not dtype.is_complex else "sequential"
    check_choice("delta_rule", "implementation", implementation, IMPLEMENTATIONS)
    state = k.new_zeros(shape, dtype=dtype) if state is None else state.to(dtype)
    q, k, v = (a.to(dtype) for a in (q, k, v))
    alpha, beta = (gate.to(state.real.dtype) for gate in (alpha, beta))
    gain = None if gain is None else gain.to(dtype)
    return IMPLEMENTATIONS[implementation](q, k, v, alpha, beta, gain, state, reset, readout)


def decayed_attention(
    q: Annotated[Tensor, "b t d"],
    k: Annotated[Tensor, "b t d"],
    v: Annotated[Tensor, "b t n dv"],
    log_a: Annotated[Tensor, "b t n"],
    *,
    state: Annotated[Tensor, "b n dv d"] | None = None,
    reset: Annotated[Tensor, "b t"] | None = None,
    implementation: str | None = None,
) -> tuple[Float[Tensor, "b n dv d"], Float[Tensor, "b t n dv"]]:
    """S_t = exp(log_a_t) S_{t-1} + v_t k_t^T, o_t = S_t q_t; real tokens: `cssm.ops.decayed_attention`.

    Args:
      q, k: (B, T, D), shared by the heads. v: (B, T, N, Dv). log_a: (B, T, N); where it is <= 0 the state stays below
        the decayed sum of what was written.
      state: (B, N, Dv, D), zeros when omitted. reset: (B, T) bool; True forgets all that came before.
      implementation: "chunked" (matrix products over chunks of 64 tokens), "reference", or None for the first.

    Returns:
      (S, o): the state after the last step and o (B, T, N, Dv), float32 (double where given).

    Raises:
      ShapeError: shapes or dtypes that do not fit together, or T = 0. UsageError: an unknown implementation, or
        tensors on several devices.

    Source: docs/math.md section 3 (`mamba2_seq`); Dao and Gu 2024, Transformers are SSMs.

    >>> import torch
    >>> one = torch.ones(1, 3, 1)
    >>> decayed_attention(one, one, one[..., None], (one / 2).log())[1].flatten().tolist()
    [1.0, 1.5, 1.75]
    """
    check_tensors("decayed_attention", q, k, v, log_a, state, reset)
    shape = check_decayed_attention(q, k, v, log_a, state)
    check_reset("decayed_attention", reset, k.shape[:2])
    one_device("decayed_attention", q, k, v, log_a, state, reset)
    implementation = "chunked" if implementation is None else implementation
    check_choice("decayed_attention", "implementation", implementation, DECAY_IMPLEMENTATIONS)
    dtype = _carry(q, k, v, log_a, state)
    state = k.new_zeros(shape, dtype=dtype) if state is None else state.to(dtype)
    q, k, v, log_a = (a.to(dtype) for a in (q, k, v, log_a))
    return DECAY_IMPLEMENTATIONS[implementation](q, k, v, log_a, state, reset)


def _carry(*tensors) -> torch.dtype:
    """The promoted dtype, float32 at least."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = dtype if tensor is None else torch.promote_types(dtype, tensor.dtype)
    return dtype
