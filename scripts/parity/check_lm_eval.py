"""Compares our scoring of multiple choice with lm-eval's on the same items of ARC-Easy, HellaSwag and PIQA.

    python scripts/parity/check_lm_eval.py FOLDER BUNDLE [--items 200]

FOLDER is a checkpoint, BUNDLE a CORE bundle. Both sides show no examples and the same text. lm-eval compares *sums* of log
likelihoods over everything after the question, or those sums by bytes; CORE compares *means* over the tokens from
the first that differs. Tokens that all options share change no order of sums, so our sums must order the options as lm-eval's
do: that is checked item by item. Exits with 1 if an item whose best two options are further apart than 1e-2 is answered
otherwise.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

TASKS = {
    "arc_easy": ("world_knowledge/arc_easy.jsonl", "\nAnswer: "),
    "hellaswag": ("language_understanding/hellaswag.jsonl", " "),
    "piqa": ("commonsense_reasoning/piqa.jsonl", "\nAnswer: "),
}


def make_bundle(folder: Path, bundle: Path, items: int) -> dict[str, list[dict]]:
    """A bundle of the three tasks with few items; the items in the order in which CORE takes them."""
    (folder / "eval_data").mkdir()
    (folder / "eval_meta_data.csv").write_text((bundle / "eval_meta_data.csv").read_text())
    lines, data = ["icl_tasks:"], {}
    for label, (file, delimiter) in TASKS.items():
        rows = [json.loads(line) for line in (bundle / "eval_data" / file).open()][:items]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "eval_data" / f"{label}.jsonl").write_text(text)
        lines += [f"- label: {label}", f"  dataset_uri: {label}.jsonl", "  num_fewshot: [0]"]
        lines += ["  icl_task_type: multiple_choice", f"  continuation_delimiter: {json.dumps(delimiter)}"]
        random.Random(1337).shuffle(rows)
        data[label] = rows
        (folder / f"shuffled_{label}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "core.yaml").write_text("\n".join(lines) + "\n")
    return data


def lm_eval_tasks(folder: Path) -> list[dict]:
    return [
        {
            "task": f"local_{label}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(folder / f"shuffled_{label}.jsonl")}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{query}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "gold",
            "target_delimiter": delimiter,
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        }
        for label, (_, delimiter) in TASKS.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--program", default="target/release/examples/core_items")
    args = parser.parse_args()
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as temp:
        temp = Path(temp)
        data = make_bundle(temp, args.bundle, args.items)
        ours = subprocess.run([args.program, args.folder, temp, "0"], text=True, capture_output=True, check=True).stdout
        for task in lm_eval_tasks(temp):
            (temp / f"{task['task']}.yaml").write_text(yaml.safe_dump(task, allow_unicode=True))
        manager = TaskManager(include_path=str(temp), include_defaults=False)
        model = HFLM(str(args.folder), dtype="float32", device="cpu", batch_size=16, add_bos_token=True)
        tasks = [f"local_{label}" for label in TASKS]
        found = lm_eval.simple_evaluate(model, tasks=tasks, task_manager=manager, log_samples=True, bootstrap_iters=0)
    items = [json.loads(line) for line in ours.splitlines()]
    otherwise = 0
    for label, rows in data.items():
        mine = [item for item in items if item["task"] == label]
        samples = sorted(found["samples"][f"local_{label}"], key=lambda sample: sample["doc_id"])
        core = sums = theirs = close = differ = 0
        for row, item, sample in zip(rows, mine, samples, strict=True):
            # An option without tokens of its own has lost nothing.
            losses = [(loss or 0) * count for loss, count in zip(item["losses"], item["tokens"], strict=True)]
            scores = [float(response[0][0]) for response in sample["resps"]]
            best, second = sorted(scores, reverse=True)[:2]
            our, their = losses.index(min(losses)), scores.index(best)
            core, sums, theirs = core + item["right"], sums + (our == row["gold"]), theirs + (their == row["gold"])
            if our != their:
                close, differ = close + (best - second <= 1e-2), differ + (best - second > 1e-2)
        otherwise += differ
        norm = found["results"][f"local_{label}"]["acc_norm,none"]
        print(
            f"{label:10} {len(rows)} items: CORE (means) {core / len(rows):.4f}; sums: ours {sums / len(rows):.4f}, "
            f"lm-eval acc {theirs / len(rows):.4f}; by bytes: acc_norm {norm:.4f}; otherwise {differ}, ties {close}"
        )
    return int(otherwise > 0)


if __name__ == "__main__":
    sys.exit(main())
