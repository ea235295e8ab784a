"""What fits together in an FFT convolution: sizes, layouts, dtypes and equations. Shapes in, plain numbers out."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cssm.core.errors import ShapeError, UsageError

DTYPES = ("bfloat16", "float16", "float32", "float64", "complex64", "complex128")
LAYOUTS = ("length_first", "state_first")
BOUNDARIES = ("zero", "circular")


@dataclass(frozen=True, kw_only=True)
class SsmSizes:
    """Sizes of `opt_ssm_forward`: x (batch, length, inputs), K (taps, states), C (outputs, states)."""

    batch: int
    length: int
    inputs: int
    states: int
    outputs: int
    taps: int
    layout: str


def check_dtypes(op: str, **dtypes: object) -> None:
    """Refuse what is not real or complex floating.

    >>> check_dtypes("fft_conv", input="float32", kernel="torch.complex64")
    """
    for name, dtype in dtypes.items():
        if str(dtype).removeprefix("torch.") not in DTYPES:
            raise ShapeError(f"{op}: {name} is {dtype}; it takes {', '.join(DTYPES)}: cast it")


def check_strategy(op: str, strategy: str | None, known: Iterable[str]) -> None:
    if strategy is not None and strategy not in known:
        raise UsageError(f"unknown strategy {strategy!r} of {op}: use {', '.join(known)}, or None to pick")


def projection_sizes(op: str, x: Sequence[int], b: Sequence[int], c: Sequence[int]) -> tuple[int, int, int, int, int]:
    """(batch, length, inputs, states, outputs) of x (B, L, H_in), B_ (N, H_in), C (H_out, N)."""
    if len(x) != 3 or 0 in x:
        raise ShapeError(f"{op}: x has shape {tuple(x)}, expected (B, L, H_in), none of them 0")
    if len(b) != 2 or b[1] != x[2] or b[0] == 0:
        raise ShapeError(f"{op}: B_ has shape {tuple(b)}, expected (N, {x[2]}) for x of shape {tuple(x)}")
    if len(c) != 2 or c[1] != b[0] or c[0] == 0:
        raise ShapeError(f"{op}: C has shape {tuple(c)}, expected (H_out, {b[0]}) for B_ of shape {tuple(b)}")
    return x[0], x[1], x[2], b[0], c[0]


def ssm_sizes(
    x: Sequence[int], k: Sequence[int], b: Sequence[int], c: Sequence[int], kernel_layout: str | None = None
) -> SsmSizes:
    """All sizes of one call, or a ShapeError that says what does not fit.

    >>> ssm_sizes((2, 9, 4), (9, 3), (3, 4), (4, 3)).layout, ssm_sizes((2, 9, 4), (3, 5), (3, 4), (4, 3)).taps
    ('length_first', 5)
    """
    batch, length, inputs, states, outputs = projection_sizes("opt_ssm_forward", x, b, c)
    layout = kernel_layout_of(k, states, kernel_layout)
    taps = min(k[0] if layout == "length_first" else k[1], length)
    return SsmSizes(batch=batch, length=length, inputs=inputs, states=states, outputs=outputs, taps=taps, layout=layout)


def kernel_layout_of(k: Sequence[int], states: int, kernel_layout: str | None) -> str:
    """length_first for K of shape (L, N), state_first for (N, L). A square K is state_first, with a warning where the
    caller does not say it: the code of source 004 takes no other, though its documentation says (L, N)."""
    if kernel_layout is not None and kernel_layout not in LAYOUTS:
        raise UsageError(f"unknown kernel_layout {kernel_layout!r} of opt_ssm_forward: use {' or '.join(LAYOUTS)}")
    if len(k) == 3:
        raise ShapeError(
            f"opt_ssm_forward: K of shape {tuple(k)} is a full kernel (L, H_out, H_in), which leaves B_ and C unused; "
            'call fft_conv("bli,loi->blo", x, K)'
        )
    if len(k) != 2 or 0 in k:
        raise ShapeError(f"opt_ssm_forward: K has shape {tuple(k)}, expected (L, N) or (N, L) with N = {states}")
    fitting = [layout for layout, axis in zip(LAYOUTS, (1, 0), strict=True) if k[axis] == states]
    if kernel_layout is None and len(fitting) == 2:
        warnings.warn(
            f"opt_ssm_forward: K of shape {tuple(k)} may be (L, N) or (N, L), and is taken as (N, L): say "
            "kernel_layout='state_first', or 'length_first' for (L, N)",
            stacklevel=4,
        )
    if not fitting or kernel_layout not in (None, *fitting):
        expected = f" for kernel_layout={kernel_layout!r}" if fitting else ""
        raise ShapeError(
            f"opt_ssm_forward: K has shape {tuple(k)}, expected (L, N) or (N, L) with N = {states}{expected}"
        )
    return kernel_layout or fitting[-1]


@dataclass(frozen=True)
class ConvEquation:
    """The steps of `fft_conv`: pairwise einsums, the one over time in the frequency domain."""

    project_in: str | None
    convolve: str
    project_out: str | None
    input_axis: int
    kernel_axis: int
    output_axis: int
    length: int
    taps: int


def conv_equation(equation: object, shapes: Sequence[Sequence[int]]) -> ConvEquation:
    """Read an equation like "bli,loi->blo" or "blh,ln,nh,on->blo": operands input, kernel[, B, C].

    >>> conv_equation("blh,ln,nh,on->blo", [(2, 9, 4), (5, 3), (3, 4), (6, 3)]).convolve
    'bln,ln->bln'
    """
    if not isinstance(equation, str):
        raise UsageError(f'fft_conv: the equation is a {type(equation).__name__}, not a string like "bli,loi->blo"')
    terms, out = _terms(equation, shapes)
    _check_sizes(equation, terms, shapes)
    time = terms[0][1]
    if time not in terms[1] or time not in out or any(time in term for term in terms[2:]):
        raise ShapeError(
            f"fft_conv: in {equation!r} time is {time!r}, axis 1 of the input: it must be in the kernel and in the "
            "output, and in no other operand"
        )
    x, k, *rest = terms
    into = None
    if rest:
        before = _kept(x + rest[0], k + rest[1] + out)
        x, into = before, f"{x},{rest[0]}->{before}"
    after = _kept(x + k, rest[1] + out) if rest else out
    return ConvEquation(
        into, f"{x},{k}->{after}", f"{after},{rest[1]}->{out}" if rest else None,
        x.index(time), k.index(time), after.index(time), shapes[0][1], min(shapes[1][k.index(time)], shapes[0][1]),
    )  # fmt: skip


def _terms(equation: str, shapes: Sequence[Sequence[int]]) -> tuple[list[str], str]:
    if len(shapes) not in (2, 4):
        raise UsageError(f"fft_conv takes one kernel or the three of (K, B, C) after the input, got {len(shapes) - 1}")
    left, arrow, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or len(terms) != len(shapes) or not all(t.isalpha() and len(set(t)) == len(t) for t in [*terms, out]):
        raise UsageError(
            f"fft_conv: {equation!r} does not fit {len(shapes)} operands: write one term of distinct letters for each "
            'and an output, such as "bli,loi->blo"'
        )
    if not set(out) <= set("".join(terms)):
        raise UsageError(f"fft_conv: the output of {equation!r} has letters that no operand has")
    if len(terms[0]) < 2:
        raise ShapeError(f"fft_conv: the input of {equation!r} has no axis 1 for time")
    return terms, out


def _check_sizes(equation: str, terms: list[str], shapes: Sequence[Sequence[int]]) -> None:
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        if len(term) != len(shape) or 0 in shape:
            raise ShapeError(f"fft_conv: {term!r} of {equation!r} is an operand of shape {tuple(shape)}: ranks differ")
        for letter, size in zip(term, shape, strict=True):
            if letter != terms[0][1] and sizes.setdefault(letter, size) != size:
                raise ShapeError(f"fft_conv: {letter!r} of {equation!r} is {sizes[letter]} and {size}: {shapes}")


def _kept(letters: str, needed: str) -> str:
    return "".join(dict.fromkeys(letter for letter in letters if letter in needed))


def check_spatial(op: str, x: Sequence[int], kernel: Sequence[int], boundary: str, axes: int | None = None) -> None:
    """x (B, *grid, C) with 1 to 3 grid axes and a kernel (C, *taps)."""
    if not 3 <= len(x) <= 5 or 0 in x or axes not in (None, len(x) - 2):
        grids = {None: "(B, L, C), (B, H, W, C) or (B, T, H, W, C)", 2: "(B, H, W, C)"}[axes]
        raise ShapeError(f"{op}: x has shape {tuple(x)}, expected {grids}, none of them 0")
    if len(kernel) != len(x) - 1 or kernel[0] != x[-1] or 0 in kernel:
        raise ShapeError(
            f"{op}: kernel has shape {tuple(kernel)}, expected (C, *taps) with C = {x[-1]} and {len(x) - 2} axes of "
            f"taps for x of shape {tuple(x)}"
        )
    if boundary not in BOUNDARIES:
        raise UsageError(f"unknown boundary {boundary!r} of {op}: use {' or '.join(BOUNDARIES)}")


def check_scan(x: Sequence[int], a: Sequence[int], b: Sequence[int], c: Sequence[int], h0: Sequence[int] | None):
    """Sizes of `opt_ssm_scan`: A (N,) and h0 (B, N) beside x, B_ and C."""
    batch, _, _, states, _ = projection_sizes("opt_ssm_scan", x, b, c)
    if tuple(a) != (states,):
        raise ShapeError(f"opt_ssm_scan: A has shape {tuple(a)}, expected ({states},), the diagonal of the recurrence")
    if h0 is not None and tuple(h0) != (batch, states):
        raise ShapeError(f"opt_ssm_scan: h0 has shape {tuple(h0)}, expected {(batch, states)} (B, N)")


def check_direct(op: str, x: Sequence[int], kernel: Sequence[int], boundary: str) -> None:
    """A circular direct convolution wraps once around the grid."""
    if boundary == "circular" and any(k > n for k, n in zip(kernel[1:], x[1:-1], strict=True)):
        raise ShapeError(
            f"{op}: the kernel {tuple(kernel)} is longer than the grid {tuple(x[1:-1])}, which strategy='direct' does "
            "not fold for boundary='circular': use strategy='fft'"
        )


def check_real(op: str, **dtypes: object) -> None:
    """Refuse what is not real floating."""
    for name, dtype in dtypes.items():
        if str(dtype).removeprefix("torch.") not in DTYPES[:4]:
            raise ShapeError(f"{op}: {name} is {dtype}; it takes {', '.join(DTYPES[:4])}")
