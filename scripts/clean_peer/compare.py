"""Cleans the same documents with nanochat and with datatrove, one thread each, and compares what is kept and the
CPU time: one form, Gopher's rules of quality and repetition, MinHash (14 bands of 8, phrases of 5 words).

    python -m venv .venv && .venv/bin/pip install datatrove==0.10.1 pyarrow regex orjson tokenizers 'xxhash<3.6'
    .venv/bin/python scripts/clean_peer/compare.py FOLDER_OF_SHARDS --language zh --megabytes 5

Words are the same on both sides (a tokenizer as in crates/nanochat/src/text/clean/words.rs), which also spares datatrove
its slower word tokenizers. datatrove identifies no language here; nanochat does.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

HAN = "\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\U00020000-\U0003ffff〇"
WORD = re.compile(rf"[{HAN}]|[^\W{HAN}]+|(?<!\S)[^\w\s]+(?!\S)")
CONTROL = {c: None for c in [*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0), 0xAD, 0x200B, 0xFEFF]}
HALF = {**{0xFF01 + i: 0x21 + i for i in range(94)}, 0x3000: 0x20, **CONTROL}


def datatrove_run(source, work, language):
    """Runs in a process of its own; prints how many documents are kept."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.base import PipelineStep
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.text import TextNormConfig
    from datatrove.utils.word_tokenizers import WordTokenizer

    class Words(WordTokenizer):
        def word_tokenize(self, text):
            return WORD.findall(text)

        def sent_tokenize(self, text):
            return [text]

        def span_tokenize(self, text):
            return [(0, len(text))]

    class OneForm(PipelineStep):
        def run(self, data, rank=0, world_size=1):
            for doc in data:
                lines = unicodedata.normalize("NFC", doc.text).translate(HALF).split("\n")
                doc.text = "\n".join(line.rstrip() for line in lines)
                yield doc

    words = Words()
    quality = {"language": words}
    times = 1
    if language == "zh":  # phrases of twice as many units, as a Chinese word has about two characters
        times = 2
        quality |= {"min_avg_word_length": None, "max_avg_word_length": None, "min_stop_words": 0}
    norm = TextNormConfig(norm_unicode_diacritics=False)
    config = MinhashConfig(norm_config=norm, n_grams=5 * times)
    top = [(n * times, share) for n, share in ((2, 0.2), (3, 0.18), (4, 0.16))]
    repeated = [(n * times, 0.15 - 0.01 * (n - 5)) for n in range(5, 11)]

    def stage(pipeline, name):
        LocalPipelineExecutor(pipeline, tasks=1, workers=1, logging_dir=f"{work}/logs/{name}").run()

    clean, sigs, buckets, gone = (f"{work}/{name}" for name in ("clean", "sigs", "buckets", "gone"))
    plain = {"compression": None}
    stage(
        [
            JsonlReader(source, **plain),
            OneForm(),
            GopherQualityFilter(**quality),
            GopherRepetitionFilter(language=words, top_n_grams=top, dup_n_grams=repeated),
            JsonlWriter(clean, **plain),
        ],
        "rules",
    )
    stage([JsonlReader(clean, **plain), MinhashDedupSignature(sigs, config, language=words)], "signatures")
    LocalPipelineExecutor([MinhashDedupBuckets(sigs, buckets, config=config)], tasks=14, logging_dir=f"{work}/logs/b").run()
    stage([MinhashDedupCluster(buckets, gone, config=config)], "cluster")
    stage([JsonlReader(clean, **plain), MinhashDedupFilter(gone), JsonlWriter(f"{work}/out", **plain)], "filter")
    count = lambda folder: sum(1 for path in Path(folder).rglob("*.jsonl") for _ in path.open())
    print(json.dumps({"after rules": count(clean), "kept": count(f"{work}/out")}))


def timed(command, **options):
    """CPU seconds of a child, with its output."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, check=True, capture_output=True, text=True, **options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("shards")
    parser.add_argument("--language", default="en", choices=["en", "zh"])
    parser.add_argument("--megabytes", type=float, default=5)
    parser.add_argument("--nanochat", default="target/release/nanochat")
    parser.add_argument("--datatrove-run", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.datatrove_run:
        return datatrove_run(*args.datatrove_run, args.language)

    import pyarrow.parquet

    with tempfile.TemporaryDirectory() as work:
        source, size, count = Path(work) / "in", 0, 0
        source.mkdir()
        with (source / "documents.jsonl").open("w") as out:
            for path in sorted(Path(args.shards).glob("*.parquet")):
                for text in pyarrow.parquet.read_table(path)["text"].to_pylist():
                    if size < args.megabytes * 1e6:
                        out.write(json.dumps({"text": text, "id": str(count)}, ensure_ascii=False) + "\n")
                        size, count = size + len(text.encode()), count + 1
        one = {**os.environ, "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        ours = [args.nanochat, "data", "clean", str(source), "--out", f"{work}/ours", "--min-language-share", "0"]
        seconds, _ = timed(ours, env=one)
        report = json.loads((Path(work) / "ours/cleaned.json").read_text())
        kept = sum(kept["documents"] for kept in report["kept"])
        near = sum(d["documents"] for d in report["dropped"] if "duplicate" in d["reason"])
        print(f"{count} documents, {size / 1e6:.1f} MB")
        print(f"nanochat   {seconds:8.2f} CPU s {size / 1e6 / seconds:8.2f} MB/s"
              f"  after rules {kept + near}, kept {kept}")
        peer = [sys.executable, __file__, args.shards, "--language", args.language, "--datatrove-run", str(source), work]
        peer_seconds, output = timed(peer, env=one)
        found = json.loads(output.splitlines()[-1])
        print(f"datatrove  {peer_seconds:8.2f} CPU s {size / 1e6 / peer_seconds:8.2f} MB/s"
              f"  after rules {found['after rules']}, kept {found['kept']}")
        print(f"ratio      {peer_seconds / seconds:.1f}")


if __name__ == "__main__":
    main()
