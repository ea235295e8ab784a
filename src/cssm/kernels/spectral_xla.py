"""The tasks of `spectral_cpu` as XLA's call frames give them their arrays.

Operands: numbers (int32: kernel, source, every_frame, reverse, totals, slopes, work), then those of
`ops/spectral/native.py`, in its order; results likewise.
"""

from typing import no_type_check

from numba import carray  # pyright: ignore[reportPrivateImportUsage]

from cssm.shared.compiled import compiled
from cssm.shared.spectral import GRADIENT, SCAN, TO_SPACE, TO_SPECTRUM

from . import xla_cpu
from .spectral_cpu import kernel_gradient, scan, to_space, to_spectrum
from .xla_cpu import _c64, _c128, _f32, _f64, _i32, _u8, buffer_of, data_of, dim_of, size_of


@compiled
@no_type_check
def _bytes(frame, index):
    buffer = buffer_of(frame, False, index)
    return carray(_u8(data_of(buffer)), (size_of(buffer),))


@compiled
@no_type_check
def _stages(frame, index):
    buffer = buffer_of(frame, False, index)
    return carray(_i32(data_of(buffer)), (dim_of(buffer, 0), 2))


@compiled
@no_type_check
def _places(frame, index):
    buffer = buffer_of(frame, False, index)
    return carray(_i32(data_of(buffer)), (size_of(buffer),))


@compiled
@no_type_check
def _single_reals(frame, result, index):
    """An array of real or complex numbers, as reals."""
    buffer = buffer_of(frame, result, index)
    return carray(_f32(data_of(buffer)), (size_of(buffer),))


@compiled
@no_type_check
def _single_pairs(frame, result, index):
    """An array of complex numbers, as pairs of reals."""
    buffer = buffer_of(frame, result, index)
    return carray(_f32(data_of(buffer)), (2 * size_of(buffer),))


@compiled
@no_type_check
def _single_rotations(frame, index):
    buffer = buffer_of(frame, False, index)
    return carray(_c64(data_of(buffer)), (size_of(buffer),))


@no_type_check
def _scan_single(frame, task):
    numbers = carray(_i32(data_of(buffer_of(frame, False, 0))), (7,))
    x, state = buffer_of(frame, False, 1), buffer_of(frame, False, 4)
    scan(
        task, _single_reals(frame, False, 1), _single_pairs(frame, False, 2), _single_pairs(frame, False, 3),
        _single_pairs(frame, False, 4), _bytes(frame, 5), _single_reals(frame, True, 0), _single_pairs(frame, True, 1),
        _single_pairs(frame, True, 2), _single_pairs(frame, True, 3), _single_pairs(frame, True, 4),
        dim_of(x, 0), dim_of(x, 1), dim_of(x, 2), dim_of(x, 3), dim_of(state, 1),
        numbers[1], numbers[2], numbers[3], numbers[4], numbers[5],
        _stages(frame, 6), _single_rotations(frame, 7), _places(frame, 8), numbers[6],
        _stages(frame, 9), _single_rotations(frame, 10), _places(frame, 11),
    )  # fmt: skip
    return 1


@no_type_check
def _gradient_single(frame, task):
    numbers = carray(_i32(data_of(buffer_of(frame, False, 0))), (7,))
    x = buffer_of(frame, False, 1)
    kernel_gradient(
        task, _single_reals(frame, False, 1), _single_reals(frame, False, 2), _single_pairs(frame, False, 3),
        _single_pairs(frame, False, 4), _single_pairs(frame, False, 12), _bytes(frame, 5),
        _single_pairs(frame, True, 0),
        dim_of(x, 0), dim_of(x, 1), dim_of(x, 2), dim_of(x, 3), dim_of(x, 4),
        _stages(frame, 6), _single_rotations(frame, 7), _places(frame, 8), numbers[6],
        _stages(frame, 9), _single_rotations(frame, 10), _places(frame, 11),
    )  # fmt: skip
    return 1


@compiled
@no_type_check
def _double_reals(frame, result, index):
    """An array of real or complex numbers, as reals."""
    buffer = buffer_of(frame, result, index)
    return carray(_f64(data_of(buffer)), (size_of(buffer),))


@compiled
@no_type_check
def _double_pairs(frame, result, index):
    """An array of complex numbers, as pairs of reals."""
    buffer = buffer_of(frame, result, index)
    return carray(_f64(data_of(buffer)), (2 * size_of(buffer),))


@compiled
@no_type_check
def _double_rotations(frame, index):
    buffer = buffer_of(frame, False, index)
    return carray(_c128(data_of(buffer)), (size_of(buffer),))


