"""LeJEPA's loss and gradients of a batch on one device, and divided over four: started by test_lejepa.py.

Prints, as JSON, for each case the losses, the largest differences, and how often the program adds up over devices.
"""

import json

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from test_lejepa import CLIPS, IMAGES, batch_of, equipped

from cssm.train.distributed import by_rows, local_mesh, place, replicated

CASES = {
    "clips": (CLIPS, {"sigreg_weight": 10.0}, {}),
    "clips, lejepa": (CLIPS, {"form": "lejepa", "prediction": "successive", "blocks": (0, -1)}, {}),
    "views": (IMAGES, {"form": "lejepa", "interval": (-5.0, 5.0)}, {"views": 2, "local": 3}),
}


def on(devices, data, options, views):
    """(loss, gradients by name, sums, all-reduce operations) of eight rows, the last of them not valid."""
    task, model = equipped(data, **options)
    graph, params = nnx.split(model)
    mesh = local_mesh() if devices == 4 else Mesh(np.array(jax.devices()[:1]), ("rows",))
    batch = batch_of(data, rows=8, **views)
    batch["valid"][-1] = False

    def loss(params, batch, key):
        value, _, sums = task.loss(nnx.merge(graph, params), task.prepare(batch), key)
        return value, sums

    whole = replicated(mesh)
    step = jax.jit(jax.value_and_grad(loss, has_aux=True), in_shardings=(whole, by_rows(mesh), whole))
    arguments = jax.device_put(params, whole), place(batch, mesh), jax.device_put(jax.random.key(7), whole)
    program = step.lower(*arguments).compile()
    (value, sums), slopes = program(*arguments)
    grads = {"/".join(map(str, path)): np.asarray(g[...]) for path, g in nnx.to_flat_state(slopes)}
    return value, grads, sums, program.as_text().count("all-reduce(")


def far(one, four):
    """The largest difference, relative to the largest entry of what is compared."""
    return max(float(np.abs(one[k] - four[k]).max() / max(1e-3, np.abs(one[k]).max())) for k in one)


if __name__ == "__main__":
    assert jax.device_count() == 4
    found = {}
    for name, case in CASES.items():
        (one, grads, sums, alone), (four, grads4, sums4, together) = on(1, *case), on(4, *case)
        host = lambda tree: {k: np.asarray(v, np.float64) for k, v in tree.items()}  # noqa: E731
        assert all(np.abs(g).max() > 0 for g in grads.values())
        found[name] = {
            "loss": [float(one), float(four)],
            "gradients": far(host(grads), host(grads4)),
            "sums": far(host(sums), host(sums4)),
            "all_reduces": [alone, together],
        }
    print(json.dumps(found))
