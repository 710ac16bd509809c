"""Checks that CORE scores every item as plain PyTorch does.

    cargo run --release -p nanochat --example core_items -- FOLDER BUNDLE 100 > items.jsonl
    python scripts/parity/check_core.py FOLDER BUNDLE items.jsonl

FOLDER is a checkpoint, BUNDLE a folder with core.yaml, eval_meta_data.csv and eval_data/. This side shares nothing with
ours: the model is transformers', the tokenizer `tokenizers`', the draws are Python's own, and each option is run alone,
without batches or padding. Exits with 1 if an item is graded differently or a mean loss differs by more than 1e-3.
"""

import argparse
import json
import math
import random
import sys
from collections import defaultdict
from itertools import takewhile
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from reference import load_model
from tokenizers import Tokenizer

TOLERANCE = 1e-3


class Scorer:
    def __init__(self, folder: Path):
        self.model = load_model(folder, attention="sdpa").eval()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.bos = self.tokenizer.token_to_id("<|bos|>")
        # Our rotary table ends at ten times the trained length.
        self.reach = 10 * json.loads((folder / "config.json").read_text())["max_position_embeddings"]

    def encode(self, text: str) -> list[int]:
        return [self.bos, *self.tokenizer.encode(text, add_special_tokens=False).ids]

    @torch.inference_mode()
    def last_logits(self, ids: list[int], count: int) -> torch.Tensor:
        return self.model(torch.tensor([ids]), logits_to_keep=count).logits[0].float()

    def mean_loss(self, ids: list[int], start: int) -> float:
        cut = max(0, len(ids) - self.reach - 1)
        ids, start = ids[cut:], start - cut
        if start == len(ids):
            return math.nan
        logits = self.last_logits(ids[:-1], len(ids) - start)
        return F.cross_entropy(logits, torch.tensor(ids[start:])).item()

    def is_greedy(self, ids: list[int], start: int) -> bool:
        cut = max(0, len(ids) - self.reach - 1)
        ids, start = ids[cut:], start - cut
        return self.last_logits(ids[:-1], len(ids) - start).argmax(-1).tolist() == ids[start:]


def shared(sequences: list[list[int]]) -> int:
    """Tokens that all sequences begin with."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*sequences, strict=False)))


def options(kind: str, item: dict, delimiter: str) -> list[str]:
    if kind == "multiple_choice":
        return [item["query"] + delimiter + choice for choice in item["choices"]]
    if kind == "schema":
        return [context + delimiter + item["continuation"] for context in item["context_options"]]
    return [item["context"].strip() + delimiter + item["continuation"]]


def score(scorer: Scorer, kind: str, item: dict, shots: list[dict], delimiter: str) -> tuple[list[float], bool]:
    front = "".join(options(kind, shot, delimiter)[shot.get("gold", 0)] + "\n\n" for shot in shots)
    sequences = [scorer.encode(front + text) for text in options(kind, item, delimiter)]
    if kind == "language_modeling":
        without = scorer.encode((front + item["context"].strip() + delimiter).strip())
        return [], scorer.is_greedy(sequences[0], shared([without, sequences[0]]))
    if kind == "multiple_choice":
        starts = [shared(sequences)] * len(sequences)
    else:
        end = shared([ids[::-1] for ids in sequences])
        starts = [len(ids) - end for ids in sequences]
    losses = [scorer.mean_loss(ids, start) for ids, start in zip(sequences, starts, strict=True)]
    return losses, losses.index(min(losses)) == item["gold"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("items", type=Path, help="what the example core_items printed")
    args = parser.parse_args()
    scorer = Scorer(args.folder)
    ours = defaultdict(list)
    for line in args.items.read_text().splitlines():
        item = json.loads(line)
        ours[item["task"]].append(item)
    bad = 0
    for task in yaml.safe_load((args.bundle / "core.yaml").read_text())["icl_tasks"]:
        found = ours.get(task["label"])
        if not found:
            print(f"{task['label']:34} not run")
            continue
        data = [json.loads(line) for line in (args.bundle / "eval_data" / task["dataset_uri"]).open()]
        random.Random(1337).shuffle(data)
        data = data[: len(found)]
        right, grades, worst = 0, 0, 0.0
        for i, (item, our) in enumerate(zip(data, found, strict=True)):
            others = [j for j in range(len(data)) if j != i]
            shots = [data[j] for j in random.Random(1234 + i).sample(others, task["num_fewshot"][0])]
            delimiter = task.get("continuation_delimiter", " ")
            losses, is_right = score(scorer, task["icl_task_type"], item, shots, delimiter)
            right += is_right
            grades += is_right != our["right"]
            for loss, our_loss in zip(losses, our["losses"], strict=True):
                if not math.isnan(loss):
                    worst = max(worst, abs(loss - our_loss))
                elif our_loss is not None:  # JSON has no NaN
                    worst = math.inf
        bad += grades > 0 or worst > TOLERANCE
        print(f"{task['label']:34} {len(data):5} items, {right:4} right, {grades} graded otherwise, loss within {worst:.1e}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
