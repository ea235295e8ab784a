"""Shared by the data tests."""

import dataclasses

import numpy as np

from cssm.data import shards as shards_module


def marker_table(source, n, chunk=250):
    """labels (n,), marker distances (n,) px of the first n samples."""
    labels, distances = [], []
    for begin in range(0, n, chunk):
        batch = source.batch(np.arange(begin, min(n, begin + chunk)))
        labels.append(batch["label"])
        distances.append(np.linalg.norm(batch["markers"][:, 0] - batch["markers"][:, 1], axis=-1))
    return np.concatenate(labels), np.concatenate(distances)


def assert_same_batch(left, right):
    """Equal keys, dtypes and values."""
    assert left.keys() == right.keys()
    for key in left:
        assert left[key].dtype == right[key].dtype, key
        np.testing.assert_array_equal(left[key], right[key], err_msg=key)


def validate(config_class, **options):
    """Check `options` by the class's own rules, without the type checker of the tests in front of them."""
    config = object.__new__(config_class)
    for field in dataclasses.fields(config_class):
        object.__setattr__(config, field.name, options.pop(field.name, field.default))
    assert not options
    config.__post_init__()


def picture(seed=0, size=(44, 57), low=10, high=240):
    """Smooth colours, an edge and a little noise, (h, w, 3) of 8 bits; not all levels are used."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]] / max(size)
    waves = [np.sin(rng.uniform(2, 9) * x + rng.uniform(2, 9) * y + rng.uniform(0, 6)) for _ in range(6)]
    channels = np.stack([waves[2 * i] + 0.5 * waves[2 * i + 1] + 0.6 * (x > y + 0.2 * i) for i in range(3)], -1)
    channels = channels + 0.03 * rng.standard_normal(channels.shape)
    channels -= channels.min()
    return np.rint(low + (high - low) * channels / channels.max()).astype(np.uint8)


def killed_after(monkeypatch, shards):
    """Ctrl-C right after so many shards are written; the list of the names of all that are, then and later."""
    sync, written = shards_module._sync, []

    def failing(path):
        sync(path)
        if "shard" in path.name:
            written.append(path.name)
            if len(written) == shards:
                raise KeyboardInterrupt

    monkeypatch.setattr(shards_module, "_sync", failing)
    return written
