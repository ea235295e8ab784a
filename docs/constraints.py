"""Write constraints.txt: the versions proven together, for Python 3.11 and for 3.12 and later, without any address."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def resolve(python: str) -> dict[str, str]:
    """name -> "name==version ; marker" as resolved for one Python version."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--python-version", python, "--extra", "dev"]
    command += ["--no-header", "--no-annotate", "--no-emit-index-url", "pyproject.toml"]
    lines = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return {line.split("==")[0]: line for line in lines if "==" in line}


def main() -> None:
    old, new = resolve("3.11"), resolve("3.12")
    lines = []
    for name in sorted(old | new):
        if old.get(name) == new.get(name):
            lines.append(old[name])
            continue
        lines += [f'{old[name]} ; python_version < "3.12"'] if name in old else []
        lines += [f'{new[name]} ; python_version >= "3.12"'] if name in new else []
    (ROOT / "constraints.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
