import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from train_toys import batch, curve, fit

from cssm.core.errors import DataError
from cssm.train.checkpoint import CheckpointStore
from cssm.train.distributed import local_mesh, pad_rows, place

OPTIONS = {"ema": 0.9, "steps": 6, "eval_every": 3, "accumulate": 2}


@pytest.mark.parametrize("shard", [pytest.param("none", marks=pytest.mark.slow), "fsdp"])
def test_two_devices_give_the_numbers_of_one(tmp_path, shard):
    """Training with accumulation, and evaluation whose 21 rows come in batches padded to 8."""
    arguments = [str(tmp_path / "two"), json.dumps(OPTIONS | {"shard": shard}), "0"]
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    subprocess.run(
        [sys.executable, str(Path(__file__).with_name("train_toys.py")), *arguments], env=environment, check=True
    )
    facts = json.loads((tmp_path / "two" / "environment.json").read_text())
    assert facts["devices"] == ["cpu:cpu"] * 2
    fit(tmp_path / "one", options=OPTIONS)
    for two, one in zip(curve(tmp_path / "two"), curve(tmp_path / "one"), strict=True):
        assert two.pop("kind") == one.pop("kind")
        assert two == pytest.approx(one, rel=1e-5, abs=1e-6)
    a, b = (CheckpointStore(tmp_path / name / "checkpoints").restore("last")[0] for name in ("two", "one"))
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_a_large_host_is_divided_over_eight_devices():
    """DeiT3-L, a step compiled for 8 devices: parameters and moments of each are at most a sixth of the whole."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    script = Path(__file__).with_name("large_step.py")
    printed = subprocess.run([sys.executable, str(script)], env=environment, check=True, capture_output=True, text=True)
    whole, each = json.loads(printed.stdout)
    assert each <= whole / 6


def test_rows_are_padded_with_false():
    padded = pad_rows(batch(range(5)), 4)
    assert padded["input"].shape == (8, 6, 6, 3) and padded["input"].dtype == np.uint8
    assert padded["valid"].tolist() == [True] * 5 + [False] * 3
    assert padded["label"].dtype == np.int32
    same = batch(range(8))
    assert pad_rows(same, 4)["input"] is same["input"]
    with pytest.raises(DataError, match="'label' has shape"):
        pad_rows({"label": np.zeros(3), "valid": np.ones(2, bool)}, 1)


def test_placed_rows_are_divided_by_device_and_micro_batch():
    placed = place(batch(range(5)), local_mesh(), accumulate=3)
    assert placed["valid"].shape == (6,) and isinstance(placed["input"], jax.Array)
    assert placed["input"].sharding.spec == jax.sharding.PartitionSpec("rows")
