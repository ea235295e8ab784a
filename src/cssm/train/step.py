"""The train step and the evaluation step: pure functions on plain arrays, compiled once, the state donated."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from cssm.tasks.task import Task

from .distributed import by_parts, by_rows, replicated
from .state import Arrays, Blueprint, TrainState, split

Batch = Mapping[str, Any]
Augment = Callable[[jax.Array, Batch], Batch]  # (key, raw batch on the device) -> batch


@dataclass(frozen=True, kw_only=True)
class StepBuilder:
    """What the two steps are made of. `accumulate` micro-batches are run one after another in both."""

    task: Task
    blueprint: Blueprint
    mesh: Mesh
    dtype: Any = jnp.float32
    accumulate: int = 1
    fsdp: bool = False
    """The state is divided over the devices, as `by_parts` does it."""

    def train_step(
        self,
        transform: optax.GradientTransformation,
        schedule: Callable[[Any], Any],
        *,
        ema: float | None = None,
        augment: Augment | None = None,
    ) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]]:
        """(state, batch) -> (state, metrics), compiled; `state` is donated.

        A step whose loss or gradient norm is not finite changes only `step`, `skipped` and `bad_in_row`.
        """

        def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
            key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
            loss, weight, sums, grads, rest = self._gradients(state, batch, key, augment)
            norm = optax.tree.norm(grads)
            ok = jnp.isfinite(loss) & jnp.isfinite(norm)
            new = _advance(state, _update(state, transform, grads, rest, ema), ok)
            if self.fsdp:
                new = jax.lax.with_sharding_constraint(new, jax.tree.map(self.layout, new))
            metrics = {"loss": loss, "grad_norm": norm, "lr": schedule(state.step - state.skipped), "sums": sums}
            metrics["weight"] = weight
            counts = {"skipped": new.skipped, "bad_in_row": new.bad_in_row, "not_finite": _not_finite(batch)}
            return new, metrics | counts

        whole = replicated(self.mesh)
        state = None if self.fsdp else whole  # None: as it comes, and as constrained above
        return jax.jit(step, donate_argnums=0, in_shardings=(state, by_rows(self.mesh)), out_shardings=(state, whole))

    def layout(self, leaf: Any) -> Any:
        """Where an array of the state lies."""
        return by_parts(self.mesh, leaf.shape) if self.fsdp else replicated(self.mesh)

    def eval_step(self) -> Callable[[Arrays, Arrays, Batch], dict[str, Any]]:
        """(params, rest, batch) -> the task's sums, compiled."""

        def micro(model_arrays: tuple[Arrays, Arrays], batch: Batch) -> tuple[tuple[Arrays, Arrays], dict[str, Any]]:
            model = self.blueprint.build(*model_arrays)
            return model_arrays, self.task.evaluate(model, self.task.prepare(batch, self.dtype))

        def step(params: Arrays, rest: Arrays, batch: Batch) -> dict[str, Any]:
            arrays = (self.blueprint.cast(params, self.dtype), rest)
            if self.accumulate == 1:
                return micro(arrays, batch)[1]
            return _total(jax.lax.scan(micro, arrays, self._micro_batches(batch))[1])

        whole = replicated(self.mesh)
        state = None if self.fsdp else whole
        return jax.jit(step, in_shardings=(state, state, by_rows(self.mesh)), out_shardings=whole)

    def _gradients(self, state: TrainState, batch: Batch, key: jax.Array, augment: Augment | None) -> tuple:
        """(loss, sums, gradients, rest): means over the valid rows of the whole batch."""

        def loss_of(params: Arrays, rest: Arrays, batch: Batch, key: jax.Array):
            model = self.blueprint.build(self.blueprint.cast(params, self.dtype), rest)
            loss, weight, sums = self.task.loss(model, self.task.prepare(batch, self.dtype), key)
            weight = jnp.asarray(weight, jnp.float32)
            return loss * weight, (weight, sums, _rest_of(model, rest))

        def micro(rest: Arrays, xs: tuple[Batch, jax.Array]):
            part, index = xs
            keys = jax.random.split(jax.random.fold_in(key, index))
            part = part if augment is None else augment(keys[0], part)
            slope = jax.value_and_grad(loss_of, has_aux=True)
            (loss, (weight, sums, rest)), grads = slope(state.params, rest, part, keys[1])
            return rest, (loss, weight, sums, grads)

        if self.accumulate == 1:
            rest, (loss, weight, sums, grads) = micro(state.rest, (batch, jnp.zeros((), jnp.int32)))
        else:
            rest, (loss, weight, sums, grads) = self._accumulated(micro, state, batch)
        total = jnp.where(weight > 0, weight, 1)
        grads = jax.tree.map(lambda g: jnp.conj(g) / total, grads)  # conj: descent direction of complex parameters
        return loss / total, weight, sums, grads, rest

    def _accumulated(self, micro: Callable, state: TrainState, batch: Batch) -> tuple:
        """`micro` over the micro-batches; one gradient is held, not `accumulate` of them."""

        def body(carry: tuple, xs: tuple) -> tuple:
            rest, loss, weight, grads = carry
            rest, (more_loss, more_weight, sums, more) = micro(rest, xs)
            return (rest, loss + more_loss, weight + more_weight, jax.tree.map(jnp.add, grads, more)), sums

        zero = jnp.zeros((), jnp.float32)
        start = (state.rest, zero, zero, jax.tree.map(jnp.zeros_like, state.params))
        xs = (self._micro_batches(batch), jnp.arange(self.accumulate))
        (rest, loss, weight, grads), sums = jax.lax.scan(body, start, xs)
        return rest, (loss, weight, _total(sums), grads)

    def _micro_batches(self, batch: Batch) -> Batch:
        """(rows, ...) -> (accumulate, rows / accumulate, ...); micro-batch i takes every accumulate-th row from i.

        Strided, so that each device keeps the rows it holds.
        """

        def cut(x: jax.Array) -> jax.Array:
            x = x.reshape(-1, self.accumulate, *x.shape[1:]).swapaxes(0, 1)
            return jax.lax.with_sharding_constraint(x, by_rows(self.mesh, axis=1))

        return jax.tree.map(cut, dict(batch))


