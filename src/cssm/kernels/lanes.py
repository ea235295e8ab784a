"""Complex numbers of many channels at once, as one value in numba: 64 bytes of real parts and 64 of imaginary parts.

LLVM splits them into the registers there are. An array z (float32 or float64, one axis) holds such a number at offset i
as z[i : i + lanes] real and z[i + lanes : i + 2 lanes] imaginary, lanes = 16 or 8. In compiled functions:

    a, b = load(z, i), load(z, i + 2 * lane_count(z))
    store(z, i, a + b * 0.5 - times(b, w))            # w a complex number of NumPy, the same for all lanes

Numbers may be contracted to fused multiply-adds, never reordered: results do not depend on where the lanes came from.
"""

import operator
import platform

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, make_attribute_wrapper, register_model

BYTES = 64  # of real parts: a cache line
X86 = platform.machine() in ("x86_64", "AMD64")
FLAGS = ("contract",)


class Real(types.Type):
    """One real number in every lane."""

    def __init__(self, scalar: types.Float):
        self.scalar, self.count = scalar, BYTES * 8 // scalar.bitwidth
        super().__init__(name=f"real lanes({scalar} x {self.count})")

    @property
    def vector(self) -> ir.VectorType:
        return ir.VectorType(ir.FloatType() if self.scalar.bitwidth == 32 else ir.DoubleType(), self.count)


class Complex(types.Type):
    """One complex number in every lane."""

    def __init__(self, real: Real):
        self.real = real
        super().__init__(name=f"complex {real.name}")


@register_model(Real)
class _RealModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, kind.vector)


@register_model(Complex)
class _ComplexModel(models.StructModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, [("re", kind.real), ("im", kind.real)])


make_attribute_wrapper(Complex, "re", "re")
make_attribute_wrapper(Complex, "im", "im")


def _parts(context, builder, kind, value):
    proxy = cgutils.create_struct_proxy(kind)(context, builder, value=value)
    return proxy.re, proxy.im


def _complex(context, builder, kind, re, im):
    proxy = cgutils.create_struct_proxy(kind)(context, builder)
    proxy.re, proxy.im = re, im
    return proxy._getvalue()


def _splat(builder, kind: Real, value):
    undefined = ir.Constant(kind.vector, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), kind.count), None))


def _arithmetic(op, instruction: str) -> None:
    """op between lanes of one kind, and between lanes and a number of their precision."""

    @infer_global(op)  # pyright: ignore[reportOptionalCall]
    class Typing(AbstractTemplate):
        def generic(self, args, kws):
            if len(args) != 2 or not any(isinstance(a, (Real, Complex)) for a in args):
                return None
            wide = next((a for a in args if isinstance(a, Complex)), None) or next(
                a for a in args if isinstance(a, Real)
            )
            real = wide.real if isinstance(wide, Complex) else wide
            fits = all(a in (wide, real) or isinstance(a, types.Float) for a in args)
            return signature(wide, *args) if fits else None

    def lower(context, builder, sig, args):
        run = lambda a, b: getattr(builder, instruction)(a, b, flags=FLAGS)  # noqa: E731
        kind = sig.return_type
        real = kind.real if isinstance(kind, Complex) else kind
        scalar = lambda v, t: _splat(builder, real, context.cast(builder, v, t, real.scalar))  # noqa: E731
        values = [scalar(v, t) if isinstance(t, types.Float) else v for v, t in zip(args, sig.args, strict=True)]
        if isinstance(kind, Real):
            return run(*values)
        both = [t == kind for t in sig.args]
        parts = [_parts(context, builder, kind, v) if c else (v, v) for v, c in zip(values, both, strict=True)]
        if not all(both) and op is not operator.mul:
            raise NotImplementedError("complex lanes plus a real number")
        if all(both) and op is operator.mul:
            (ar, ai), (br, bi) = parts
            minus, plus = (
                lambda a, b: builder.fsub(a, b, flags=FLAGS), lambda a, b: builder.fadd(a, b, flags=FLAGS)
            )  # fmt: skip
            return _complex(context, builder, kind, minus(run(ar, br), run(ai, bi)), plus(run(ar, bi), run(ai, br)))
        (ar, ai), (br, bi) = parts
        return _complex(context, builder, kind, run(ar, br), run(ai, bi))

    for left, right in (
        (Real, Real), (Real, types.Float), (types.Float, Real), (Complex, Complex), (Complex, Real), (Real, Complex),
        (Complex, types.Float), (types.Float, Complex),
    ):  # fmt: skip
        lower_builtin(op, left, right)(lower)


for _op, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    _arithmetic(_op, _instruction)


def _at(context, builder, array_type, array, index, kind: Real):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), kind.vector.as_pointer())


def _aligned(instruction, kind: Real):
    instruction.align = kind.scalar.bitwidth // 8
    return instruction


