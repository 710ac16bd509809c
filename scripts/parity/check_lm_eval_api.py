"""Compares lm-eval through `nanochat serve` with lm-eval's own `hf` model on the same folder, request by request.

    python scripts/parity/check_lm_eval_api.py FOLDER BUNDLE [--items 100] [--nanochat target/release/nanochat]

FOLDER is a model folder (a checkpoint, or what `nanochat export` wrote), BUNDLE a CORE bundle. Both sides compute in f32.
Log-likelihoods of ARC-Easy, PIQA, HellaSwag and LAMBADA, of whole texts (rolling), and greedy answers up to a stop string:

- lm-eval sends token ids, and ids are taken as they are. The exported tokenizer puts no `<|bos|>` in front of a text, so
  the two agree with lm-eval's defaults, whichever side tokenizes: `tokenizer=FOLDER` or `tokenizer_backend=remote`.
- The server puts `<|bos|>` in front of a text, as every document had it in training. `tokenized_requests=False` sends
  texts, which is compared with `hf` and `add_bos_token=True`: ARC-Easy agrees, of PIQA 62 of 198 do not, and why is not known yet.

lm-eval's API models keep one token of the context for the answer, and cut what is longer by another; `hf` is given
the same length. An item is left out if an option alone is longer than that, which lm-eval does not take. Exits with 1 if a log-likelihood is off by more than 1e-3, or an answer is another one.
"""

import argparse
import contextlib
import itertools
import json
import subprocess
import sys
from pathlib import Path

TASKS = {
    "arc_easy": ("world_knowledge/arc_easy.jsonl", "\nAnswer: "),
    "piqa": ("commonsense_reasoning/piqa.jsonl", "\nAnswer: "),
    "hellaswag": ("language_understanding/hellaswag.jsonl", " "),
    "lambada": ("language_understanding/lambada_openai.jsonl", " "),
}
MOST = 1e-3


def pairs(bundle: Path, items: int, fits) -> dict[str, list[tuple[str, str]]]:
    """What stands before, and what is scored, of the first items that fit."""
    found = {}
    for label, (file, delimiter) in TASKS.items():
        rows = map(json.loads, (bundle / "eval_data" / file).open(encoding="utf-8"))
        of_row = lambda row: [
            (row.get("query") or row["context"], delimiter + option) for option in row.get("choices") or [row["continuation"]]
        ]
        fitting = filter(lambda options: all(map(fits, options)), map(of_row, rows))
        found[label] = [pair for options in itertools.islice(fitting, items) for pair in options]
    return found


@contextlib.contextmanager
def served(nanochat: str, folder: Path):
    command = [nanochat, "serve", "-m", str(folder), "--weights", "f32", "--port", "0", "--name", "model"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait()


def instances(kind: str, arguments: list[tuple]) -> list:
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=pair, idx=i) for i, pair in enumerate(arguments)]


def compare(name: str, ours: list[tuple], theirs: list[tuple]) -> int:
    """How many log-likelihoods are off. Whether a continuation is the likeliest may differ where two tokens are nearly alike."""
    differences = [abs(a[0] - b[0]) for a, b in zip(ours, theirs, strict=True)]
    off, greedy = sum(difference > MOST for difference in differences), sum(a[1] != b[1] for a, b in zip(ours, theirs))
    print(
        f"{name:31} {len(ours):4} values: {off} off by more than {MOST}, the largest by {max(differences):.1e}; "
        f"otherwise greedy {greedy}",
        flush=True,
    )
    return off


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--nanochat", default="target/release/nanochat")
    args = parser.parse_args()
    from lm_eval.models.huggingface import HFLM
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    context = json.loads((args.folder / "config.json").read_text())["max_position_embeddings"]

    def hf(**options) -> HFLM:
        length = context - 2 - int("add_bos_token" in options)
        return HFLM(str(args.folder), dtype="float32", device="cpu", batch_size=8, max_length=length, **options)

    plain = hf()
    length = lambda text: len(plain.tok_encode(text))
    # One token of the question has to be left.
    requests = pairs(args.bundle, args.items, lambda pair: length(pair[0] + pair[1]) - length(pair[0].rstrip()) <= context - 3)
    texts = [(before,) for before, _ in requests["lambada"]]
    until = {"until": ["\n", ". "], "max_gen_toks": 24, "do_sample": False}
    questions = [(before[:80], until) for before, _ in requests["arc_easy"][::4]]
    scored = {label: instances("loglikelihood", found) for label, found in requests.items()}
    rolling, asked = instances("loglikelihood_rolling", texts), instances("generate_until", questions)
    expected = {label: plain.loglikelihood(found) for label, found in scored.items()}
    expected_rolling, answers = plain.loglikelihood_rolling(rolling), plain.generate_until(asked)
    off = 0
    with served(args.nanochat, args.folder) as base:

        def api(length=context, **options) -> LocalCompletionsAPI:
            url = f"{base}/v1/completions"
            return LocalCompletionsAPI(model="model", base_url=url, max_length=length, batch_size=8, **options)

        ways = {
            "folder": {"tokenizer": str(args.folder), "tokenizer_backend": "huggingface"},
            "folder, found out": {"tokenizer": str(args.folder)},
            "remote": {"tokenizer_backend": "remote"},
            "remote, four at once": {"tokenizer_backend": "remote", "num_concurrent": 4},
        }
        for title, options in ways.items():
            model = api(**options)
            assert model.prefix_token_id == plain.prefix_token_id and model.eos_string == plain.tokenizer.eos_token
            off += sum(compare(f"{title}, {label}", model.loglikelihood(found), expected[label]) for label, found in scored.items())
            one_list = lambda values: [(float(value), None) for value in values]
            off += compare(f"{title}, rolling", one_list(model.loglikelihood_rolling(rolling)), one_list(expected_rolling))
            others = [pair for pair in zip(model.generate_until(asked), answers, strict=True) if pair[0] != pair[1]]
            print(f"{title}, answers: {len(others)} of {len(answers)} are others", *map(repr, others[:3]), flush=True)
            off += len(others)
        text, theirs = api(**ways["folder"], length=context - 1, tokenized_requests=False), hf(add_bos_token=True)
        for label, found in requests.items():
            # A text that has to be cut is cut before the server puts <|bos|> in front, by `hf` after.
            found = instances("loglikelihood", [pair for pair in found if length(pair[0] + pair[1]) <= context - 2])
            if found:
                off += compare(f"texts, {label}", text.loglikelihood(found), theirs.loglikelihood(found))
    return int(off > 0)


if __name__ == "__main__":
    sys.exit(main())
