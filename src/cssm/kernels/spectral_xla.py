"""The tasks of `spectral_cpu` as XLA's call frames give them their arrays.

Operands: numbers (int32: kernel, tasks, and what the kernel is told), then x, given, spectrum,
state, reset, the plans of rows and of columns (stages, rotations, place each), and for the scan seen and before;
results as there. Those of `spectral_lifted`: see `_lifted` and `_lifted_adjoint`.
"""

from typing import no_type_check

import numpy as np
from numba import carray  # pyright: ignore[reportPrivateImportUsage]

from cssm.shared.compiled import inner
from cssm.shared.spectral import CELLS, CELLS_BACK, LIFTED, LIFTED_ADJOINT, NUMBERS, SCAN, TO_SPACE, TO_SPECTRUM

from . import xla_cpu
from .spectral_cell import cells, cells_back
from .spectral_cpu import scan, to_space, to_spectrum
from .spectral_lifted import lifted, lifted_adjoint
from .xla_cpu import bytes_at, complex_at, data_of, dim_of, ints_at, operand, real_at, result, size_of

SINGLE, DOUBLE = np.float32(0), np.float64(0)


@inner
@no_type_check
def _reals(buffer, like):
    """An array of real numbers, or of none, of the precision of `like`."""
    return carray(real_at(data_of(buffer), like), (size_of(buffer),))


@inner
@no_type_check
def _pairs(buffer, like):
    """An array of complex numbers, as pairs of reals."""
    return carray(real_at(data_of(buffer), like), (2 * size_of(buffer),))


@inner
@no_type_check
def _numbers(frame):
    return carray(ints_at(data_of(operand(frame, 0))), (NUMBERS,))


@inner
@no_type_check
def _plan(frame, first, like):
    """Stages, rotations and places."""
    stages, rotations, place = operand(frame, first), operand(frame, first + 1), operand(frame, first + 2)
    return (
        carray(ints_at(data_of(stages)), (dim_of(stages, 0), 2)),
        carray(complex_at(data_of(rotations), like), (size_of(rotations),)),
        carray(ints_at(data_of(place)), (size_of(place),)),
    )


@inner
@no_type_check
def _scan(frame, task, like):
    numbers, x, state, reset = _numbers(frame), operand(frame, 1), operand(frame, 4), operand(frame, 5)
    scan(
        task, _reals(x, like), _pairs(operand(frame, 2), like), _pairs(operand(frame, 3), like), _pairs(state, like),
        carray(bytes_at(data_of(reset)), (size_of(reset),)), _reals(operand(frame, 12), like),
        _pairs(operand(frame, 13), like), _reals(result(frame, 0), like), _pairs(result(frame, 1), like),
        _pairs(result(frame, 2), like), _pairs(result(frame, 3), like), _pairs(result(frame, 4), like),
        dim_of(x, 0), dim_of(x, 1), (dim_of(x, 2), dim_of(x, 3), dim_of(state, 1)),
        numbers[2], numbers[3], numbers[4], numbers[5], numbers[6],
        _plan(frame, 6, like), _plan(frame, 9, like), numbers[7],
    )  # fmt: skip
    return 1


@inner
@no_type_check
def _to_spectrum(frame, task, like):
    x, owner = operand(frame, 1), operand(frame, 4)
    to_spectrum(
        task, _reals(x, like), _pairs(result(frame, 0), like),
        dim_of(owner, 0), (dim_of(x, 1), dim_of(x, 2), dim_of(owner, 1)),
        _plan(frame, 6, like), _plan(frame, 9, like), _numbers(frame)[7],
    )  # fmt: skip
    return 1


@inner
@no_type_check
def _to_space(frame, task, like):
    y, owner = result(frame, 0), operand(frame, 4)
    to_space(
        task, _pairs(owner, like), _reals(y, like),
        dim_of(owner, 0), (dim_of(y, 1), dim_of(y, 2), dim_of(owner, 1)),
        _plan(frame, 6, like), _plan(frame, 9, like), _numbers(frame)[7],
    )  # fmt: skip
    return 1


@inner
@no_type_check
def _lifted(frame, task, like):
    """Operands: numbers, lift, inputs, spectrum, state; results: final, total, slope, slope_total."""
    numbers, inputs, state = _numbers(frame), operand(frame, 2), operand(frame, 4)
    lifted(
        task, _pairs(inputs, like), _reals(operand(frame, 1), like), _pairs(operand(frame, 3), like),
        _pairs(state, like), _pairs(result(frame, 0), like), _pairs(result(frame, 1), like),
        _pairs(result(frame, 2), like), _pairs(result(frame, 3), like),
        dim_of(inputs, 0), dim_of(inputs, 1), dim_of(inputs, 2), dim_of(state, 1), dim_of(inputs, 3), numbers[2],
    )  # fmt: skip
    return 1


