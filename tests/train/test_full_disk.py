"""A disk that is full ends a run in one line, whatever is being written, and the run can go on from what was there."""

import errno

import pytest
import tensorboardX.event_file_writer
from test_checkpoint import arrays, fill
from train_toys import Endless, fit

from cssm.core.errors import CheckpointError
from cssm.train import CheckpointStore, checkpoint, read_metrics
from cssm.train.log import JsonLines, TensorBoard

TENSORSTORE = "Failed writing: manifest.ocdbt: No space left on device [os_error_code='28'] [spec='{" + 3000 * "x"
ERRORS = [OSError(errno.ENOSPC, "No space left on device"), ValueError(TENSORSTORE), RuntimeError(TENSORSTORE)]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_the_checkpoints_there_were_are_as_they_were(tmp_path, error, monkeypatch):
    def fill_up(folder, arrays):
        (folder / "half").write_bytes(b"x" * 1000)
        raise error

    fill(tmp_path, [1, 2], best=[1])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(checkpoint, "_write_arrays", fill_up)
    with CheckpointStore(tmp_path) as store:
        for step in (2, 3):  # a step anew, and another
            store.save(step, arrays(7), {"step": step}, best=True)
            with pytest.raises(CheckpointError) as told:
                store.wait()
            said = str(told.value)
            assert f"checkpoint of step {step} to {tmp_path} (No space left on device): make room" in said
            assert "whole are [1, 2]" in said and "\n" not in said and len(said) < 400
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        assert store.best_step() == 1 and int(store.restore("last")[0]["opt/0/count"]) == 2


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def of_metrics(patch):
    write = JsonLines.write
    patch.setattr(JsonLines, "write", lambda self, record: full() if record["step"] > 6 else write(self, record))


def of_tensorboard(patch):
    """In whose own thread this would be printed, and the run would wait for it for ever."""
    patch.setattr(tensorboardX.event_file_writer.RecordWriter, "flush", full)
    patch.setattr(TensorBoard, "FLUSH", 0.0)


def of_checkpoint(patch):
    """That of step 5: the run does not wait for the next one, at 10, to say so."""
    write = checkpoint._write_arrays
    patch.setattr(checkpoint, "_write_arrays", lambda to, *a: full() if to.name == ".tmp-5" else write(to, *a))


def of_callback(event):
    if (event.kind, event.step) == ("log", 6):
        full()


@pytest.mark.parametrize("breaks", [of_metrics, of_tensorboard, of_checkpoint, of_callback])
def test_the_run_ends_in_one_line_and_can_go_on(tmp_path, breaks, monkeypatch):
    callbacks = [of_callback] if breaks is of_callback else []
    options = {"logger": "jsonl+tensorboard", "steps": 40, "eval_every": 40, "checkpoint_every": 5}
    with monkeypatch.context() as patch:
        if not callbacks:
            breaks(patch)
        with pytest.raises(CheckpointError, match=r"cannot write .*\(No space left on device\): make room") as told:
            fit(tmp_path, options=options, callbacks=callbacks, resume_hint="run it again", data=Endless(delay=0.02))
    assert "\n" not in str(told.value) and (breaks is of_checkpoint or "to go on, run it again" in str(told.value))
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert len(records) < 10 and not list(tmp_path.rglob(".*"))
    assert fit(tmp_path, resume=True)[0].final_step == 12
