"""Make a trained run one of the models that ship with the package. Run by hand.

    python docs/ship.py tracker_small runs/tracker_small-20261201-120000
    python docs/ship.py pathtracker_demo runs/demo-20261201-120000

Writes src/cssm/weights/NAME.safetensors with its record: the command and commit of the training, the seed, the data,
the score; of a tracker the average Jaccard of every video of the frozen sets, which tests/weights holds it to.
"""

import json
import shlex
import sys
from pathlib import Path

from cssm.data.tracks import FROZEN, frozen
from cssm.models import Tracker
from cssm.recipes import load_run
from cssm.recipes.points import answers, score_all
from cssm.weights import FOLDER, pack, read


def command_of(words: list[str]) -> str:
    """The command as another would give it: without the folder of this run."""
    pairs = zip(["", *words], words, strict=False)
    kept = [word for before, word in pairs if "--out" not in (before, word.partition("=")[0])]
    return shlex.join(["cssm", *kept])


def record_of(run_dir: Path) -> dict:
    run, model = load_run(run_dir)
    about = json.loads((run_dir / "environment.json").read_text())
    record = {
        "command": command_of(about["command"][1:]), "commit": about["git"], "time": about["time"],
        "packages": about["packages"], "seed": run.train.seed, "data": type(run.data).__name__,
        "summary": json.loads((run_dir / "summary.json").read_text()),
    }  # fmt: skip
    if run.init_from is not None:
        before = read(run.init_from).record
        record["began_with"] = {name: before[name] for name in ("command", "commit", "time", "seed", "score")}
    if not isinstance(model, Tracker):
        name, value = next(iter(record["summary"].items()))
        return record | {"score": f"{name} {value}"}
    jaccard, score = {}, []
    for data in FROZEN:
        scores = score_all(answers(lambda video, queries: model.track(video, queries, side=None), frozen(data)))
        jaccard[data] = [round(metrics["average_jaccard"], 4) for metrics in scores.videos.values()]
        score.append(f"AJ {scores.mean['average_jaccard']:.3f} on {data}")
        print(score[-1], flush=True)
    return record | {"jaccard": jaccard, "score": ", ".join(score)}


if __name__ == "__main__":
    name, run_dir = sys.argv[1], Path(sys.argv[2])
    print(pack(run_dir, FOLDER / f"{name}.safetensors", record_of(run_dir)))