@inner
@no_type_check
def _lifted_adjoint(frame, task, like):
    """Operands: numbers, given, inputs, spectrum, last; results: before, products."""
    numbers, inputs, last = _numbers(frame), operand(frame, 2), operand(frame, 4)
    lifted_adjoint(
        task, _pairs(inputs, like), _pairs(operand(frame, 3), like),
        _pairs(last, like), _pairs(operand(frame, 1), like),
        _pairs(result(frame, 0), like), _reals(result(frame, 1), like),
        dim_of(inputs, 0), dim_of(inputs, 1), dim_of(inputs, 2), dim_of(last, 1), dim_of(inputs, 3), numbers[2],
    )  # fmt: skip
    return 1


@inner
@no_type_check
def _frame_of(x, state):
    """Frames, and (H, W, C)."""
    return dim_of(x, 1), (dim_of(x, 2), dim_of(x, 3), dim_of(state, 2))


@inner
@no_type_check
def _counts(numbers):
    return numbers[7], numbers[8], numbers[9], numbers[10], numbers[11], numbers[12]


@inner
@no_type_check
def _marks(buffer):
    return carray(bytes_at(data_of(buffer)), (size_of(buffer),))


@inner
@no_type_check
def _cells(frame, task, like):
    """Operands: numbers, x, planes, gates, state, statics, the plans, reset, constants; results: y, final, starts."""
    numbers, x, state = _numbers(frame), operand(frame, 1), operand(frame, 4)
    steps, shape = _frame_of(x, state)
    cells(
        task, _reals(x, like), _reals(operand(frame, 2), like), _reals(operand(frame, 3), like),
        _pairs(operand(frame, 5), like), _pairs(state, like), _marks(operand(frame, 12)),
        _reals(operand(frame, 13), like), _reals(result(frame, 0), like), _pairs(result(frame, 1), like),
        _reals(result(frame, 2), like), steps, shape, numbers[2], numbers[3], _counts(numbers), numbers[4],
        numbers[5], _plan(frame, 6, like), _plan(frame, 9, like), numbers[6],
    )  # fmt: skip
    return 1


@inner
@no_type_check
def _cells_back(frame, task, like):
    """Operands: numbers, x, planes, gates, last, statics, the plans, reset, constants, starts, given; results: those of
    x, planes, gates, statics and state."""
    numbers, x, last = _numbers(frame), operand(frame, 1), operand(frame, 4)
    steps, shape = _frame_of(x, last)
    cells_back(
        task, _reals(x, like), _reals(operand(frame, 2), like), _reals(operand(frame, 3), like),
        _pairs(operand(frame, 5), like), _pairs(last, like), _marks(operand(frame, 12)),
        _reals(operand(frame, 13), like), _reals(operand(frame, 14), like), _reals(operand(frame, 15), like),
        _reals(result(frame, 0), like), _reals(result(frame, 1), like), _reals(result(frame, 2), like),
        _pairs(result(frame, 3), like), _pairs(result(frame, 4), like), steps, shape, numbers[2], numbers[3],
        _counts(numbers), numbers[4], numbers[5], _plan(frame, 6, like), _plan(frame, 9, like), numbers[6],
    )  # fmt: skip
    return 1


@no_type_check
def _scan_single(frame, task):
    return _scan(frame, task, SINGLE)


@no_type_check
def _scan_double(frame, task):
    return _scan(frame, task, DOUBLE)


@no_type_check
def _to_spectrum_single(frame, task):
    return _to_spectrum(frame, task, SINGLE)


@no_type_check
def _to_spectrum_double(frame, task):
    return _to_spectrum(frame, task, DOUBLE)


@no_type_check
def _to_space_single(frame, task):
    return _to_space(frame, task, SINGLE)


@no_type_check
def _to_space_double(frame, task):
    return _to_space(frame, task, DOUBLE)


@no_type_check
def _lifted_single(frame, task):
    return _lifted(frame, task, SINGLE)


@no_type_check
def _lifted_double(frame, task):
    return _lifted(frame, task, DOUBLE)


@no_type_check
def _lifted_adjoint_single(frame, task):
    return _lifted_adjoint(frame, task, SINGLE)


@no_type_check
def _lifted_adjoint_double(frame, task):
    return _lifted_adjoint(frame, task, DOUBLE)


@no_type_check
def _cells_single(frame, task):
    return _cells(frame, task, SINGLE)


@no_type_check
def _cells_double(frame, task):
    return _cells(frame, task, DOUBLE)


@no_type_check
def _cells_back_single(frame, task):
    return _cells_back(frame, task, SINGLE)


@no_type_check
def _cells_back_double(frame, task):
    return _cells_back(frame, task, DOUBLE)


KERNELS = {
    SCAN: (_scan_single, _scan_double), TO_SPECTRUM: (_to_spectrum_single, _to_spectrum_double),
    TO_SPACE: (_to_space_single, _to_space_double), LIFTED: (_lifted_single, _lifted_double),
    LIFTED_ADJOINT: (_lifted_adjoint_single, _lifted_adjoint_double), CELLS: (_cells_single, _cells_double),
    CELLS_BACK: (_cells_back_single, _cells_back_double),
}  # fmt: skip


def enter(number: int, double: bool) -> None:
    """Compile the kernel of that number, or load it, and make it known to XLA's handler."""
    xla_cpu.enter(number, double, KERNELS[number][double])
