"""Compile a train step of DeiT3-L, divided over the devices of this process; print [bytes of the state, those of one].

Nothing of its size is allocated. Run by test_data_parallel.py with 8 devices.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.models import MODELS
from cssm.tasks import Classify
from cssm.train import TrainConfig
from cssm.train.distributed import by_rows, local_mesh
from cssm.train.optim import optimizer
from cssm.train.state import Blueprint, init_state
from cssm.train.step import StepBuilder


def main():
    model = nnx.eval_shape(lambda: MODELS["deit3_large_patch16_224"].make(nnx.Rngs(0)))
    config, mesh = TrainConfig(steps=10, shard="fsdp", batch_size=8), local_mesh()
    transform, schedule = optimizer(config, 10)
    builder = StepBuilder(task=Classify(num_classes=1000), blueprint=Blueprint.of(model), mesh=mesh, fsdp=True)
    state = jax.eval_shape(lambda: init_state(model_of_zeros(model), transform, seed=0))
    placed = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=builder.layout(leaf))  # noqa: E731
    rows = lambda shape, dtype: jax.ShapeDtypeStruct((8, *shape), dtype, sharding=by_rows(mesh))  # noqa: E731
    batch = {"input": rows((224, 224, 3), np.uint8), "label": rows((), np.int32), "valid": rows((), bool)}
    compiled = builder.train_step(transform, schedule).lower(jax.tree.map(placed, state), batch).compile()
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    print(json.dumps([whole, compiled.memory_analysis().argument_size_in_bytes]))


def model_of_zeros(model):
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), model)


if __name__ == "__main__":
    main()