@intrinsic
def lane_count(typingctx, z):
    """Lanes of what `load` reads from the array z."""
    count = Real(z.dtype).count
    return types.intp(z), lambda context, builder, sig, args: context.get_constant(types.intp, count)


@intrinsic
def load_real(typingctx, z, i):
    """z[i : i + lanes]. No bounds are checked."""
    kind = Real(z.dtype)

    def generate(context, builder, sig, args):
        return _aligned(builder.load(_at(context, builder, sig.args[0], args[0], args[1], kind)), kind)

    return kind(z, types.intp), generate


@intrinsic
def store_real(typingctx, z, i, value):
    """z[i : i + lanes] = value."""

    def generate(context, builder, sig, args):
        _aligned(builder.store(args[2], _at(context, builder, sig.args[0], args[0], args[1], value)), value)
        return context.get_dummy_value()

    return types.void(z, types.intp, value), generate


@intrinsic
def stream_real(typingctx, z, i, value):
    """`store_real` past the caches; the address is a multiple of 64. `drain` before another thread reads it."""

    def generate(context, builder, sig, args):
        written = builder.store(args[2], _at(context, builder, sig.args[0], args[0], args[1], value))
        written.align = BYTES
        written.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(z, types.intp, value), generate


@intrinsic
def drain(typingctx):
    """Wait for all of `stream_real`."""

    def generate(context, builder, sig, args):
        if X86:
            kind, full = ir.FunctionType(ir.VoidType(), []), "llvm.x86.sse.sfence"
            builder.call(builder.module.globals.get(full) or ir.Function(builder.module, kind, full), [])
        else:
            builder.fence("release")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def transpose(typingctx, z):
    """z[: lanes * lanes], lanes rows of lanes numbers, in place: by exchanging halves, quarters, ... of rows."""
    kind = Real(z.dtype)

    def generate(context, builder, sig, args):
        place = lambda row: context.get_constant(types.intp, row * kind.count)  # noqa: E731
        at = [_at(context, builder, sig.args[0], args[0], place(row), kind) for row in range(kind.count)]
        rows = [_aligned(builder.load(pointer), kind) for pointer in at]
        step = 1
        while step < kind.count:
            lanes = range(kind.count)
            first = [lane if not lane & step else kind.count + lane - step for lane in lanes]
            second = [lane + step if not lane & step else kind.count + lane for lane in lanes]
            for row in (row for row in lanes if not row & step):
                a, b = rows[row], rows[row + step]
                rows[row], rows[row + step] = (builder.shuffle_vector(a, b, _mask(m)) for m in (first, second))
            step *= 2
        for pointer, row in zip(at, rows, strict=True):
            _aligned(builder.store(row, pointer), kind)
        return context.get_dummy_value()

    return types.void(z), generate


def _mask(lanes: list[int]):
    return ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)


@intrinsic
def load(typingctx, z, i):
    """The complex number at offset i."""
    kind = Real(z.dtype)

    def generate(context, builder, sig, args):
        count = context.get_constant(types.intp, kind.count)
        at = [args[1], builder.add(args[1], count)]
        parts = [_aligned(builder.load(_at(context, builder, sig.args[0], args[0], k, kind)), kind) for k in at]
        return _complex(context, builder, sig.return_type, *parts)

    return Complex(kind)(z, types.intp), generate


@intrinsic
def store(typingctx, z, i, value):
    """Write the complex number at offset i."""
    kind = value.real

    def generate(context, builder, sig, args):
        at = [args[1], builder.add(args[1], context.get_constant(types.intp, kind.count))]
        for k, part in zip(at, _parts(context, builder, value, args[2]), strict=True):
            _aligned(builder.store(part, _at(context, builder, sig.args[0], args[0], k, kind)), kind)
        return context.get_dummy_value()

    return types.void(z, types.intp, value), generate


