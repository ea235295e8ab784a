"""Write the table of docs/mixers.md from docs/bench/mixers.json, which `cssm bench --model mixers` measured."""

import json
from pathlib import Path

DOCS = Path(__file__).parent
BEGIN, END = "<!-- costs: written by `python docs/costs.py` -->\n", "<!-- end of costs -->"
UNIT = "no_gate"
HEAD = [
    "| mixer | time / `no_gate` | plain form | plain / ours | wanted | memory (plain) |",
    "|---|---|---|---|---|---|",
]


def costs(timings: list[dict]) -> str:
    """One row per plain form of each mixer, and one per mixer without; the cheapest mixer first."""
    pairs = list(zip(timings[::2], timings[1::2], strict=True))  # baseline, mixer
    unit = {ours["contender"]: ours for base, ours in pairs if base["contender"] == UNIT}
    plain = [(base, ours) for base, ours in pairs if base["contender"] != UNIT]
    plain += [(None, unit[name]) for name in set(unit) - {ours["contender"] for _, ours in plain}]
    ratio = lambda name: unit[name]["ratio"] if name in unit else 1.0  # noqa: E731
    rows = [_row(unit.get(o["contender"]), b, o) for b, o in sorted(plain, key=lambda p: ratio(p[1]["contender"]))]
    return "\n".join(HEAD + rows) + "\n"


def _row(unit, base, ours) -> str:
    time = "1" if unit is None else _quartiles(*(unit[k] for k in ("ratio", "ratio_low", "ratio_high")))
    start = f"| {ours['contender']} | {time} |"
    if base is None:
        return f"{start} none | | | {_megabytes(ours)} |"
    faster = _quartiles(*(1 / ours[k] for k in ("ratio", "ratio_high", "ratio_low")))
    wanted = f">= {1 / float(ours['wanted'].removeprefix('<= ')):.3g}"
    return f"{start} {base['contender']} | {faster} | {wanted} | {_megabytes(ours)} ({_megabytes(base)}) |"


def _quartiles(middle: float, low: float, high: float) -> str:
    return f"{middle:.3g} ({low:.3g}-{high:.3g})"


def _megabytes(timing: dict) -> str:
    return f"{timing['peak'] / 1e6:,.0f} MB"


def main() -> None:
    measured, page = json.loads((DOCS / "bench" / "mixers.json").read_text()), DOCS / "mixers.md"
    before, rest = page.read_text().split(BEGIN)
    page.write_text(before + BEGIN + costs(measured["timings"]) + END + rest.split(END)[1])
    print(page)


if __name__ == "__main__":
    main()
