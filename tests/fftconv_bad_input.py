"""Calls of the FFT convolutions that must be refused, for both faces: (call of (face, ones), error, what it says)."""

from cssm.core.errors import ShapeError, UsageError

SQUARE = ((2, 4, 3), (4, 4), (4, 3), (2, 4))
FITTING = ((2, 5, 3), (5, 4), (4, 3), (2, 4))


def ssm(*shapes, **options):
    return lambda face, ones: face.opt_ssm_forward(*map(ones, shapes), **options)


def scan(*shapes):
    return lambda face, ones: face.opt_ssm_scan(*map(ones, shapes))


def conv(equation, *shapes):
    return lambda face, ones: face.fft_conv(equation, *map(ones, shapes))


def spatial(x, kernel, **options):
    return lambda face, ones: face.fft_conv_nd(ones(x), ones(kernel), **options)


BAD = {
    "unknown_layout": (ssm(*SQUARE, kernel_layout="nl"), UsageError, "'nl'.*length_first"),
    "other_layout": (ssm(*FITTING, kernel_layout="state_first"), ShapeError, "state_first"),
    "full_kernel": (ssm((2, 5, 3), (5, 2, 3), (4, 3), (2, 4)), ShapeError, "fft_conv"),
    "no_states": (ssm((2, 5, 3), (5, 7), (4, 3), (2, 4)), ShapeError, "N = 4"),
    "no_steps": (ssm((2, 0, 3), (5, 4), (4, 3), (2, 4)), ShapeError, "x has shape"),
    "other_b": (ssm((2, 5, 3), (5, 4), (4, 2), (2, 4)), ShapeError, r"B_ has shape \(4, 2\), expected \(N, 3\)"),
    "other_c": (ssm((2, 5, 3), (5, 4), (4, 3), (2, 5)), ShapeError, r"C has shape \(2, 5\)"),
    "unknown_strategy": (ssm(*FITTING, strategy="magic"), UsageError, "'magic'.*projection"),
    "integer_ssm": (
        lambda face, ones: face.opt_ssm_forward(ones(FITTING[0], int), *map(ones, FITTING[1:])), ShapeError,
        "x is .*int",
    ),
    "scan_a": (scan((2, 5, 3), (5, 4), (4, 3), (2, 4)), ShapeError, r"A has shape \(5, 4\)"),
    "scan_h0": (scan((2, 5, 3), (4,), (4, 3), (2, 4), (2, 5)), ShapeError, "h0"),
    "scan_integer": (
        lambda face, ones: face.opt_ssm_scan(ones((2, 5, 3)), ones((4,), int), ones((4, 3)), ones((2, 4))), ShapeError,
        "A is .*int",
    ),
    "no_equation": (lambda face, ones: face.fft_conv(*[ones((2, 5, 3))] * 3), UsageError, "not a string like"),
    "no_kernel": (conv("bli->bli", (2, 5, 3)), UsageError, "got 0"),
    "two_arguments": (conv("bln,ln,nh->blh", (2, 5, 3), (5, 3), (3, 2)), UsageError, "got 2"),
    "no_output": (conv("bli,loi", (2, 5, 3), (5, 2, 3)), UsageError, "does not fit"),
    "diagonal": (conv("bll,lo->blo", (2, 5, 5), (5, 2)), UsageError, "distinct"),
    "unknown_output": (conv("bli,loi->blz", (2, 5, 3), (5, 2, 3)), UsageError, "no operand has"),
    "rank": (conv("bli,loi->blo", (2, 5, 3), (5, 3)), ShapeError, "ranks differ"),
    "letter_sizes": (conv("bli,loi->blo", (2, 5, 3), (5, 2, 4)), ShapeError, "'i'.*3 and 4"),
    "time_lost": (conv("bli,loi->bo", (2, 5, 3), (5, 2, 3)), ShapeError, "time is 'l'"),
    "time_not_in_kernel": (conv("bli,oi->blo", (2, 5, 3), (2, 3)), ShapeError, "time is 'l'"),
    "integer_conv": (
        lambda face, ones: face.fft_conv("bli,li->bli", ones((2, 5, 3)), ones((5, 3), int)), ShapeError, "operand 1"
    ),
    "kernel_of_other_channels": (spatial((2, 5, 5, 3), (4, 3, 3)), ShapeError, "C = 3"),
    "kernel_of_other_rank": (spatial((2, 5, 5, 3), (3, 3)), ShapeError, "2 axes of taps"),
    "four_axes": (spatial((2, 3, 3, 3, 3, 3), (3, 3, 3, 3, 3)), ShapeError, "x has shape"),
    "empty_grid": (spatial((2, 0, 5, 3), (3, 3, 3)), ShapeError, "none of them 0"),
    "unknown_boundary": (spatial((2, 5, 5, 3), (3, 3, 3), boundary="same"), UsageError, "'same'.*circular"),
    "unknown_spatial": (spatial((2, 5, 5, 3), (3, 3, 3), strategy="winograd"), UsageError, "'winograd'.*direct"),
    "longer_than_the_grid": (
        spatial((2, 5, 5, 3), (3, 7, 3), boundary="circular", strategy="direct"), ShapeError, "longer than the grid"
    ),
    "signal_as_image": (
        lambda face, ones: face.fft_conv2d(ones((2, 5, 3)), ones((3, 3))), ShapeError, r"\(B, H, W, C\)"
    ),
    "integer_image": (
        lambda face, ones: face.fft_conv2d(ones((2, 5, 5, 3), int), ones((3, 3, 3))), ShapeError, "x is .*int"
    ),
    "complex_image": (
        lambda face, ones: face.fft_conv2d(ones((2, 5, 5, 3)), ones((3, 3, 3), complex)), ShapeError,
        "kernel is .*complex",
    ),
}  # fmt: skip