@no_type_check
def _scan_double(frame, task):
    numbers = carray(_i32(data_of(buffer_of(frame, False, 0))), (7,))
    x, state = buffer_of(frame, False, 1), buffer_of(frame, False, 4)
    scan(
        task, _double_reals(frame, False, 1), _double_pairs(frame, False, 2), _double_pairs(frame, False, 3),
        _double_pairs(frame, False, 4), _bytes(frame, 5), _double_reals(frame, True, 0), _double_pairs(frame, True, 1),
        _double_pairs(frame, True, 2), _double_pairs(frame, True, 3), _double_pairs(frame, True, 4),
        dim_of(x, 0), dim_of(x, 1), dim_of(x, 2), dim_of(x, 3), dim_of(state, 1),
        numbers[1], numbers[2], numbers[3], numbers[4], numbers[5],
        _stages(frame, 6), _double_rotations(frame, 7), _places(frame, 8), numbers[6],
        _stages(frame, 9), _double_rotations(frame, 10), _places(frame, 11),
    )  # fmt: skip
    return 1


@no_type_check
def _gradient_double(frame, task):
    numbers = carray(_i32(data_of(buffer_of(frame, False, 0))), (7,))
    x = buffer_of(frame, False, 1)
    kernel_gradient(
        task, _double_reals(frame, False, 1), _double_reals(frame, False, 2), _double_pairs(frame, False, 3),
        _double_pairs(frame, False, 4), _double_pairs(frame, False, 12), _bytes(frame, 5),
        _double_pairs(frame, True, 0),
        dim_of(x, 0), dim_of(x, 1), dim_of(x, 2), dim_of(x, 3), dim_of(x, 4),
        _stages(frame, 6), _double_rotations(frame, 7), _places(frame, 8), numbers[6],
        _stages(frame, 9), _double_rotations(frame, 10), _places(frame, 11),
    )  # fmt: skip
    return 1


@no_type_check
def _to_spectrum_single(frame, task):
    numbers, owner = carray(_i32(data_of(buffer_of(frame, False, 0))), (7,)), buffer_of(frame, False, 4)
    x = buffer_of(frame, False, 1)
    to_spectrum(
        task, _single_reals(frame, False, 1), _single_pairs(frame, True, 0),
        dim_of(owner, 0), dim_of(x, 1), dim_of(x, 2), dim_of(owner, 1),
        _stages(frame, 6), _single_rotations(frame, 7), _places(frame, 8), numbers[6],
        _stages(frame, 9), _single_rotations(frame, 10), _places(frame, 11),
    )  # fmt: skip
    return 1


@no_type_check
def _to_space_single(frame, task):
    numbers, owner = carray(_i32(data_of(buffer_of(frame, False, 0))), (7,)), buffer_of(frame, False, 4)
    y = buffer_of(frame, True, 0)
    to_space(
        task, _single_pairs(frame, False, 4), _single_reals(frame, True, 0),
        dim_of(owner, 0), dim_of(y, 1), dim_of(y, 2), dim_of(owner, 1),
        _stages(frame, 6), _single_rotations(frame, 7), _places(frame, 8), numbers[6],
        _stages(frame, 9), _single_rotations(frame, 10), _places(frame, 11),
    )  # fmt: skip
    return 1


@no_type_check
def _to_spectrum_double(frame, task):
    numbers, owner = carray(_i32(data_of(buffer_of(frame, False, 0))), (7,)), buffer_of(frame, False, 4)
    x = buffer_of(frame, False, 1)
    to_spectrum(
        task, _double_reals(frame, False, 1), _double_pairs(frame, True, 0),
        dim_of(owner, 0), dim_of(x, 1), dim_of(x, 2), dim_of(owner, 1),
        _stages(frame, 6), _double_rotations(frame, 7), _places(frame, 8), numbers[6],
        _stages(frame, 9), _double_rotations(frame, 10), _places(frame, 11),
    )  # fmt: skip
    return 1


@no_type_check
def _to_space_double(frame, task):
    numbers, owner = carray(_i32(data_of(buffer_of(frame, False, 0))), (7,)), buffer_of(frame, False, 4)
    y = buffer_of(frame, True, 0)
    to_space(
        task, _double_pairs(frame, False, 4), _double_reals(frame, True, 0),
        dim_of(owner, 0), dim_of(y, 1), dim_of(y, 2), dim_of(owner, 1),
        _stages(frame, 6), _double_rotations(frame, 7), _places(frame, 8), numbers[6],
        _stages(frame, 9), _double_rotations(frame, 10), _places(frame, 11),
    )  # fmt: skip
    return 1


KERNELS = {
    SCAN: (_scan_single, _scan_double), GRADIENT: (_gradient_single, _gradient_double),
    TO_SPECTRUM: (_to_spectrum_single, _to_spectrum_double), TO_SPACE: (_to_space_single, _to_space_double),
}  # fmt: skip


def enter(number: int, double: bool) -> None:
    """Compile the kernel of that number, or load it, and make it known to XLA's handler."""
    xla_cpu.enter(number, double, KERNELS[number][double])
