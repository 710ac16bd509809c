"""Compares the losses of two runs, step by step: python scripts/parity/compare_losses.py OURS THEIRS [--tolerance 0.005]

Both files have lines of a step's number and its loss, as `parity_train` and train_gpu.py print them. Exits with 1 when
the largest relative difference is above the tolerance.
"""

import argparse
import sys
from pathlib import Path


def read(path: Path) -> dict[int, float]:
    rows = (line.split() for line in path.read_text().splitlines() if line.strip())
    return {int(step): float(loss) for step, loss in rows}


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("ours", type=Path)
    arguments.add_argument("theirs", type=Path)
    arguments.add_argument("--tolerance", type=float, default=0.005)
    args = arguments.parse_args()
    ours, theirs = read(args.ours), read(args.theirs)
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        sys.exit("the files have no step in common")
    differences = {step: abs(ours[step] - theirs[step]) / abs(theirs[step]) for step in common}
    worst = max(common, key=differences.get)
    print(f"{len(common)} steps; largest relative difference {differences[worst]:.2e}, at step {worst}: {ours[worst]:.6f} and {theirs[worst]:.6f}")
    print(f"mean relative difference {sum(differences.values()) / len(common):.2e}; last losses {ours[common[-1]]:.6f} and {theirs[common[-1]]:.6f}")
    sys.exit(0 if differences[worst] <= args.tolerance else 1)
