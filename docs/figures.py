"""Draw the pictures of the documents: `make docs`. The demo's picture is drawn from the newest run of `make demo`."""

from pathlib import Path

from cssm.data import FeatureTracker, Pathfinder, PathTracker
from cssm.recipes import load_run
from cssm.viz.contact_sheet import contact_sheet
from cssm.viz.predictions import draw_predictions

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
SHEETS = {
    "pathfinder": ("Pathfinder, contour length 14", Pathfinder(difficulty=14)),
    "pathtracker": ("PathTracker, 14 distractors, matched foils", PathTracker()),
    "featuretracker": ("FeatureTracker, 10 distractors", FeatureTracker()),
}


def main() -> None:
    for name, (title, data) in SHEETS.items():
        source = data.source("train", size=256)
        print(contact_sheet(source, IMAGES / f"{name}.png", title=title, samples=2, frames=6))
    runs = sorted(p.parent for p in (ROOT / "runs").glob("demo-*/summary.json"))
    if not runs:
        print("no finished run of `make demo` in runs/: docs/images/demo.png is left as it is")
        return
    run, model = load_run(runs[-1])
    draw_predictions(model, run.task, run.source("test"), IMAGES / "demo.png", samples=4)
    print(IMAGES / "demo.png")


if __name__ == "__main__":
    main()
