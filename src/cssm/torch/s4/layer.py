"""FFTConvS4: a layer of state spaces run as one long convolution, or step by step.

Source: docs/math.md section 5; source 004.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cssm.core.errors import ShapeError, UsageError
from cssm.shared.fft_plan import fast_length
from cssm.shared.s4_options import (
    KERNELS,
    LayerOptions,
    canonical_kernel,
    check_implementation,
    check_rate,
    check_step_mode,
    kernel_options,
)

from ..tensors import check_tensors
from . import cauchy
from .parameters import FAMILIES, GivenParameters, OwnParameters, full_precision


class FFTConvS4(nn.Module):
    """d_model independent linear state spaces of d_state real states each, and `channels` outputs from each.

        x_t = A_bar x_{t-1} + B_bar u_t,   y_t = 2 Re(C x_t) + D u_t        (D with skip=True)

    The layer of `cssm.nn.layers.s4.S4`, with the same parameters and numbers; the maths is in cssm/ops/s4/README.md.

    Beyond l_max, forward without a state and `step` differ: the convolution is cut after l_max taps, the recurrence
    remembers all. With a state, forward is the recurrence itself: it agrees with `step`, and with any cut of x into
    pieces, at every length, and l_max has no part in it. No call changes parameters or buffers. torch.compile takes
    forward whole (fullgraph=True).

    Args:
      d_model: H. l_max: taps of the kernel of a forward without a state; None for as many as x has steps.
      channels: C. swap_channels: y is (B, H, C, L) in place of (B, C, H, L), and (B, H, C) in `step`.
      transposed: x is (B, H, L); if False, (B, L, H). y is (B, C, H, L) in both cases.
      dropout: probability, on y while training. tie_dropout: one mask for all steps.
      drop_kernel: probability, on the taps of the kernel while training; the state sees the whole kernel.
      kernel: "s4d" (diagonal) or "s4" (diagonal minus low rank): the layer makes its own parameters. kernel_args:
        d_state=64, init="legs", disc ("zoh" or "bilinear"), dt_min=1e-3, dt_max=0.1, skip=False, implementation
        ("krylov" or "cauchy", for "s4"). See cssm.shared.s4_options.KernelOptions.
      kernel_type, param_config: in place of kernel: "s4d" with a dict of A, B (H, n), C (C, H, n) complex and dt (H,)
        real, or "s4" with P (r, H, n) as well; D (C, H) is optional. Used as they are: continuous A, dt itself.
        Parameters are shared with the caller. kernel_args may hold disc and implementation. The keys of published code
        (A_real, A_imag, inv_dt, real pairs, transforms) are understood too: see `cssm.torch.s4.published`. kernel= may
        stand beside kernel_type= where they agree; dplr and nplr mean s4, diag means s4d, init="diag-lin" means lin.

    The windows of init "legt" and "fourier" are [0, 1] in the units of dt: a step dt sees the last 1 / dt steps.

    Raises:
      UsageError: neither or both of kernel and param_config; an unknown or missing name, or a value out of range.
      ShapeError: param_config whose shapes do not fit d_model and channels.

    >>> layer = FFTConvS4(d_model=64, l_max=1024, channels=4, kernel="s4d", dropout=0.1)
    >>> y, _ = layer(torch.randn(2, 64, 1024))
    >>> tuple(y.shape)
    (2, 4, 64, 1024)
    """

    def __init__(
        self, d_model: int, l_max: int | None = None, channels: int = 1, swap_channels: bool = False,
        transposed: bool = True, dropout: float = 0.0, tie_dropout: bool = False, drop_kernel: float = 0.0,
        kernel_type: str | None = None, param_config: dict[str, Any] | None = None, kernel: str | None = None,
        **kernel_args: Any,
    ):  # fmt: skip
        super().__init__()
        self.layer = LayerOptions(
            d_model=d_model, l_max=l_max, channels=channels, swap_channels=swap_channels, transposed=transposed,
            dropout=dropout, tie_dropout=tie_dropout, drop_kernel=drop_kernel,
        )  # fmt: skip
        self._discretised: Any = None
        self._versions: tuple[int, ...] = ()
        kernel, kernel_type = (name and canonical_kernel(name) for name in (kernel, kernel_type))
        if kernel is not None and kernel == kernel_type:  # said twice, as published code does
            kernel, kernel_type = (kernel, None) if param_config is None else (None, kernel_type)
        if kernel is not None and kernel_type is None and param_config is None:
            options = kernel_options(kernel, kernel_args)
            self.implementation = options.implementation
            self.kernel = OwnParameters(options, d_model, channels)
        elif kernel is None and kernel_type is not None and param_config is not None:
            self._from_config(kernel_type, param_config, **kernel_args)
        else:
            raise UsageError(
                "FFTConvS4 takes either kernel= or both kernel_type= and param_config=, and not all of them"
            )

    def _from_config(self, kernel_type: str, param_config: dict[str, Any], **kernel_args: Any) -> None:
        if kernel_type not in KERNELS:
            raise UsageError(f"unknown kernel_type {kernel_type!r}: use {' or '.join(KERNELS)}")
        unknown = sorted(set(kernel_args) - {"disc", "implementation"})
        if unknown:
            raise UsageError(
                f"FFTConvS4 with param_config cannot honour {', '.join(unknown)}: disc and implementation alone"
            )
        self.implementation = check_implementation(kernel_type, kernel_args.get("implementation"))
        size = self.layer.d_model, self.layer.channels
        self.kernel = GivenParameters(kernel_type, param_config, *size, kernel_args.get("disc"))

    @property
    def kernel_type(self) -> str:
        """ "s4" or "s4d"."""
        return self.kernel.kernel_type

    @property
    def disc(self) -> str:
        """ "zoh" or "bilinear"."""
        return self.kernel.disc

    @property
    def d_model(self) -> int:
        """H."""
        return self.layer.d_model

    @property
    def l_max(self) -> int | None:
        """Taps of a forward without a state."""
        return self.layer.l_max

    @property
    def channels(self) -> int:
        """C."""
        return self.layer.channels

    @property
    def swap_channels(self) -> bool:
        """Whether y is (B, H, C, L)."""
        return self.layer.swap_channels

    @property
    def transposed(self) -> bool:
        """Whether x is (B, H, L)."""
        return self.layer.transposed

    @property
    def d_output(self) -> int:
        """d_model * channels: the features of y, when its axes C and H are merged."""
        return self.layer.d_model * self.layer.channels

    def forward(self, x: Tensor, state: Tensor | None = None, rate: float = 1.0, **kwargs: Any):
        """y (B, C, H, L), and the state after the last step, or None where no state was given.

        Args:
          x: (B, H, L), or (B, L, H) if not transposed; real floating. Half precision is computed in float32.
          state: (B, H, d_state / 2) complex, from `default_state` or an earlier call.
          rate: the steps of x are that many times as long, 2.0 for every second sample: scales dt, divides l_max.
          kwargs: return_output=False computes the next state alone (y is None; needs a state). src_key_padding_mask
            (B, L) bool: True marks padding, whose input counts as zero. Others may be None, and are otherwise refused.

        Raises:
          ShapeError: x, state or mask of another shape or dtype. UsageError: a keyword it cannot honour, a bad rate.
        """
        check_tensors("FFTConvS4.forward", x, state)
        return_output = self._check_keywords(kwargs, state)
        u = self._features(x, kwargs.get("src_key_padding_mask"))
        with full_precision(u):
            system, skip = self.kernel.discretised(check_rate(rate))
            length = u.shape[-1]
            if state is None:
                taps = self.layer.taps(length, rate)
                y = self._convolve(self._taps(system, None, taps), u)
                return self._output(y, u, skip, x.dtype), None
            self._check_state(state, u)
            family = FAMILIES[self.kernel_type]
            plan = family.plan(system, length)
            after = family.absorb(system, plan, state, u).to(state.dtype)
            if not return_output:
                return None, after
            y = self._convolve(self._taps(system, plan, length), u) + family.response(system, plan, state, length)
            return self._output(y, u, skip, x.dtype), after

    def setup_step(self, **kwargs: Any) -> None:
        """Discretise for `step`: needed before it, and again after parameters change or move, which `step` notices.

        rate: as in forward. mode: "dense", "linear" or "diagonal", the names of published code for three ways to
        compute a step; here there is one, with their numbers and the state of `default_state`.
        """
        unknown = sorted(set(kwargs) - {"rate", "mode"})
        if unknown:
            raise UsageError(f"FFTConvS4.setup_step cannot honour {', '.join(unknown)}; it takes rate and mode")
        check_step_mode(kwargs.get("mode", "dense"))
        self._versions = self._version()
        self._discretised = self.kernel.discretised(check_rate(kwargs.get("rate", 1.0)))

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step: x (B, H), state (B, H, d_state / 2) -> y (B, C, H), next state. Without dropout, in either mode."""
        check_tensors("FFTConvS4.step", x, state)
        if self._discretised is None or self._versions != self._version():
            raise UsageError(
                "FFTConvS4.step: call setup_step() first, and again after parameters were changed or moved"
            )
        if x.ndim != 2 or x.shape[1] != self.layer.d_model:
            raise ShapeError(f"FFTConvS4.step takes x of shape (B, {self.layer.d_model}), got {tuple(x.shape)}")
        self._check_dtype(x)
        self._check_state(state, x)
        family, (system, skip) = FAMILIES[self.kernel_type], self._discretised
        u = x.to(torch.promote_types(x.dtype, torch.float32))
        with full_precision(u):
            state = family.step(system, state, u).to(state.dtype)
            y = family.read(system, state)
            y = y if skip is None else y + skip * u[:, None]
        return self._order(y.to(x.dtype)), state

    def default_state(self, *batch_shape: int, device: torch.device | str | None = None) -> Tensor:
        """(*batch_shape, H, d_state / 2) complex zeros: no past; on the parameters' device unless told otherwise."""
        B = self.kernel.B
        half = self._half()
        dtype = torch.promote_types(B.dtype, torch.complex64)
        return torch.zeros(*batch_shape, self.layer.d_model, half, dtype=dtype, device=device or B.device)

    def extra_repr(self) -> str:
        shown = f"d_model={self.layer.d_model}, l_max={self.layer.l_max}, channels={self.layer.channels}"
        return f"{shown}, kernel_type={self.kernel_type!r}, disc={self.disc!r}"

    def _apply(self, fn, recurse=True):
        self._discretised = None  # it would stay behind on the old device, in the old dtype
        return super()._apply(fn, recurse)

    def __getstate__(self):
        return self.__dict__ | {"_discretised": None}  # part of a graph: not to be copied or saved

    def _version(self) -> tuple[int, ...]:
        """How often each parameter was written in place: by an optimiser, by load_state_dict."""
        if torch.compiler.is_compiling():
            return self._versions
        held = [*self.kernel.parameters(), *self.kernel.buffers()]
        return tuple(0 if tensor.is_inference() else tensor._version for tensor in held)

    def _half(self) -> int:
        return self.kernel.C.size(2)

    def _taps(self, system, plan, length: int) -> Tensor:
        """K (C, H, length), with some taps dropped while training."""
        if self.implementation == "cauchy":
            K = cauchy.kernel(system, length)
        else:
            family = FAMILIES[self.kernel_type]
            K = family.kernel(system, family.plan(system, length) if plan is None else plan, length)
        return nn.functional.dropout(K, self.layer.drop_kernel, self.training)

    def _convolve(self, K: Tensor, u: Tensor) -> Tensor:
        length = u.shape[-1]
        n = fast_length(length + K.shape[-1] - 1)
        return torch.fft.irfft(torch.fft.rfft(K, n) * torch.fft.rfft(u, n)[:, None], n)[..., :length]

    def _output(self, y: Tensor, u: Tensor, skip: Tensor | None, dtype: torch.dtype) -> Tensor:
        y = y if skip is None else y + skip[..., None] * u[:, None]
        if self.layer.dropout and self.training:
            mask = torch.ones_like(y[..., :1] if self.layer.tie_dropout else y)
            y = y * nn.functional.dropout(mask, self.layer.dropout)
        return self._order(y.to(dtype))

    def _order(self, y: Tensor) -> Tensor:
        return y.transpose(1, 2) if self.layer.swap_channels else y

    def _features(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """(B, H, L), in float32 at least, with padding zeroed."""
        axes = f"(B, {self.layer.d_model}, L)" if self.layer.transposed else f"(B, L, {self.layer.d_model})"
        if x.ndim != 3 or x.shape[1 if self.layer.transposed else 2] != self.layer.d_model or 0 in x.shape:
            raise ShapeError(f"FFTConvS4 takes x of shape {axes} with at least one step, got {tuple(x.shape)}")
        self._check_dtype(x)
        u = x if self.layer.transposed else x.transpose(1, 2)
        if padding is not None:
            if padding.shape != (u.shape[0], u.shape[2]) or padding.dtype != torch.bool:
                got = f"{padding.dtype} of shape {tuple(padding.shape)}"
                raise ShapeError(f"FFTConvS4: src_key_padding_mask is {got}, expected bool {(u.shape[0], u.shape[2])}")
            u = u.masked_fill(padding[:, None], 0)
        return u.to(torch.promote_types(x.dtype, torch.promote_types(self.kernel.steps.dtype, torch.float32)))

    def _check_dtype(self, x: Tensor) -> None:
        if not x.is_floating_point():
            raise ShapeError(f"FFTConvS4: x is {x.dtype}, expected real floating numbers: cast it")

    def _check_state(self, state: Tensor, x: Tensor) -> None:
        expected = (x.shape[0], self.layer.d_model, self._half())
        if tuple(state.shape) != expected or not state.is_complex():
            got = f"{state.dtype} {tuple(state.shape)}"
            raise ShapeError(
                f"FFTConvS4: the state is {got}, expected complex {expected}: start from default_state(batch)"
            )

    def _check_keywords(self, kwargs: dict[str, Any], state: Tensor | None) -> bool:
        known = ("return_output", "src_key_padding_mask")
        unknown = sorted(name for name, value in kwargs.items() if name not in known and value is not None)
        if unknown:
            raise UsageError(f"FFTConvS4.forward cannot honour {', '.join(unknown)}; it takes {', '.join(known)}")
        return_output = kwargs.get("return_output")
        if return_output is False and state is None:
            raise UsageError("FFTConvS4: return_output=False leaves the next state alone: give a state to start from")
        return return_output is not False


def parameter_groups(model: nn.Module, *, state_lr: float = 1e-3) -> list[dict[str, Any]]:
    """Groups for an optimiser of PyTorch: the state spaces of every FFTConvS4 in `model` without weight decay, slowly.

    A, B, P and dt, under whichever names they have, are trained at `state_lr` with weight_decay 0, as the papers on S4
    train them; all other parameters, C and D among them, by the optimiser's own options.

    Raises UsageError where the model has no FFTConvS4 with trained parameters.

    >>> layer = nn.Sequential(FFTConvS4(d_model=4, kernel="s4d"), nn.Linear(3, 3))
    >>> [len(group["params"]) for group in parameter_groups(layer)], parameter_groups(layer)[1]["weight_decay"]
    ([3, 4], 0.0)
    """
    kernels = [module.kernel for module in model.modules() if isinstance(module, FFTConvS4)]
    slow = {
        id(value): value for kernel in kernels for name, value in kernel.named_parameters() if name not in ("C", "D")
    }
    if not slow:
        raise UsageError("parameter_groups: the model has no FFTConvS4 with trained parameters")
    rest = [value for value in model.parameters() if id(value) not in slow]
    return [{"params": rest}, {"params": list(slow.values()), "lr": state_lr, "weight_decay": 0.0}]
