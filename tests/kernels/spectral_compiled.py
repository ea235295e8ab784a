"""Compile for an H200, without a GPU, every launch the schedule makes; print one line of JSON each.

Run by test_spectral_kernel.py in a process of its own: `python spectral_compiled.py SIZE DTYPE [FRAMES]`.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from cssm.kernels import spectral_frequency, spectral_schedule
from cssm.kernels.spectral_layout import layout

TYPES = {np.dtype(np.float32): "*fp32", np.dtype(np.float16): "*fp16", np.dtype(np.int8): "*i8"}
launches = {}


def record(kernel, inputs, outputs, grid, warps, stages, **constants):
    made = [np.broadcast_to(np.zeros((), like.dtype), shape) for shape, like in outputs]
    flags = [k for k, v in constants.items() if v is True]
    launches[kernel.__name__, *flags] = kernel, (*inputs, *made), warps, stages, constants
    return made


def launch_all(size, dtype, frames):
    video = (2, frames, size, size, 32)
    plan = spectral_schedule.make_plan(video)
    x = np.broadcast_to(np.zeros((), dtype), video)
    zeros = lambda *shape: np.broadcast_to(np.float32(0), shape)  # noqa: E731
    gain, start, reset = zeros(*plan.packed), zeros(2, *plan.packed), np.broadcast_to(np.int8(0), video[:2])
    arguments = record, plan
    tail = gain, layout(size, size).basis, start
    for flags in (None, reset):
        spectral_schedule.scan(*arguments, x, *tail, flags)
        _, _, starts, _ = spectral_schedule.scan(*arguments, x, *tail, flags, reverse=True)
        spectral_schedule.scan(*arguments, x, *tail, flags, frames=False, slopes=True)
        spectral_schedule.scan(*arguments, None, *tail, flags, reverse=True, like=x)
        spectral_schedule.gain_gradient(*arguments, x, x, gain, tail[1], starts, starts, flags)
    spectra, half = zeros(2, frames, 999, 2), zeros(999, 2)
    states = spectral_frequency.frequency_scan(record, spectra, half, zeros(2, 999, 2), reset)
    spectral_frequency.frequency_gradient(record, spectra, half, zeros(2, 999, 2), states, reset)


def compiled(kernel, arguments, warps, stages, constants):
    signature = {}
    for name, value in zip(kernel.arg_names, arguments, strict=False):
        signature[name] = "i32" if isinstance(value, int) else TYPES[value.dtype]
        if value is 1:  # noqa: F632 as a launch does
            constants = {**constants, name: 1}
    signature |= dict.fromkeys(constants, "constexpr")
    places = [i for i, name in enumerate(kernel.arg_names) if signature[name].startswith("*")]
    source = ASTSource(
        fn=kernel, signature=signature, constexprs=constants, attrs={(i,): [["tt.divisibility", 16]] for i in places}
    )
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps, "num_stages": stages})


def usage(binary):
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(binary)
        out = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    return {k: int(v) for k, v in re.findall(r"(REG|STACK|LOCAL):(\d+)", out.stdout)}


if __name__ == "__main__":
    launch_all(int(sys.argv[1]), np.dtype(sys.argv[2]), int(sys.argv[3]))
    for name, launch in launches.items():
        kernel = compiled(*launch)
        print(
            json.dumps(
                {"kernel": name, "warps": launch[2], "shared": kernel.metadata.shared} | usage(kernel.asm["cubin"])
            )
        )
