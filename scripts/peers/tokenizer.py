"""Trains and encodes the same text with nanochat and with its peers, one after the other: rustbpe and tokenizers
train, tiktoken encodes on one thread, and both tiktoken and tokenizers check nanochat's ids (--ids).

    python -m venv .venv && .venv/bin/pip install rustbpe==0.1.0 tokenizers tiktoken pyarrow regex
    .venv/bin/python scripts/peers/tokenizer.py FOLDER_OF_SHARDS --vocab-size 32768 --train-megabytes 50

With --memory, memory alone is measured. A peer's is the largest of its process above what it held before training, its text
excluded: it is read as it is needed. Ours is what the process takes more than with a hundred thousand characters.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet

PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
SPECIAL = 9


def documents(paths, megabytes):
    """The first whole documents of the files, as `nanochat bench tok` takes them."""
    size = 0
    for path in paths:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=256, columns=["text"]):
            for text in batch["text"].to_pylist():
                size += len(text.encode())
                if size > megabytes * 1e6:
                    return
                yield text


def resident(field, process="self"):
    lines = open(f"/proc/{process}/status").read().splitlines()
    # A process that is about to end has no memory any more.
    return max((int(line.split()[1]) / 1024 for line in lines if line.startswith(field)), default=0)


def train_rustbpe(texts, vocab_size):
    import rustbpe

    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(texts, vocab_size - SPECIAL, pattern=PATTERN)
    return {bytes(token): rank for token, rank in tokenizer.get_mergeable_ranks()}


def train_tokenizers(texts, vocab_size):
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - SPECIAL, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(texts, trainer)
    return {}


PEERS = {"rustbpe": train_rustbpe, "tokenizers": train_tokenizers}


def peer(name, args):
    """Runs in a process of its own; prints seconds with the text in memory, or memory without."""
    paths = sorted(Path(args.shards).glob("*.parquet"))[:-1]
    texts = documents(paths, args.train_megabytes)
    if not args.memory:
        texts = list(texts)
    before, start = resident("VmRSS"), time.perf_counter()
    ranks = PEERS[name](iter(texts), args.vocab_size)
    seconds = time.perf_counter() - start
    tokens = [token.hex() for token in sorted(ranks, key=ranks.get)]
    print(json.dumps({"seconds": seconds, "memory": resident("VmHWM") - before, "tokens": tokens}))


def run_peer(name, args, memory=False):
    command = [sys.executable, __file__, args.shards, "--peer", name, "--vocab-size", str(args.vocab_size)]
    command += ["--train-megabytes", str(args.train_megabytes)] + ["--memory"] * memory
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def our_memory(args, work, characters):
    """Largest memory of the whole process, that of reading shards included. What wait4 says of it would count this process
    too, which it was forked from."""
    command = [args.nanochat, "tok", "train", "--data", args.shards, "--vocab-size", str(args.vocab_size)]
    command += ["--max-chars", str(characters), "--doc-cap", str(10**9), "--base-dir", work]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    largest = 0
    while child.poll() is None:
        largest = max(largest, resident("VmHWM", child.pid))
        time.sleep(0.01)
    assert child.returncode == 0, "tok train failed"
    return largest


def distinct_megabytes(texts):
    import regex

    pieces, pattern = set(), regex.compile(PATTERN)
    for text in texts:
        pieces.update(pattern.findall(text))
    return sum(len(piece.encode()) for piece in pieces) / 1e6


def compare_memory(args, work, names):
    trained = list(documents(sorted(Path(args.shards).glob("*.parquet"))[:-1], args.train_megabytes))
    characters, distinct = sum(map(len, trained)), distinct_megabytes(trained)
    whole, least = our_memory(args, work, characters), our_memory(args, work, 100_000)
    per_byte = (whole - least) * 1.048576 / distinct
    print(f"memory  nanochat   {whole - least:8.0f} MiB of {whole:.0f}, {per_byte:.1f} bytes a byte of the distinct {distinct:.1f} MB", flush=True)
    for name in names:
        print(f"        {name:<10} {run_peer(name, args, memory=True)['memory']:8.0f} MiB", flush=True)


def alphabet():
    """GPT-2's stand-in for each byte, back to the byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(rest)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("shards")
    parser.add_argument("--vocab-size", type=int, default=32768)
    parser.add_argument("--train-megabytes", type=float, default=50)
    parser.add_argument("--encode-megabytes", type=float, default=25)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-tokenizers", action="store_true", help="leave the slowest peer out")
    parser.add_argument("--nanochat", default="target/release/nanochat")
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--memory", action="store_true", help="measure the memory of training instead of speed")
    parser.add_argument("--ids", action="store_true", help="check that all ids are the same: slow")
    args = parser.parse_args()
    if args.peer:
        return peer(args.peer, args)

    names = ["rustbpe"] if args.no_tokenizers else list(PEERS)
    work = tempfile.mkdtemp()
    if args.memory:
        return compare_memory(args, work, names)

    import tiktoken
    from tokenizers import Tokenizer

    file = f"{work}/tokenizer.json"
    ours = [args.nanochat, "bench", "tok", "--data", args.shards, "--json", "--save", file]
    ours += ["--vocab-size", str(args.vocab_size), "--train-megabytes", str(args.train_megabytes)]
    ours += ["--encode-megabytes", str(args.encode_megabytes), "--repeats", str(args.repeats)]
    speed = json.loads(subprocess.run(ours, check=True, capture_output=True, text=True).stdout)
    rate, megabytes = speed["train_mb_per_second"], speed["train_megabytes"]
    print(f"train   nanochat   {rate:8.2f} MB/s  ({megabytes:.1f} MB)")
    saved = json.loads(Path(file).read_text())
    byte, special = alphabet(), {token["content"] for token in saved["added_tokens"]}
    ranks = {bytes(byte[c] for c in t): i for t, i in saved["model"]["vocab"].items() if t not in special}
    for name in names:
        # A peer of a minute is run once.
        runs = [run_peer(name, args)]
        while len(runs) < args.repeats and runs[0]["seconds"] < 20:
            runs.append(run_peer(name, args))
        seconds = statistics.median(run["seconds"] for run in runs)
        same = sum(ranks.get(bytes.fromhex(token)) == i for i, token in enumerate(runs[0]["tokens"]))
        note = f", {same} of {len(ranks)} tokens the same" if runs[0]["tokens"] else ""
        print(f"        {name:<10} {megabytes / seconds:8.2f} MB/s  ratio {rate * seconds / megabytes:.1f}{note}")

    texts = list(documents(sorted(Path(args.shards).glob("*.parquet"))[-1:], args.encode_megabytes))
    encoding = tiktoken.Encoding("nanochat", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    times = []
    for _ in range(args.repeats):
        start = time.perf_counter()
        tokens = sum(len(encoding.encode_ordinary(text)) for text in texts)
        times.append(time.perf_counter() - start)
    peer_rate = speed["encode_megabytes"] / statistics.median(times)
    rate = speed["encode_mb_per_second"]
    print(f"encode  nanochat   {rate:8.2f} MB/s  ({speed['encode_megabytes']:.1f} MB, {speed['tokens']} tokens)")
    print(f"        tiktoken   {peer_rate:8.2f} MB/s  ratio {rate / peer_rate:.1f} ({tokens} tokens)")
    print("hard texts of 64 KiB, 256 KiB, 1 MiB, 4 MiB, 16 MiB, MB/s")
    for hard in speed["hard"]:
        print(f"        {hard['text']:<20}", *(f"{rate:8.1f}" for rate in hard["mb_per_second"]))
    if not args.ids:
        return
    hub = Tokenizer.from_file(file)
    for start in range(0, len(texts), 500):
        text = "\n".join(texts[start : start + 500])
        encode = [args.nanochat, "tok", "encode", "--tokenizer", file]
        out = subprocess.run(encode, check=True, capture_output=True, text=True, input=text).stdout
        ids = [int(word) for word in out.split()]
        assert ids == encoding.encode_ordinary(text), "tiktoken's ids differ"
        assert ids == hub.encode(text).ids, "tokenizers' ids differ"
    print("ids     the same as those of tiktoken and tokenizers in all of the text encoded")


if __name__ == "__main__":
    main()
