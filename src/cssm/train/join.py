"""Joining the processes of a run: jax.distributed with one plain error where it cannot."""

import atexit
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cssm.core.errors import CssmError, UsageError

from .cluster import Cluster, cluster, in_thread
from .distributed import by_rows, global_mesh, put, replicated
from .peers import leave

HEARTBEAT = 100  # seconds after which JAX gives up a machine that is gone; `Peers` is quicker with a process


@contextmanager
def join(
    coordinator: str | None = None, processes: int | None = None, process_id: int | None = None, *, timeout: float = 120
) -> Iterator[Cluster]:
    """The other processes of this run, for the length of a `with`; before anything has used a device.

    Args:
        coordinator: HOST:PORT at which process 0 listens and the others find it. None, as the next two: what Slurm,
            Open MPI or another launcher that JAX knows says in the environment.
        processes: how many there are.
        process_id: which of them this is, from 0.
        timeout: seconds to wait for the others.

    On CPU the processes talk by gloo over TCP. While open, a process that fails or dies ends all of them, each with one
    line on stderr. Raises UsageError when only part of the three is given, or nothing and there is no launcher;
    CssmError naming the coordinator when it does not answer, or the others do not come, in time.

    >>> with join("127.0.0.1:0", processes=1, process_id=0) as processes:
    ...     processes.index, processes.count, processes.writes
    (0, 1, True)
    """
    given = (coordinator, processes, process_id)
    if any(value is None for value in given) and any(value is not None for value in given):
        raise UsageError("coordinator, processes and process_id belong together: give all three, or none under Slurm")
    if not 0 < timeout < math.inf:
        raise UsageError(f"the time limit of joining is {timeout:g} s: give some seconds")
    if processes != 1:
        _check(coordinator, processes, process_id)
        _initialize(given, timeout)
    everyone = cluster()
    with everyone.together():
        if not everyone.writes:
            logging.getLogger("cssm.train").setLevel(logging.ERROR)
        yield everyone


def _check(coordinator: str | None, processes: int | None, process_id: int | None) -> None:
    if coordinator is None or processes is None or process_id is None:
        return
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 2**16):
        raise UsageError(f"coordinator is {coordinator!r}: give HOST:PORT of process 0, such as node1:12345")
    if processes < 1 or not 0 <= process_id < processes:
        raise UsageError(f"process_id is {process_id} of {processes} processes: they are numbered from 0")


def _initialize(given: tuple[str | None, int | None, int | None], timeout: float) -> None:
    jax.config.update("jax_enable_preemption_service", False)  # it swallows SIGTERM; `AgreedStop` serves instead
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    start = lambda: jax.distributed.initialize(  # noqa: E731
        *given,
        cluster_detection_method="deactivate" if given[0] else None,
        initialization_timeout=int(timeout) + 60,  # JAX aborts the process then: this function is there before it
        heartbeat_timeout_seconds=HEARTBEAT,
        shutdown_timeout_seconds=HEARTBEAT,
    )
    try:
        in_thread(start, limit=timeout)
        in_thread(_first_words, limit=timeout)
    except TimeoutError:
        atexit.register(leave, 1)
        raise CssmError(_unanswered(timeout)) from None
    except UsageError:
        raise
    except ValueError as error:
        remedy = "give coordinator, processes and process_id (--coordinator HOST:PORT --processes N --process-id I)"
        raise UsageError(f"no launcher that JAX knows says where the other processes are ({error}): {remedy}") from None
    except RuntimeError as error:
        atexit.register(leave, 1)
        reason = " ".join(str(error).split())
        raise CssmError(f"cannot join at {_address()} ({reason}): is the port in use? choose another") from None


def _unanswered(timeout: float) -> str:
    if _state().process_id:
        remedy = "start process 0 there, and check the address, the port and the firewall"
        return f"the coordinator {_address()} does not answer within {timeout:g} s: {remedy}"
    return f"not all processes came to the coordinator {_address()} within {timeout:g} s: start them with this address"


def _address() -> str:
    return str(_state().coordinator_address)


def _state() -> Any:
    from jax._src.distributed import global_state  # JAX has no public face of it

    return global_state


def _first_words() -> None:
    """A collective operation of one device of each process, as `share` uses it, and one of all, as a step does: a
    network which does not let processes talk is found now. Raises UsageError as `global_mesh`.
    """
    from jax.experimental.multihost_utils import broadcast_one_to_all

    mesh = global_mesh()
    with _without_stdout():  # gloo reports on it
        broadcast_one_to_all(np.zeros(1, np.uint8))
        ones = put(np.ones(mesh.size, np.float32), by_rows(mesh))
        jax.jit(jnp.sum, out_shardings=replicated(mesh))(ones).block_until_ready()


@contextmanager
def _without_stdout() -> Iterator[None]:
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
