import pytest

from cssm.core.errors import UsageError
from cssm.train import Plan, TrainConfig


def test_plan_counts_in_steps():
    assert TrainConfig(steps=100).plan() == Plan(steps=100, eval_every=10, checkpoint_every=10)
    assert TrainConfig(steps=5).plan(batches_per_epoch=3) == Plan(steps=5, eval_every=1, checkpoint_every=1)
    assert TrainConfig(steps=100, eval_every=7, checkpoint_every=30).plan() == Plan(
        steps=100, eval_every=7, checkpoint_every=30
    )


def test_plan_counts_in_epochs():
    plan = TrainConfig(epochs=2.5, eval_every=0.5, checkpoint_every=2).plan(batches_per_epoch=10)
    assert plan == Plan(steps=25, eval_every=5, checkpoint_every=20)
    assert TrainConfig(epochs=0.01).plan(batches_per_epoch=10).steps == 1
    with pytest.raises(UsageError, match="no length: give steps"):
        TrainConfig(epochs=1).plan(None)


def test_the_last_step_is_always_evaluated_and_saved_step_0_never():
    plan = Plan(steps=10, eval_every=4, checkpoint_every=3)
    assert [s for s in range(11) if plan.evaluates(s)] == [4, 8, 10]
    assert [s for s in range(11) if plan.saves(s)] == [3, 6, 9, 10]


BAD = {
    "steps": [{}, {"steps": 1, "epochs": 1.0}, {"steps": 0}, {"steps": -3}],
    "epochs": [{"epochs": float("nan")}, {"epochs": 0.0}],
    "batch_size": [{"batch_size": 0}],
    "lr": [{"lr": 0.0}, {"lr": float("inf")}],
    "weight_decay": [{"weight_decay": -1e-4}],
    "grad_clip": [{"grad_clip": 0.0}],
    "warmup_steps": [{"warmup_steps": -1}],
    "seed": [{"seed": -1}],
    "b1": [{"b1": 1.0}],
    "ema": [{"ema": 1.0}, {"ema": 0.0}],
    "accumulate": [{"accumulate": 0}, {"batch_size": 4, "accumulate": 8}],
    "eval_every": [{"eval_every": 0}],
    "checkpoint_every": [{"checkpoint_every": -1.0}],
    "keep": [{"keep": 0}],
    "log_every": [{"log_every": 0}],
    "prefetch": [{"prefetch": 0}],
    "logger": [{"logger": "tensorboard"}, {"logger": "jsonl+trackio"}, {"logger": "jsonl+jsonl"}, {"logger": ""}],
}


@pytest.mark.parametrize("field, options", [(field, o) for field, several in BAD.items() for o in several])
def test_a_value_out_of_range_is_named(field, options):
    options = options if field in ("steps", "epochs") else {"steps": 10} | options
    with pytest.raises(UsageError, match=field):
        TrainConfig(**options)


def test_an_unknown_dtype_is_named():
    config = TrainConfig(steps=1)
    object.__setattr__(config, "compute_dtype", "float16")  # past the type check that only tests have
    with pytest.raises(UsageError, match="compute_dtype is 'float16': expected float32 or bfloat16"):
        config.__post_init__()


def test_changes_are_listed():
    before = vars(TrainConfig(steps=10))
    assert TrainConfig(steps=10, lr=5e-4, ema=0.9).changes_from(before) == ["lr 0.001 -> 0.0005", "ema None -> 0.9"]
    assert TrainConfig(steps=10).changes_from(before) == []
