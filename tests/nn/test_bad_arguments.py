"""What is no array, size, grid or rngs is named in one line by mixers and models alike.

In a process without the annotations' own checks, which the suite has and users have not.
"""

import json
import subprocess
import sys

SCRIPT = """
import json, sys
import jax.numpy as jnp, numpy as np
from flax import nnx
import cssm
from cssm.core.errors import CssmError

def said(call):
    try:
        call()
        return "accepted"
    except CssmError as error:
        return f"{type(error).__name__}: {error}"
    except Exception as error:
        return f"raw {type(error).__name__}: {error}"

def mixer(name="transformer", **options):
    return cssm.create_mixer(name, **{"channels": 4, "rngs": nnx.Rngs(0), "grid": (4, 4), **options})

layers = {name: mixer(name) for name in ("no_gate", "lru", "gdn_seq")}
layers["model"] = cssm.create_model(
    "simple", rngs=nnx.Rngs(0), embed_dim=8, stem="pixel", norm="global_layer_causal")
found = {
    "channels is 0, expected an integer": [said(lambda: mixer(channels=0))],
    "channels is -3": [said(lambda: mixer(channels=-3))],
    "channels is 2.5": [said(lambda: mixer(channels=2.5))],
    "channels is True": [said(lambda: mixer(channels=True))],
    "rngs is 0, expected nnx.Rngs": [said(lambda: mixer(rngs=0)), said(lambda: cssm.create_model("simple", rngs=0))],
    "grid is 32, expected (H, W)": [said(lambda: mixer(grid=32))],
    "grid is (8, 0)": [said(lambda: mixer(grid=(8, 0)))],
    "init_scale is inf, expected a finite": [said(lambda: mixer("no_gate", grid=None, init_scale=float("inf")))],
    "steps is 1.5, expected an integer": [
        said(lambda: cssm.ops.spectral_static(jnp.ones((1, 4, 4, 2)), jnp.ones((2, 4, 3), complex), 1.5))],
    "and a grid (8, 8, 8)": [said(lambda: cssm.ops.kernel_spectrum(jnp.ones((3, 3)), (8, 8, 8)))],
    "unknown mixer 3": [said(lambda: mixer(3))],
    "takes an array, got a": [
        said(lambda: layer(x)) for layer in layers.values() for x in ([1, 2], "x", None, 3.0)],
    "init_state: batch is": [said(lambda: layer.init_state(b, (8, 8))) for layer in layers.values() for b in (-1, 2.0)],
    "init_state: grid is": [
        said(lambda: layer.init_state(2, g)) for layer in layers.values() for g in ((8, 8, 8), 8, (8, 0), (8.0, 8))],
    "steps is 2.0": [said(lambda: layers["no_gate"].static(
        layers["no_gate"].init_state(1, (4, 4)), jnp.ones((1, 4, 4, 4)), steps=2.0))],
    "accepted": [said(lambda: layer.init_state(np.int32(2), (np.int64(8), 8))) for layer in layers.values()],
}
json.dump(found, sys.stdout)
"""


def test_nonsense_is_named_in_one_line():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    wrong = [
        (expected, line)
        for expected, lines in json.loads(run.stdout).items()
        for line in lines
        if expected not in line or line.startswith("raw") or "\n" in line
    ]
    assert not wrong