@intrinsic
def prefetch(typingctx, z, i):
    """Ask for the cache line of z[i], which may lie outside."""

    def generate(context, builder, sig, args):
        word, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
        kind, full = ir.FunctionType(ir.VoidType(), [pointer, word, word, word]), "llvm.prefetch.p0i8"
        function = builder.module.globals.get(full) or ir.Function(builder.module, kind, full)
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        builder.call(function, [builder.bitcast(builder.gep(data, [args[1]]), pointer), word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(z, types.intp), generate


@intrinsic
def number(typingctx, z, i):
    """z[i] without a look at its sign: an index below zero is not one from the end."""

    def generate(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return context.unpack_value(builder, z.dtype, builder.gep(data, [args[1]]))

    return z.dtype(z, types.intp), generate


@intrinsic
def zero(typingctx, z):
    """0 + 0i in every lane, of the precision of z."""
    kind = Real(z.dtype)

    def generate(context, builder, sig, args):
        none = ir.Constant(kind.vector, None)
        return _complex(context, builder, sig.return_type, none, none)

    return Complex(kind)(z), generate


@intrinsic
def join(typingctx, re, im):
    """re + i im of two real lanes."""
    return Complex(re)(re, im), lambda context, builder, sig, args: _complex(context, builder, sig.return_type, *args)


@intrinsic
def swap(typingctx, a):
    """im + i re: the inverse transform is the transform between two swaps."""

    def generate(context, builder, sig, args):
        return _complex(context, builder, a, *_parts(context, builder, a, args[0])[::-1])

    return a(a), generate


@intrinsic
def conj(typingctx, a):
    """re - i im."""

    def generate(context, builder, sig, args):
        re, im = _parts(context, builder, a, args[0])
        return _complex(context, builder, a, re, builder.fneg(im))

    return a(a), generate


@intrinsic
def times_minus_i(typingctx, a):
    """-i a."""

    def generate(context, builder, sig, args):
        re, im = _parts(context, builder, a, args[0])
        return _complex(context, builder, a, im, builder.fneg(re))

    return a(a), generate


@intrinsic
def times(typingctx, a, w):
    """a w for w one complex number, the same for all lanes."""

    def generate(context, builder, sig, args):
        (re, im), number = _parts(context, builder, a, args[0]), context.make_complex(builder, w, args[1])
        wr, wi = _splat(builder, a.real, number.real), _splat(builder, a.real, number.imag)
        mul = lambda x, y: builder.fmul(x, y, flags=FLAGS)  # noqa: E731
        real = builder.fsub(mul(re, wr), mul(im, wi), flags=FLAGS)
        return _complex(context, builder, a, real, builder.fadd(mul(re, wi), mul(im, wr), flags=FLAGS))

    return a(a, w), generate


@intrinsic
def kept(typingctx, a, alive):
    """a in the lanes where alive is not 0, and 0 in the others, whatever a is there."""

    def generate(context, builder, sig, args):
        none = ir.Constant(a.real.vector, None)
        mask = builder.fcmp_unordered("!=", args[1], none)
        parts = [builder.select(mask, part, none) for part in _parts(context, builder, a, args[0])]
        return _complex(context, builder, a, *parts)

    return a(a, alive), generate


@intrinsic
def total(typingctx, a):
    """The sum over lanes of real lanes: halves, quarters, ... are added."""

    def generate(context, builder, sig, args):
        value, count = args[0], a.count
        while count > 1:
            count //= 2
            halves = [builder.shuffle_vector(value, value, _mask([*range(i, i + count)])) for i in (0, count)]
            value = builder.fadd(*halves, flags=FLAGS)
        return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    return a.scalar(a), generate


@intrinsic
def inverse(typingctx, a):
    """1 / a of real lanes."""
    one = lambda builder: _splat(builder, a, ir.Constant(a.vector.element, 1.0))  # noqa: E731
    return a(a), lambda context, builder, sig, args: builder.fdiv(one(builder), args[0])


@intrinsic
def root(typingctx, a):
    """The square root of real lanes."""

    def generate(context, builder, sig, args):
        full = f"llvm.sqrt.v{a.count}f{a.scalar.bitwidth}"
        function = builder.module.globals.get(full)
        function = function or ir.Function(builder.module, ir.FunctionType(a.vector, [a.vector]), full)
        return builder.call(function, args)

    return a(a), generate


@intrinsic
def where_above_one(typingctx, a, yes, no):
    """yes in the lanes where a > 1, no in the others; real lanes."""

    def generate(context, builder, sig, args):
        one = _splat(builder, a, ir.Constant(a.vector.element, 1.0))
        return builder.select(builder.fcmp_ordered(">", args[0], one), args[1], args[2])

    return a(a, yes, no), generate


FLUSH = 0x8040  # of the control word: take denormal numbers for 0, as input and as output


def _control(context, builder, name: str, word):
    """Store the control word of the vector unit at `word`, or load it."""
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
    full = f"llvm.x86.sse.{name}"
    function = builder.module.globals.get(full) or ir.Function(builder.module, kind, full)
    builder.call(function, [builder.bitcast(word, ir.IntType(8).as_pointer())])


@intrinsic
def flush_denormals(typingctx):
    """From here on denormal numbers are 0, as in XLA's programs: a state that dies away must not take a hundred times
    as long. Returns what `restore_denormals` needs; does nothing on other than x86 processors."""

    def generate(context, builder, sig, args):
        if not X86:
            return context.get_constant(types.uint32, 0)
        word = cgutils.alloca_once(builder, ir.IntType(32))
        _control(context, builder, "stmxcsr", word)
        before = builder.load(word)
        builder.store(builder.or_(before, ir.Constant(ir.IntType(32), FLUSH)), word)
        _control(context, builder, "ldmxcsr", word)
        return before

    return types.uint32(), generate


@intrinsic
def restore_denormals(typingctx, before):
    """Back to what was before `flush_denormals`."""

    def generate(context, builder, sig, args):
        if X86:
            word = cgutils.alloca_once_value(builder, args[0])
            _control(context, builder, "ldmxcsr", word)
        return context.get_dummy_value()

    return types.void(types.uint32), generate