def _update(state: TrainState, transform: Any, grads: Arrays, rest: Arrays, ema: float | None) -> TrainState:
    updates, opt = transform.update(grads, state.opt, state.params)
    params = optax.apply_updates(state.params, updates)
    if ema is None:
        return replace(state, params=params, opt=opt, rest=rest)
    applied = (state.step - state.skipped).astype(jnp.float32)
    decay = jnp.minimum(ema, (1 + applied) / (10 + applied))  # short memory while the run is young
    average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.ema, params)
    return replace(state, params=params, opt=opt, rest=rest, ema=average)


def _advance(old: TrainState, new: TrainState, ok: jax.Array) -> TrainState:
    """`new` where `ok`, else `old`, with the counters moved on."""
    chosen = jax.tree.map(lambda n, o: jnp.where(ok, n, o), new, old)
    bad = (~ok).astype(jnp.int32)
    in_row = jnp.where(ok, 0, old.bad_in_row + 1)
    return replace(chosen, step=old.step + 1, skipped=old.skipped + bad, bad_in_row=in_row)


def _rest_of(model: Any, rest: Arrays) -> Arrays:
    new = split(model)[1]
    return {name: new[name].astype(value.dtype) for name, value in rest.items()}


def _not_finite(batch: Batch) -> dict[str, jax.Array]:
    """For every floating entry of the raw batch: does it hold NaN or infinity?"""
    floating = {key: value for key, value in batch.items() if jnp.issubdtype(value.dtype, jnp.floating)}
    return {key: ~jnp.isfinite(value).all() for key, value in floating.items()}


def _total(sums: dict[str, Any]) -> dict[str, Any]:
    return jax.tree.map(lambda x: x.sum(0, dtype=x.dtype), sums)
