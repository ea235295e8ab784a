"""The pool: no larger than the process may use, and errors of a job are those of the caller."""

import os

import pytest

from cssm.shared.threads import run, usable_threads


def test_threads_are_those_the_process_may_use(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert usable_threads() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "4096,2")
    assert usable_threads() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize("threads", ["1", "2"])
def test_every_job_runs_and_an_error_is_told(monkeypatch, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    done = []
    run([lambda i=i: done.append(i) for i in range(9)])
    assert sorted(done) == list(range(9))
    with pytest.raises(ZeroDivisionError):
        run([lambda: None, lambda: 1 / 0])
