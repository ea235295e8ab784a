"""Compiled kernels inside XLA's CPU programs: one typed FFI handler, written in numba, on XLA's own threads.

A kernel is a function task(frame, number), compiled to C, which reads arrays from XLA's call frame and does
one of the tasks of the call. The handler asks XLA's thread pool for helpers and takes part itself; whoever is free
takes the next task, so a busy pool costs time, never an answer. No array is copied, no compiler or GIL is needed.

Operand 0 of every call is a vector of int32: the kernel's number, its tasks, then what the kernel makes of the others;
operand 4 is complex, and its precision is that of the call.
Layout of the frame: xla/ffi/api/c_api.h, 0.x. Source: the documentation of XLA's foreign function interface.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, no_type_check

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import carray, types  # pyright: ignore[reportPrivateImportUsage]
from numba.extending import intrinsic

from cssm.shared.compiled import callback, inner
from cssm.shared.threads import usable_threads

KERNELS = 8
_table = (ctypes.c_int64 * (2 + 2 * KERNELS))()  # threads, address of the worker, those of float32 and float64 kernels
llvmlite.binding.add_symbol("cssm_cpu_table", ctypes.addressof(_table))
F64, C64, C128 = 12, 15, 18  # XLA_FFI_DataType
OPERANDS, RESULTS = 72, 112  # in a frame: where the addresses of its buffers are
DATA, RANK, DIMS = 24, 32, 40  # in a buffer


def _cast(kind):
    @intrinsic
    def to(typingctx, address):
        def generate(context, builder, sig, args):
            return builder.inttoptr(args[0], context.get_value_type(sig.return_type))

        return types.CPointer(kind)(types.int64), generate

    return to


words_at, ints_at, bytes_at = _cast(types.int64), _cast(types.int32), _cast(types.uint8)


def _cast_like(kinds):
    @intrinsic
    def to(typingctx, address, like):
        def generate(context, builder, sig, args):
            return builder.inttoptr(args[0], context.get_value_type(sig.return_type))

        return types.CPointer(kinds[like])(types.int64, like), generate

    return to


real_at = _cast_like({types.float32: types.float32, types.float64: types.float64})
complex_at = _cast_like({types.float32: types.complex64, types.float64: types.complex128})
_WORD = ir.IntType(64)


@intrinsic
def _table_address(typingctx):
    def generate(context, builder, sig, args):
        found = builder.module.globals.get("cssm_cpu_table")
        if found is None:
            found = ir.GlobalVariable(builder.module, _WORD, "cssm_cpu_table")
        return builder.ptrtoint(found, _WORD)

    return types.int64(), generate


def _of_the_c_library(name: str, words: int, returns: ir.Type):
    """A function of the C library, of no word, one or three; what it returns counts as a word."""

    def generate(context, builder, sig, args):
        kind = ir.FunctionType(returns, [_WORD] * words)
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        found = builder.call(function, args)
        return found if returns == _WORD else context.get_constant(types.int64, 0)

    typings = {
        0: lambda typingctx: (types.int64(), generate),
        1: lambda typingctx, word: (types.int64(types.int64), generate),
        3: lambda typingctx, a, b, c: (types.int64(types.int64, types.int64, types.int64), generate),
    }
    return intrinsic(typings[words])


_malloc = _of_the_c_library("malloc", 1, _WORD)
_free = _of_the_c_library("free", 1, ir.VoidType())
_yield = _of_the_c_library("sched_yield", 0, ir.IntType(32))
_advise = _of_the_c_library("madvise", 3, ir.IntType(32))
LINUX, HUGE_PAGES, HUGE_PAGE = sys.platform == "linux", 14, 1 << 21


@intrinsic
def _call1(typingctx, address, word):
    """The function at an address, of one word."""

    def generate(context, builder, sig, args):
        kind = ir.FunctionType(_WORD, [_WORD]).as_pointer()
        return builder.call(builder.inttoptr(args[0], kind), [args[1]])

    return types.int64(types.int64, types.int64), generate


@intrinsic
def call_task(typingctx, address, first, second):
    """The function at an address, of two words: a task."""

    def generate(context, builder, sig, args):
        kind = ir.FunctionType(_WORD, [_WORD, _WORD]).as_pointer()
        return builder.call(builder.inttoptr(args[0], kind), args[1:])

    return types.int64(types.int64, types.int64, types.int64), generate


@intrinsic
def fetch_add(typingctx, address, amount):
    """Add to a word in memory, atomically; what it was."""

    def generate(context, builder, sig, args):
        pointer = builder.inttoptr(args[0], _WORD.as_pointer())
        return builder.atomic_rmw("add", pointer, args[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


@inner
@no_type_check
def _word(address):
    return carray(words_at(address), (1,))[0]


@inner
@no_type_check
def buffer_of(frame, result, index):
    """The address of the buffer of an operand, or of a result."""
    return _word(_word(frame + (RESULTS if result else OPERANDS)) + 8 * index)


@inner
@no_type_check
def operand(frame, index):
    return buffer_of(frame, False, index)


@inner
@no_type_check
def result(frame, index):
    return buffer_of(frame, True, index)


@inner
@no_type_check
def data_of(buffer):
    return _word(buffer + DATA)


@inner
@no_type_check
def dim_of(buffer, axis):
    return _word(_word(buffer + DIMS) + 8 * axis)


@inner
@no_type_check
def size_of(buffer):
    size = 1
    for axis in range(_word(buffer + RANK)):
        size *= dim_of(buffer, axis)
    return size


@inner
@no_type_check
def dtype_of(buffer):
    return carray(ints_at(buffer + 16), (1,))[0]


@inner
@no_type_check
def _in_large_pages(buffer):
    """Ask for pages of 2 MiB where the memory of a large result is new: one fault in place of 512."""
    bytes_each = 8 if dtype_of(buffer) in (F64, C64) else 16 if dtype_of(buffer) == C128 else 4
    start, size = data_of(buffer), bytes_each * size_of(buffer)
    first, end = (start + HUGE_PAGE - 1) // HUGE_PAGE * HUGE_PAGE, (start + size) // HUGE_PAGE * HUGE_PAGE
    if LINUX and end - first >= 2 * HUGE_PAGE:
        _advise(first, end - first, HUGE_PAGES)


# A call under way, seven words: the next task, tasks, those done, who holds it, the kernel, the frame, failures.


@inner
@no_type_check
def _work(call):
    """Take tasks until none is left; then let go of the call."""
    words = carray(words_at(call), (7,))
    while True:
        number = fetch_add(call, 1)
        if number >= words[1]:
            break
        if call_task(words[4], words[5], number) != 1:
            fetch_add(call + 48, 1)
        fetch_add(call + 16, 1)
    if fetch_add(call + 24, -1) == 1:
        _free(call)
    return 0


@inner
@no_type_check
def _run(frame, kernel, tasks):
    """All tasks, with helpers of XLA's pool where there are any; how many failed."""
    table = carray(words_at(_table_address()), (2,))
    api, context = _word(frame + 16), _word(frame + 24)
    argument = np.zeros(5, np.int64)
    here = np.int64(argument.ctypes.data)
    helpers = 0
    if tasks > 1 and _word(api) >= 152:
        argument[0], argument[2], argument[3] = 32, context, here + 32
        if _call1(_word(api + 144), here) == 0:
            helpers = min(argument[4], table[0], tasks) - 1
    call = _malloc(56)
    words = carray(words_at(call), (7,))
    words[0], words[1], words[2], words[3], words[4], words[5], words[6] = 0, tasks, 0, 2, kernel, frame, 0
    for _ in range(helpers):
        fetch_add(call + 24, 1)
        argument[0], argument[1], argument[2], argument[3], argument[4] = 40, 0, context, table[1], call
        if _call1(_word(api + 136), here) != 0:
            fetch_add(call + 24, -1)
            break
    _work(call)
    while fetch_add(call + 16, 0) < tasks:
        _yield()
    failed = words[6]
    if fetch_add(call + 24, -1) == 1:
        _free(call)
    return failed


