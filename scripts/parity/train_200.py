"""Trains the reference on the batches that `nanochat` trained on, and compares the losses step by step.

    python scripts/parity/train_200.py INITIAL_FOLDER BATCHES --ours metrics.jsonl --out reference_losses.json

INITIAL_FOLDER is a checkpoint folder (config.json, model.safetensors) with the weights before the first step; BATCHES
what the example `parity_batches` writes. Every line of --ours that has both `step` (from 0) and `loss` (mean over the
batch's targets, before the update, not smoothed) is compared.
Float32 on the CPU, like ours. Exits with 1 when a loss differs by more than --tolerance.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from safetensors import safe_open

from reference import Trainer, load_model, write_json


def train(folder: Path, batches: Path) -> list[float]:
    with safe_open(batches, "pt") as file:
        tokens, sizes = file.get_tensor("tokens").long(), file.metadata()
    shape = (len(tokens), int(sizes["batch_size"]), int(sizes["sequence_len"]))
    inputs, targets = tokens[:, :-1].reshape(shape), tokens[:, 1:].reshape(shape)
    trainer = Trainer(load_model(folder, attention="sdpa"), num_steps=len(inputs))
    losses, start = [], time.time()
    for step in range(len(inputs)):
        losses.append(trainer.step(step, inputs[step], targets[step]))
        print(f"step {step}: loss {losses[-1]:.6f} ({time.time() - start:.0f} s)", file=sys.stderr)
    return losses


def read_metrics(path: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return {row["step"]: row["loss"] for row in rows if "step" in row and "loss" in row}


def largest_difference(reference: list[float], ours: dict[int, float]) -> float:
    if sorted(ours) != list(range(len(reference))):
        sys.exit(f"{len(reference)} steps were trained here, but ours has the steps {sorted(ours)}")
    differences = [abs(loss - ours[step]) for step, loss in enumerate(reference)]
    largest = max(differences)
    step = differences.index(largest)
    print(f"largest difference {largest:.2e}, at step {step}: reference {reference[step]:.6f}, ours {ours[step]:.6f}")
    print(f"mean difference {sum(differences) / len(differences):.2e}; last losses {reference[-1]:.6f}, {ours[len(reference) - 1]:.6f}")
    return largest


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("batches", type=Path)
    arguments.add_argument("--ours", type=Path, help="metrics.jsonl of our run")
    arguments.add_argument("--out", type=Path, help="where the reference's losses go, a JSON array")
    arguments.add_argument("--tolerance", type=float, default=0.01)
    args = arguments.parse_args()
    losses = train(args.folder, args.batches)
    if args.out:
        write_json(args.out, losses)
    if args.ours and not largest_difference(losses, read_metrics(args.ours)) <= args.tolerance:
        sys.exit(1)
