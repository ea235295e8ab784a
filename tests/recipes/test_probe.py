"""Probes of features: against scikit-learn and a slow loop, and from the command line."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from lejepa_toys import toy

from cssm.cli import main
from cssm.core.errors import DataError, UsageError
from cssm.data import PathTracker, Source
from cssm.recipes import RECIPES, execute, load_run
from cssm.recipes.probe import Features, features_of, knn_probe, linear_probe, pixels, pooled, probe
from cssm.recipes.run import compiled
from cssm.tasks import Classify
from cssm.train import read_metrics
from slurm_cluster import free_ports


def clouds(seed, count=200, classes=4, noise=1.5):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count).astype(np.int32)
    centres = np.random.default_rng(99).normal(size=(classes, 6))
    return Features((centres[labels] + noise * rng.normal(size=(count, 6))).astype(np.float32), labels)


def test_the_linear_probe_is_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    train, test = clouds(0), clouds(1, 1000)
    mean, deviation = train.values.mean(0), train.values.std(0)
    fit = LogisticRegression(C=1e3 / len(train.labels), max_iter=1000)  # scikit-learn's C is 1 / (n penalty)
    want = fit.fit((train.values - mean) / deviation, train.labels).score((test.values - mean) / deviation, test.labels)
    assert linear_probe(train, test, 4) == pytest.approx(want, abs=0.02)
    assert 0.4 < want < 0.95  # it could be wrong
    with pytest.raises(UsageError, match="1 training samples are too few"):
        linear_probe(Features(train.values[:1], train.labels[:1]), test, 4)


def test_the_neighbours_vote():
    train, test = clouds(0), clouds(1, 60)
    right = 0
    for x, label in zip(*test, strict=True):
        cosines = train.values @ x / np.linalg.norm(train.values, axis=1) / np.linalg.norm(x)
        votes = np.zeros(4)
        for i in np.argsort(-cosines)[:7]:
            votes[train.labels[i]] += np.exp(cosines[i] / 0.07)
        right += votes.argmax() == label
    assert knn_probe(train, test, 4, neighbours=7) == right / 60
    assert knn_probe(train, test, 4, neighbours=10**6) == knn_probe(train, test, 4, neighbours=200)  # all there are


def test_pixels_are_means_of_frames_and_blocks():
    x = np.random.default_rng(0).normal(size=(2, 3, 32, 48, 3)).astype(np.float32)
    want = x.mean(1).reshape(2, 16, 2, 16, 3, 3).mean((2, 4)).reshape(2, -1)
    np.testing.assert_allclose(pixels(x), want, atol=1e-6)
    np.testing.assert_allclose(pixels(x[:, 0, :8, :8]), x[:, 0, :8, :8].reshape(2, -1), atol=1e-6)


class Half(Source):
    """Of which every other sample cannot be read."""

    def __len__(self):
        return 10

    def batch(self, indices):
        i = np.asarray(indices)
        x = np.broadcast_to(i[:, None, None, None], (len(i), 2, 2, 3)).astype(np.uint8)
        return {"input": x, "label": i.astype(np.int32), "valid": i % 2 == 0}


def test_what_cannot_be_read_is_not_probed():
    task = Classify(num_classes=10, normalization="none")
    read = {"mean": lambda x: np.asarray(x).mean((1, 2))}
    found = features_of(read, task, Half(), 10)["mean"]
    assert found.labels.tolist() == [0, 2, 4, 6, 8] and found.values[:, 0].tolist() == [0, 2, 4, 6, 8]
    some = features_of(read, task, Half(), 10, most=6)["mean"].labels.tolist()
    assert some != sorted(some) and set(some) <= {0, 2, 4, 6, 8}  # not the first: files may come class by class
    with pytest.raises(DataError, match="labels 0 to 8 are not 0 to 4: the split has no labels"):
        features_of(read, task, Half(), 5)
    with pytest.raises(DataError, match="bad: features are not finite"):
        features_of({"bad": lambda x: np.full((len(x), 2), np.nan)}, task, Half(), 10)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lejepa") / "run"
    execute(toy(), folder)
    return folder


def test_a_run_watches_its_rank_and_its_neighbours(run_dir):
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    evaluated = [r for r in records if r["kind"] == "eval"]
    assert [r["step"] for r in evaluated] == [2, 4]
    assert all(0 < r["rank"] <= 4 and {"prediction", "sigreg", "accuracy"} <= set(r) for r in evaluated)
    probes = [json.loads(line) for line in (run_dir / "probes.jsonl").read_text().splitlines()]
    assert [p["step"] for p in probes] == [2, 4] and all(0 <= p["knn_accuracy"] <= 1 for p in probes)
    assert "val_accuracy" in json.loads((run_dir / "summary.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_two_processes_are_one_run_and_process_0_probes_alone(run_dir, devices, tmp_path):
    """SIGReg's means are over both; the nearest neighbours are asked by process 0, while the other waits for it."""
    script, (port,) = Path(__file__).with_name("lejepa_toys.py"), free_ports(1)
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    words = [[sys.executable, script, str(index), "2", str(port), tmp_path / "two"] for index in range(2)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
    children = [subprocess.Popen(command, env=environment, **pipes) for command in words]
    try:
        said = [child.communicate(timeout=200) for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], said
    assert said[0][0] == "" and said[1] == ("", "") and not (tmp_path / "nowhere").exists()
    assert said[0][1].count("k-NN probe") == 2
    assert (tmp_path / "two" / "probes.jsonl").read_text() == (run_dir / "probes.jsonl").read_text()
    clock = ("seconds", "samples_per_second", "tflops", "mfu", "memory_mib", "kind")
    one, two = (read_metrics(folder / "metrics.jsonl") for folder in (run_dir, tmp_path / "two"))
    assert [(r["kind"], r["step"]) for r in two] == [(r["kind"], r["step"]) for r in one] and len(one) == 6
    for record, other in zip(two, one, strict=True):
        figures = {name: value for name, value in other.items() if name not in clock}
        for name in figures.keys() & {"rank", "deviation"}:  # of float32 moments that nearly cancel
            assert record[name] == pytest.approx(figures.pop(name), rel=1e-3)
        assert {name: record[name] for name in figures} == pytest.approx(figures, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_the_command(run_dir, kind, capsys):
    assert main(["eval", str(run_dir), "--probe", kind]) == 0
    printed = capsys.readouterr().out
    record = json.loads(printed.splitlines()[-1])
    assert record["count"] == 24 and record["train_count"] == 40 and record["probe"] == kind
    assert {"features", "random", "pixels", "markers_only"} <= set(record)
    assert all(word in printed for word in ("of the model", "of random parameters", "pixels"))
    assert ("3-nearest-neighbour" if kind == "knn" else "linear probe") in printed
    run, model = load_run(run_dir)
    reads = {"features": pooled(model), "random": pooled(run.build()), "pixels": pixels}
    for name, read in reads.items():
        known, asked = (features_of({"": read}, run.task, run.source(s), 2)[""] for s in ("train", "test"))
        want = linear_probe(known, asked, 2) if kind == "linear" else knn_probe(known, asked, 2, 3)
        assert record[name] == pytest.approx(want), name
    assert json.loads((run_dir / f"eval-test-{kind}.json").read_text()) == record


def test_the_model_of_a_run_streams_its_probe(run_dir):
    run, model = load_run(run_dir)
    clip = run.task.prepare(run.source("test").batch([0, 1]))["input"]
    graph, params = nnx.split(model)
    step = jax.jit(lambda params, state, x: nnx.merge(graph, params).step(state, x))
    state = model.init_state(2, (32, 32))
    for t in range(4):
        state, logits = step(params, state, clip[:, t])
    np.testing.assert_allclose(logits, compiled(model)(clip), atol=1e-4)


def test_what_cannot_be_probed(run_dir):
    tracks = RECIPES["tracker_small"]()
    with pytest.raises(UsageError, match="Tracks has no classes"):
        probe("linear", tracks, None, "test")
    with pytest.raises(UsageError, match="unknown probe 'svm': use linear or knn"):
        probe("svm", tracks, None, "test")
    with pytest.raises(UsageError, match="object has no features"):
        probe("knn", replace(tracks, data=PathTracker(frames=4)), object(), "test")
    assert main(["eval", str(run_dir), "--probe", "knn", "--batch-size", "4"]) == 2
    assert main(["eval", str(run_dir), "--probe", "knn", "--dataset", "tapvid_davis"]) == 2