@inner
@no_type_check
def _error(frame, code, text):
    api = _word(frame + 16)
    argument = np.zeros(4, np.int64)
    argument[0], argument[2], argument[3] = 28, np.int64(text.ctypes.data), code
    return _call1(_word(api + 48), np.int64(argument.ctypes.data))


@inner
@no_type_check
def _describe(frame):
    """XLA asks for the version at registration: whether this call is that question, answered."""
    extension = _word(frame + 8)
    if extension == 0 or carray(ints_at(extension + 8), (1,))[0] != 1:
        return False
    metadata = _word(extension + 24)
    asked, version = carray(ints_at(_word(frame + 16) + 32), (2,)), carray(ints_at(metadata + 24), (3,))
    version[0], version[1], version[2] = asked[0], asked[1], 0
    carray(words_at(metadata + 40), (1,))[0] = 0
    return True


NO_KERNEL = np.frombuffer(
    b"cssm: a kernel this program calls is not compiled in this process: import cssm first\0", np.uint8
)
FAILED = np.frombuffer(b"cssm: a compiled kernel failed: memory ran out\0", np.uint8)


@inner
@no_type_check
def _handle(frame):
    if _describe(frame):
        return 0
    called, table = (
        carray(ints_at(data_of(operand(frame, 0))), (2,)),
        carray(words_at(_table_address()), (2 + 2 * KERNELS,)),
    )
    kernel = table[2 + 2 * called[0] + (dtype_of(operand(frame, 4)) == C128)]
    if kernel == 0:
        return _error(frame, 13, NO_KERNEL)
    for index in range(_word(frame + 96)):
        _in_large_pages(result(frame, index))
    if _run(frame, kernel, called[1]) > 0:
        return _error(frame, 8, FAILED)
    return 0


def handler_address() -> int:
    """Of the compiled handler, for XLA to call; its worker and the number of threads are made known first."""
    worker, handler = (callback(types.int64(types.int64), function.py_func) for function in (_work, _handle))
    _kept.extend((worker, handler))
    _table[0], _table[1] = usable_threads(), worker.address
    return int(handler.address or 0)


_kept: list[Any] = []


def enter(number: int, double: bool, task: Any) -> None:
    """Make the kernel of that number known to the handler: task(frame, number of the task) -> 1."""
    place = 2 + 2 * number + double
    if not _table[place]:
        function = callback(types.int64(types.int64, types.int64), task)
        _kept.append(function)
        _table[place] = function.address


@contextmanager
def limited_to(threads: int) -> Iterator[None]:
    """Kernels called inside take at most so many threads; their number at other times is that of the process."""
    before = _table[0]
    _table[0] = min(threads, before)
    try:
        yield
    finally:
        _table[0] = before


def address_of(number: int, double: bool) -> int:
    """Of a kernel that was entered."""
    return int(_table[2 + 2 * number + double])
