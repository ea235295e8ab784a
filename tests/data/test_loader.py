import json
import threading

import numpy as np
import pytest
from data_helpers import assert_same_batch

from cssm.core.errors import DataError, UsageError
from cssm.data import PathTracker, Source, Subset, loader
from cssm.data.rng import draws_of
from cssm.data.speed import samples_per_second


class Counting(Source):
    """Sample i has label i."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def batch(self, indices):
        label = np.asarray(indices, np.int32)
        return {"input": np.repeat(label.astype(np.uint8)[:, None], 3, 1), "label": label}


def labels(batches, steps):
    return np.concatenate([next(batches)["label"] for _ in range(steps)])


@pytest.mark.parametrize("threads", [0, 3])
def test_one_pass_counts_the_tail(threads):
    batches = list(loader(Counting(10), batch_size=4, threads=threads))
    assert [b["label"].shape for b in batches] == [(4,)] * 3
    assert [b["valid"].tolist() for b in batches] == [[True] * 4, [True] * 4, [True, True, False, False]]
    seen = np.concatenate([b["label"][b["valid"]] for b in batches])
    assert seen.tolist() == list(range(10))
    assert batches[-1]["label"].tolist() == [8, 9, 9, 9]
    assert len(loader(Counting(10), batch_size=4)) == 3


def test_shuffle_is_a_new_permutation_each_epoch_and_seed():
    epochs = {}
    for seed in (0, 1):
        got = labels(loader(Counting(40), batch_size=8, seed=seed, shuffle=True, repeat=True), 15)
        epochs |= {(seed, e): tuple(got[40 * e : 40 * e + 40]) for e in range(3)}
    assert len(set(epochs.values())) == 6  # also: seed 1 is not seed 0 one epoch later
    for order in epochs.values():
        assert sorted(order) == list(range(40)) and list(order) != list(range(40))
    again = labels(loader(Counting(40), batch_size=8, seed=1, shuffle=True, repeat=True, threads=0), 5)
    assert tuple(again) == epochs[1, 0]


def test_repeat_goes_across_epochs_without_a_gap():
    got = labels(loader(Counting(5), batch_size=3, repeat=True), 5)
    assert got.tolist() == [0, 1, 2, 3, 4] * 3


@pytest.mark.parametrize("options", [{"shuffle": True, "repeat": True, "seed": 5}, {}])
def test_resume_is_exact(options):
    source = PathTracker(frames=4, distractors=2).source(size=30)
    straight = loader(source, batch_size=4, **options)
    for _ in range(3):
        next(straight)
    state = json.loads(json.dumps(straight.get_state()))
    expected = [next(straight) for _ in range(4)]
    resumed = loader(source, batch_size=4, threads=1, **options)
    resumed.set_state(state)
    for batch in expected:
        assert_same_batch(next(resumed), batch)
    straight.set_state(state)  # and backwards, past batches made ahead
    assert_same_batch(next(straight), expected[0])


def test_resume_with_another_batch_size():
    first = loader(Counting(50), batch_size=8, shuffle=True, repeat=True)
    labels(first, 3)
    second = loader(Counting(50), batch_size=4, shuffle=True, repeat=True)
    second.set_state(first.get_state())
    assert labels(first, 2).tolist() == labels(second, 4).tolist()


@pytest.mark.parametrize(
    ("change", "named"),
    [({"size": 9}, "size 9"), ({"seed": 3}, "seed 3"), ({"shuffle": True}, "shuffle"), ({"position": 3}, "multiple")],
)
def test_state_of_other_data_is_refused(change, named):
    batches = loader(Counting(10), batch_size=2)
    with pytest.raises(UsageError, match=named):
        batches.set_state({**batches.get_state(), **change})


def test_processes_share_every_batch():
    whole = list(loader(Counting(11), batch_size=4))
    parts = [list(loader(Counting(11), batch_size=4, process=(i, 2))) for i in range(2)]
    for batch, left, right in zip(whole, *parts, strict=True):
        assert_same_batch(batch, {k: np.concatenate([left[k], right[k]]) for k in batch})


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 12])
def test_the_parts_are_disjoint_and_cover_whatever_the_number_of_processes(count):
    """29 samples in batches of 12: one pass, whose tail is filled up, and two epochs without a gap."""
    one_pass = [loader(Counting(29), batch_size=12, process=(i, count)) for i in range(count)]
    seen = [batch["label"][batch["valid"]] for part in one_pass for batch in part]
    assert sorted(np.concatenate(seen)) == list(range(29))
    options = {"batch_size": 12, "seed": 3, "shuffle": True, "repeat": True}
    whole, parts = (
        loader(Counting(29), **options),
        [loader(Counting(29), process=(i, count), **options) for i in range(count)],
    )
    batches = [(next(whole)["label"], [next(part)["label"] for part in parts]) for _ in range(5)]
    for batch, rows in batches:
        assert [len(part) for part in rows] == [12 // count] * count and np.concatenate(rows).tolist() == batch.tolist()
    drawn = np.concatenate([row for _, rows in batches for row in rows])
    assert sorted(drawn[:29]) == sorted(drawn[29:58]) == list(range(29))
    late = loader(
        Counting(29), process=(0, 12 // count), **options
    )  # with another number it goes on where these stopped
    late.set_state(json.loads(json.dumps(parts[-1].get_state())))
    assert next(late)["label"].tolist() == next(whole)["label"][:count].tolist()


class Drawing(Counting):
    """Training samples say their draw."""

    def drawn(self, indices, draws):
        return {**self.batch(indices), "draw": draws}


def test_draws_are_those_of_seed_and_place():
    options = {"batch_size": 4, "shuffle": True, "repeat": True}
    draws = lambda batches, n: np.concatenate([next(batches)["draw"] for _ in range(n)])  # noqa: E731
    whole = draws(loader(Drawing(10), seed=3, **options), 6)
    assert whole.dtype == np.uint64 and len(set(whole.tolist())) == 24  # another in each epoch, too
    bits = np.unpackbits(whole.view(np.uint8))
    assert abs(bits.mean() - 0.5) < 0.05
    np.testing.assert_array_equal(draws_of(3, np.arange(24, dtype=np.uint64)), whole)
    np.testing.assert_array_equal(draws(loader(Drawing(7), seed=3, repeat=True, batch_size=2), 12), whole)
    assert not set(draws(loader(Drawing(10), seed=4, **options), 6).tolist()) & set(whole.tolist())
    parts = [loader(Drawing(10), seed=3, process=(i, 2), **options) for i in range(2)]
    rows = [np.concatenate([next(part)["draw"] for part in parts]) for _ in range(6)]
    np.testing.assert_array_equal(np.concatenate(rows), whole)
    late = loader(Drawing(10), seed=3, **options)
    late.set_state({**late.get_state(), "position": 2**61})
    assert not set(draws(late, 1).tolist()) & set(whole.tolist())
    assert "draw" not in next(loader(Drawing(10), batch_size=4))  # one pass is no training


def test_a_part_of_a_source_is_drawn_as_the_whole():
    part = Subset(Drawing(10), [7, 2, 5])
    batch = part.drawn([2, 0], np.array([8, 9], np.uint64))
    assert batch["label"].tolist() == [5, 7] and batch["draw"].tolist() == [8, 9]
    with pytest.raises(IndexError):
        part.drawn([3], np.array([8], np.uint64))


def test_batches_are_made_in_threads_and_errors_arrive():
    names = set()

    class Failing(Counting):
        def batch(self, indices):
            names.add(threading.current_thread().name)
            if 6 in indices:
                raise OSError("disk gone")
            return super().batch(indices)

    batches = loader(Failing(10), batch_size=2, threads=2)
    assert labels(batches, 3).tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(OSError, match="disk gone"):
        next(batches)
    assert threading.main_thread().name not in names
    batches.close()


@pytest.mark.parametrize(
    ("size", "options", "named"),
    [
        (0, {"batch_size": 2}, "no samples"),
        (5, {"batch_size": 0}, "batch_size"),
        (5, {"batch_size": 3, "process": (0, 2)}, "does not divide"),
        (5, {"batch_size": 2, "process": (2, 2)}, "process index"),
        (5, {"batch_size": 2, "threads": -1}, "threads"),
    ],
)
def test_bad_arguments_are_usage_errors(size, options, named):
    with pytest.raises(UsageError, match=named):
        loader(Counting(size), **options)


def test_samples_that_the_source_leaves_out_stay_invalid():
    class Holes(Counting):
        def batch(self, indices):
            return {**super().batch(indices), "valid": np.asarray(indices) % 3 != 0}

    batches = list(loader(Holes(6), batch_size=4))
    assert [b["valid"].tolist() for b in batches] == [[False, True, True, False], [True, True, False, False]]


def test_samples_per_second_counts_whole_batches():
    rate = samples_per_second(PathTracker(frames=8, foil="random"), seconds=0.2, batch_size=32)
    assert rate > 1000


@pytest.mark.parametrize("shuffle", [False, True])
def test_one_sample_at_a_time_without_end(shuffle):
    batches = loader(Counting(5), batch_size=1, repeat=True, shuffle=shuffle)
    seen = [labels(batches, 5) for _ in range(3)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in seen)
    state = batches.get_state()
    assert state["position"] == 15
    again = loader(Counting(5), batch_size=1, repeat=True, shuffle=shuffle)
    again.set_state(state)
    np.testing.assert_array_equal(labels(again, 5), labels(batches, 5))


def test_memory_of_the_host_is_not_that_of_the_device():
    """A MemoryError would make training halve its micro-batch, which is no remedy."""

    class Huge(Counting):
        def batch(self, indices):
            raise MemoryError("Unable to allocate 3 TiB")

    with pytest.raises(DataError, match=r"host's memory ran out while 4 samples were read, of 0 and on .Unable"):
        next(loader(Huge(8), batch_size=4))
