"""The decay scan for PyTorch: h_t = exp(log_a_t) h_{t-1} + x_t, compiled on CPU, Triton on CUDA.

The scan and its gradient are custom operators (torch.library), not a bare autograd.Function: torch.compile keeps an
operator with a shape rule as one node, where it would have to trace through the compiled kernels of a Function. Under
torch.func, which takes no custom operator with a gradient, two Functions with rules for vmap stand for them.
The gradient's gradient is refused. Source: docs/math.md section 1; source 001 for `ssm_scan_triton`.
"""

from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from cssm.core.errors import UsageError
from cssm.core.typing import Float
from cssm.kernels import decay_scan_cpu
from cssm.shared.decay import check_decay_scan

from ..devices import one_device
from ..tensors import check_tensors
from ..transforms import fold, refuse_forward_mode, transformed

IMPLEMENTATIONS = ("sequential", "chunked", "triton")


def decay_scan(
    log_a: Annotated[Tensor, "b t r"],
    x: Annotated[Tensor, "b t r c"],
    h0: Annotated[Tensor, "b r c"] | None = None,
    *,
    implementation: str | None = None,
) -> Float[Tensor, "b t r c"]:
    """All states of h_t = exp(log_a_t) h_{t-1} + x_t: `cssm.ops.decay_scan` for tensors.

    Args:
      log_a: (B, T, R), float32 or float64; log_a = -inf forgets: h_t = x_t. Positive values grow.
      x: (B, T, R, C), any floating dtype; the carry is float32 at least.
      h0: (B, R, C), zeros when omitted.
      implementation: "sequential" (one pass over time), "chunked" (time split, two passes: for few rows), "triton"
        (CUDA only; splits time when there are few rows), or None: sequential on CPU, triton on CUDA.

    Returns: h (B, T, R, C), x's dtype. Differentiable once in log_a, x and h0; torch.compile keeps it whole;
    torch.func.grad, vjp, jacrev and vmap take it.

    Raises:
      ShapeError: mismatched shapes, T = 0, an integer or complex dtype, log_a in bfloat16 or float16.
      UsageError: unknown implementation, tensors on several devices, a device without a kernel, forward-mode autodiff.

    >>> decay_scan(torch.full((1, 3, 1), 0.5).log(), torch.ones(1, 3, 1, 1))[0, :, 0, 0].tolist()
    [1.0, 1.5, 1.75]
    """
    check_tensors("decay_scan", log_a, x, h0)
    check_decay_scan("decay_scan", log_a, x, h0)
    refuse_forward_mode("decay_scan", log_a, x, h0)
    implementation = _pick(implementation, log_a, x, h0)
    run = _Scan.apply if transformed() else torch.ops.cssm.decay_scan
    return run(log_a, x, h0, implementation)


def decay_scan_cumsum(
    cumsum_A: Annotated[Tensor, "b t r"], x: Annotated[Tensor, "b t r c"], *, implementation: str | None = None
) -> Float[Tensor, "b t r c"]:
    """`decay_scan` from cumsum_A (B, T, R) = cumsum(log_a): out_t = sum_{j <= t} exp(A_t - A_j) x_j (B, T, R, C).

    Precision and -inf: see `cssm.ops.decay_scan_cumsum`. Prefer `decay_scan`.

    >>> decay_scan_cumsum(torch.full((1, 3, 1), 0.5).log().cumsum(1), torch.ones(1, 3, 1, 1))[0, 2, 0].tolist()
    [1.75]
    """
    check_tensors("decay_scan_cumsum", cumsum_A, x)
    check_decay_scan("decay_scan_cumsum", cumsum_A, x, decay="cumsum_A")
    log_a = torch.cat([torch.zeros_like(cumsum_A[:, :1]), cumsum_A[:, 1:] - cumsum_A[:, :-1]], 1)
    return decay_scan(log_a, x, implementation=implementation)


def ssm_scan_triton(
    cumsum_A: Annotated[Tensor, "b t r"], x: Annotated[Tensor, "b t r c"], use_assoc_scan: bool = False
) -> Float[Tensor, "b t r c"]:
    """Source 001's function: `decay_scan_cumsum` under the name and with the signature it has there.

    use_assoc_scan=True uses associativity: time is split into chunks that are scanned side by side and joined by
    their carries (two passes over x; two kernels on CUDA, "chunked" on CPU). False is one pass over time.

    >>> ssm_scan_triton(torch.zeros(1, 3, 1), torch.ones(1, 3, 1, 2), use_assoc_scan=True)[0, :, 0, 0].tolist()
    [1.0, 2.0, 3.0]
    """
    check_tensors("ssm_scan_triton", cumsum_A, x)
    return decay_scan_cumsum(cumsum_A, x, implementation="chunked" if use_assoc_scan else "sequential")


def _pick(implementation, log_a, x, h0) -> str:
    if implementation not in (None, *IMPLEMENTATIONS):
        known = ", ".join(IMPLEMENTATIONS)
        raise UsageError(f"unknown implementation {implementation!r} of cssm.torch.decay_scan: use {known}")
    one_device("decay_scan", log_a, x, h0)
    if x.device.type not in ("cpu", "cuda", "meta"):
        raise UsageError(f"decay_scan has kernels for cpu and cuda, not for {x.device.type}: move the tensors")
    if implementation == "triton" and x.device.type == "cpu":
        from .triton import require_interpreter

        require_interpreter()
    return implementation or ("triton" if x.device.type == "cuda" else "sequential")


