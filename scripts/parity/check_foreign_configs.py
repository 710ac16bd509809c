"""Tries random config.json files of model folders: `nanochat` must compute what transformers does, or refuse by name.

    python scripts/parity/check_foreign_configs.py TOKENIZER.json [--count 60] [--seed 1] [--logits PROGRAM]

Each folder has random sizes and random weights (in one file or several, in float32, bf16 or float16), and a config.json
with up to three of the changes in make_foreign_configs.py. PROGRAM is our example `logits`. Exits with 1 when one folder is
loaded with other logits than those of transformers, or refused without a name in the sentence.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch
import transformers

from make_fixtures import sizes
from make_foreign_configs import HONOURED, REFUSED, REMOVED, TOLERANCE, changed, last_logits, random_model
from reference import write_json


def random_config(dice: random.Random, vocab_size: int) -> tuple[dict, dict]:
    """config.json before its changes, and the changes."""
    head_dim, n_head = dice.choice([8, 16, 32, 64]), dice.choice([1, 2, 3, 4])
    n_kv_head = dice.choice([n for n in range(1, n_head + 1) if n_head % n == 0])
    config = sizes(vocab_size, dice.randint(1, 3), head_dim * n_head, n_head, n_kv_head, sequence_len=64)
    config["rms_norm_eps"] = 10 ** dice.uniform(-8, -2)
    config["rope_parameters"]["rope_theta"] = 10 ** dice.uniform(2, 7)
    change = {}
    for _ in range(dice.randint(0, 2)):
        change |= dice.choice(list(HONOURED.values()))
    if dice.random() < 0.5:
        change |= dice.choice(list(REFUSED.values()))[1]
    if change.get("head_dim") == 8:
        change["head_dim"] = head_dim
    return config, change


def write_folder(folder: Path, config: dict, change: dict, tokenizer: Path, dice: random.Random) -> None:
    """Weights as config.json wants them, or as it did before its changes where transformers makes no model of it."""
    seeded = torch.Generator().manual_seed(dice.randrange(1 << 30))
    dtype = dice.choice([torch.float32, torch.bfloat16, torch.float16])
    shards = dice.choice(["5GB", "5GB", "60KB"])
    odd = changed(config, change)
    try:
        huge = odd.get("hidden_size") == 1 << 31
        write_json(folder / "config.json", config if huge else odd)
        model = random_model(folder, seeded)
    except Exception:
        write_json(folder / "config.json", config)
        model = random_model(folder, seeded)
    model.to(dtype).save_pretrained(folder, max_shard_size=shards)
    write_json(folder / "config.json", odd)
    shutil.copy(tokenizer, folder / "tokenizer.json")


def verdict(program: str, folder: Path, ids: list[int], change: dict) -> tuple[str, str]:
    """What became of a folder, and the sentence or number that says why."""
    try:
        theirs = last_logits(folder, ids)
    except Exception as error:
        theirs, failure = None, f"{type(error).__name__}"
    ours = subprocess.run([program, str(folder), *map(str, ids)], capture_output=True, text=True)
    if ours.returncode != 0:
        panicked = ours.returncode != 1 or "panicked" in ours.stderr
        said = ours.stderr.strip().split("\n")[0]
        named = any(key in said for key in change) or "rope" in said and any("rope" in key for key in change)
        return ("refused by name" if named and not panicked else "REFUSED WITHOUT A NAME"), said
    if theirs is None:
        return "LOADED, WHERE TRANSFORMERS FAILS", failure
    worst = max(abs(a - float(b)) for a, b in zip(theirs, ours.stdout.split(), strict=True))
    return ("the same logits" if worst <= TOLERANCE else "OTHER LOGITS"), f"{worst:.1e}"


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("tokenizer", type=Path)
    arguments.add_argument("--count", type=int, default=60)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--logits", default="target/release/examples/logits", help="our example of that name")
    args = arguments.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    vocab_size = len(transformers.PreTrainedTokenizerFast(tokenizer_file=str(args.tokenizer)))
    counts = Counter()
    for number in range(args.count):
        dice = random.Random(f"{args.seed} {number}")
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            config, change = random_config(dice, vocab_size)
            write_folder(folder, config, change, args.tokenizer, dice)
            ids = [dice.randrange(vocab_size) for _ in range(dice.randint(2, 50))]
            what, why = verdict(args.logits, folder, ids, change)
            shown = json.dumps({key: "removed" if value is REMOVED else value for key, value in change.items()})
            files = len(list(folder.glob("*.safetensors")))
            print(f"{number:3} {what}: {why.replace(temporary, 'FOLDER')} | {files} files | {shown}", flush=True)
        counts[what] += 1
    print(dict(counts))
    sys.exit(any(what.isupper() for what in counts))
