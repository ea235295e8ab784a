import threading
import time

import pytest
from train_toys import Endless

from cssm.core.errors import DataError, UsageError
from cssm.train.prefetch import Prefetch, Stream


def no_threads_left():
    return not [thread for thread in threading.enumerate() if thread.name == "cssm-prefetch"]


def test_order_is_kept_and_the_end_stays_the_end():
    with Prefetch(iter(range(20)), lambda x: x + 1, depth=3) as batches:
        assert list(batches) == list(range(1, 21))
        with pytest.raises(StopIteration):
            next(batches)
    assert no_threads_left()


def test_it_runs_ahead_by_depth_and_no_further():
    made = []
    with Prefetch(iter(range(100)), lambda x: made.append(x) or x, depth=2) as batches:
        next(batches)
        deadline = time.time() + 5
        while len(made) < 4 and time.time() < deadline:  # one used, two waiting, one in hand
            time.sleep(0.01)
        time.sleep(0.05)
        assert made == [0, 1, 2, 3]
    assert no_threads_left()


def test_an_error_comes_at_its_batch_and_again():
    def source():
        yield 1
        raise OSError("shard 3 is truncated")

    with Prefetch(source(), lambda x: x) as batches:
        assert next(batches) == 1
        for _ in range(2):
            with pytest.raises(OSError, match="shard 3"):
                next(batches)


def test_a_stream_gives_the_state_that_follows_each_batch():
    stream = Stream(Endless())
    states = [next(stream)[1] for _ in range(3)]
    again = Stream(Endless(), states[0])
    for state in states[1:]:
        assert next(again)[1] == state


class Epochs:
    """Finite passes: the iterators share the epoch count, and carry it in their state."""

    class Pass:
        def __init__(self, owner):
            self.owner, self.i = owner, 0

        def __iter__(self):
            return self

        def __next__(self):
            if self.i == self.owner.size:
                self.owner.epoch += 1
                raise StopIteration
            self.i += 1
            return (self.owner.epoch, self.i)

        def get_state(self):
            return {"epoch": self.owner.epoch, "i": self.i}

        def set_state(self, state):
            self.owner.epoch, self.i = state["epoch"], state["i"]

    def __init__(self, size):
        self.size, self.epoch = size, 0

    def __iter__(self):
        return self.Pass(self)


def test_finite_passes_follow_each_other_and_resume():
    stream = Stream(Epochs(2))
    items = [next(stream) for _ in range(5)]
    assert [batch for batch, _ in items] == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1)]
    for at in range(4):
        again = Stream(Epochs(2), items[at][1])
        assert [next(again)[0] for _ in range(4 - at)] == [batch for batch, _ in items[at + 1 :]]


def test_data_that_cannot_go_on_is_refused():
    with pytest.raises(UsageError, match=r"no get_state: use cssm\.data\.loader"):
        Stream([1, 2])
    with pytest.raises(DataError, match="repeat=True"):
        next(Stream(Epochs(0)))