def _carry_dtype(*tensors):
    dtype = torch.float32
    for tensor in tensors:
        dtype = dtype if tensor is None else torch.promote_types(dtype, tensor.dtype)
    return dtype


def _forward(log_a: torch.Tensor, x: torch.Tensor, h0: torch.Tensor | None, implementation: str) -> torch.Tensor:
    if x.device.type == "cuda" or implementation == "triton":
        from . import triton

        return triton.forward(log_a, x, h0, _carry_dtype(log_a, x, h0), implementation)
    dtype = _carry_dtype(log_a, x, h0)
    data = x.to(dtype).contiguous()
    out = torch.empty_like(data)
    arrays = (log_a.to(dtype).exp().contiguous(), data, _start(h0, data), out)
    decay_scan_cpu.forward(*(tensor.detach().numpy() for tensor in arrays), split=implementation == "chunked")
    return out.to(x.dtype)


def _backward(
    log_a: torch.Tensor, h: torch.Tensor, h0: torch.Tensor | None, g: torch.Tensor, implementation: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """dlog_a, dx, dh0 (always, in the carry's dtype)."""
    dtype = _carry_dtype(log_a, h, h0)
    if g.device.type == "cuda" or implementation == "triton":
        from . import triton

        return triton.backward(log_a, h, h0, g, dtype, implementation)
    states, g = h.to(dtype).contiguous(), g.to(dtype).contiguous()
    decays, dx = log_a.to(dtype).exp().contiguous(), torch.empty_like(g)
    dlog_a = torch.empty_like(decays)
    arrays = (decays, states, _start(h0, g), g, dlog_a, dx)
    dh0 = decay_scan_cpu.backward(*(t.detach().numpy() for t in arrays), split=implementation == "chunked")
    return dlog_a.to(log_a.dtype), dx.to(h.dtype), torch.from_numpy(dh0)


def _start(h0, data):
    shape = (data.shape[0], *data.shape[2:])
    return data.new_zeros(shape) if h0 is None else h0.to(data.dtype).contiguous()


_op = torch.library.custom_op(
    "cssm::decay_scan", _forward, mutates_args=(),
    schema="(Tensor log_a, Tensor x, Tensor? h0, str implementation) -> Tensor",
)  # fmt: skip
_gradient_op = torch.library.custom_op(
    "cssm::decay_scan_backward", _backward, mutates_args=(),
    schema="(Tensor log_a, Tensor h, Tensor? h0, Tensor g, str implementation) -> (Tensor, Tensor, Tensor)",
)  # fmt: skip


@_op.register_fake
def _(log_a, x, h0, implementation):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@_gradient_op.register_fake
def _(log_a, h, h0, g, implementation):
    alike = partial(torch.empty_like, memory_format=torch.contiguous_format)
    dh0 = h.new_empty((h.shape[0], *h.shape[2:]), dtype=_carry_dtype(log_a, h, h0))
    return alike(log_a), alike(h), dh0


def _save(ctx, inputs, output):
    log_a, _, h0, ctx.implementation = inputs
    ctx.save_for_backward(log_a, output, h0)


def _gradient(ctx, g):
    log_a, h, h0 = ctx.saved_tensors
    dlog_a, dx, dh0 = torch.ops.cssm.decay_scan_backward(log_a, h, h0, g, ctx.implementation)
    return dlog_a, dx, None if h0 is None else dh0.to(h0.dtype), None


def _refuse(ctx, *_):
    raise UsageError("decay_scan can be differentiated once: for second derivatives write the recurrence as a loop")


_op.register_autograd(_gradient, setup_context=_save)
_gradient_op.register_autograd(_refuse)


class _Scan(torch.autograd.Function):
    """The operator for torch.func: a mapped axis joins the batch."""

    @staticmethod
    def forward(log_a, x, h0, implementation):
        return torch.ops.cssm.decay_scan(log_a, x, h0, implementation)

    setup_context = staticmethod(_save)

    @staticmethod
    def backward(ctx, g):
        log_a, h, h0 = ctx.saved_tensors
        dlog_a, dx, dh0 = _ScanGradient.apply(log_a, h, h0, g, ctx.implementation)
        return dlog_a, dx, None if h0 is None else dh0.to(h0.dtype), None

    @staticmethod
    def vmap(info, in_dims, log_a, x, h0, implementation):
        arrays = fold(info.batch_size, in_dims[:3], (log_a, x, h0))
        return _Scan.apply(*arrays, implementation).unflatten(0, (info.batch_size, -1)), 0


class _ScanGradient(torch.autograd.Function):
    @staticmethod
    def forward(log_a, h, h0, g, implementation):
        return torch.ops.cssm.decay_scan_backward(log_a, h, h0, g, implementation)

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Nothing is kept: there is no second derivative."""

    backward = staticmethod(_refuse)

    @staticmethod
    def vmap(info, in_dims, log_a, h, h0, g, implementation):
        arrays = fold(info.batch_size, in_dims[:4], (log_a, h, h0, g))
        outputs = _ScanGradient.apply(*arrays, implementation)
        return tuple(out.unflatten(0, (info.batch_size, -1)) for out in outputs), (0, 0, 0)
