"""Writes tiny tokenizer.json files of the kinds in use, with the ids that Hugging Face tokenizers gives odd strings.

Run by hand: `python scripts/parity/make_tokenizer_fixtures.py` (see requirements.txt). In
crates/nanochat-tokenizer/tests/fixtures it writes

base.json   a vocabulary and merges that all kinds share, trained here, and the odd strings
KIND.json   `file`, a tokenizer.json without that vocabulary, and `ids`, of each odd string: special tokens are text
            (encode_special_tokens), none are added

With `--check target/release/nanochat` it writes nothing: `nanochat tok import` reads every kind, and tokenizers compares what it
wrote with the original on thousands of random strings, and a few with the ids that nanochat gives itself.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

FIXTURES = Path(__file__).resolve().parents[2] / "crates/nanochat-tokenizer/tests/fixtures"

CORPUS = [
    "the quick brown fox jumps over the lazy dog, and the dog isn't pleased; it's the fox's fault!",
    "def f(x):\n    return x ** 2\n\n\nclass A:\n\tdef g(self):\n        return self.x + 1234567890",
    "敏捷的棕色狐狸跳过懒狗。人工智能，你好！价格是３.14元。今天天气不错",
    "été naïve café Ünïcödé 2023-10-27 12:34:56 100,000 $5.00 (a|b) [c] {d} <e> ...",
    "HelloWorld camelCase snake_case ALLCAPS I'LL we've you're don't",
]

TEXTS = [
    "",
    "def f(x):\n    return x",
    "a  b   c    d     e                          f",
    "\tx\t\ty \t z\n\n\n  w\r\n\r\n q \r",
    "abc123456 1234567 3.14 ½²³ ٣٤ Ⅷ",
    "It's we'LL DON'T 'ſ x'S",
    "人工智能，你好！　价格３.14元。 日本語のカタカナ 한국어",
    "é e\u0301 a\u0323\u0301 \u1e69 ñ \U00011935\U00011930\u0301 \u212b ﬁ",
    "👩‍👩‍👧 🙂🙂 x\u200dy \ufeffz \u0000\u0001\u001f",
    "<think>a</think> <tool_call>{}</tool_call> <|endoftext|> <think>x</thinkx",
    "word  <mask>   word<mask>x  <left>  <right>\t\n  y hers he she the theme",
    "!!!...---===+++ $$$ «“”» ¿? 、。！？ _ `x` ~~ ^^ |||",
    "HelloWorld camelCaseXMLHttpRequest snake_case_9",
    "  \n \n\n   \n\tlast  ",
    "x\u00a0y\u3000z\u2003w\u2028v\u0085u",
    "return  self.x[1:-1]  # été <|im_start|>user\n<fim_a>",
    "ò1²ó b³ ¾ ¹",
    "\U00011938 \ua7f1 \U0001fae9 \u166d \u2e5d \ufffd \U0010ffff",
]


def split(regex: str, behavior: str = "Isolated", invert: bool = False) -> dict:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def byte_level(use_regex: bool, add_prefix_space: bool = False) -> dict:
    return {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True, "use_regex": use_regex}


def steps(*pretokenizers: dict) -> dict:
    return {"type": "Sequence", "pretokenizers": list(pretokenizers)}


def token(content: str, **flags: bool) -> dict:
    """An added token that counts as text, unless a flag says otherwise; its id comes later."""
    return {"content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False} | flags


END = token("<|endoftext|>", special=True)
DIGITS = {"type": "Digits", "individual_digits": True}
NFC = {"type": "NFC"}
CL100K = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = CL100K.replace("{1,3}", "")
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+",
])  # fmt: skip
DEEPSEEK = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
SPACES = [" " * n for n in range(24, 1, -1)]

# Of each kind: the model it is like, what it sets. `outside`: its added tokens are not in the vocabulary.
KINDS = {
    "gpt2": {"pre_tokenizer": byte_level(True), "added": [END]},
    "neox": {"pre_tokenizer": byte_level(True), "added": [END] + [token(run, normalized=True) for run in SPACES], "outside": True},
    "phi": {"pre_tokenizer": byte_level(True), "added": [END] + [token(run, normalized=True) for run in SPACES[8:] + ["\t" * 3, "\t\t"]]},
    "falcon": {
        "pre_tokenizer": steps({"type": "Punctuation", "behavior": "Contiguous"}, byte_level(True), {"type": "Digits", "individual_digits": False}, split("[0-9][0-9][0-9]")),
        "added": [END],
    },
    "llama3": {
        "pre_tokenizer": steps(split(CL100K), byte_level(False)), "added": [END, token("he"), token("<|reserved|>", special=True)],
        "outside": True, "ignore_merges": True,
        "post_processor": {"type": "Sequence", "processors": [byte_level(True), {
            "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
        }]},
    },
    "qwen": {
        "normalizer": NFC, "pre_tokenizer": steps(split(QWEN), byte_level(False)), "outside": True,
        "added": [END, token("<|im_start|>", special=True)] + [token(name) for name in ["<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_", "fim"]],
    },
    "gpt4": {"pre_tokenizer": steps(split(CL100K, "Removed", True), byte_level(False)), "added": [END]},
    "gpt4o": {"pre_tokenizer": steps(split(O200K, "Removed", True), byte_level(False)), "added": [END]},
    "deepseek3": {
        "normalizer": {"type": "Sequence", "normalizers": []}, "outside": True, "added": [END, token("<fim_a>", normalized=True)],
        "pre_tokenizer": steps(split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK), byte_level(False)),
    },
    "deepseek2": {
        "added": [END],
        "pre_tokenizer": steps(
            split(r"[\r\n]"), split(r"\s?[A-Za-zµÀ-ÖØ-öø-ƺ]+"), split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"), split(r"\s+$"),
            split("[一-龥ࠀ-一가-퟿]+"), DIGITS, byte_level(False),
        ),
    },
    "starcoder": {"pre_tokenizer": steps(DIGITS, byte_level(True)), "added": [END]},
    "bloom": {"pre_tokenizer": steps(split(r" ?[^(\s|[.,!?…。，、।۔،])]+"), byte_level(False)), "added": [END]},
    "roberta": {"pre_tokenizer": byte_level(True, True), "added": [END, token("<mask>", special=True, lstrip=True)]},
    "spaced": {"pre_tokenizer": steps(DIGITS, byte_level(False, True), split("e")), "added": [END]},
    "words": {"pre_tokenizer": steps({"type": "Whitespace"}, byte_level(False)), "added": [END]},
    "gaps": {"pre_tokenizer": steps(split(r"\p{L}+", "Removed", True), byte_level(False)), "added": [END]},
    "before": {"pre_tokenizer": steps(split(r"[\s_]", "MergedWithPrevious"), {"type": "Punctuation"}, byte_level(False)), "added": [END]},
    "behind": {"pre_tokenizer": steps(split(r"\p{Lu}", "MergedWithNext"), split(r"\s", "Contiguous", True), byte_level(False)), "added": [END]},
    "empty": {"pre_tokenizer": steps(split(r"(?=\p{Lu})"), split("o*"), split(" ?[^ ]*", "Contiguous"), byte_level(False)), "added": [END]},
    "flags": {
        "normalizer": NFC, "pre_tokenizer": byte_level(True), "outside": True,
        "added": [
            END, token("<mask>", lstrip=True), token("<left>", lstrip=True, rstrip=True), token("<right>", rstrip=True, normalized=True),
            token("he", single_word=True), token("the", normalized=True, single_word=True), token("\t"), token("  ", normalized=True),
            token("e\u0301", normalized=True), token("a\u0323"), token("<think>", special=True), token("nk>x", normalized=True),
        ],
    },
    "listed": {
        "pre_tokenizer": steps(split(QWEN), byte_level(False)), "ignore_merges": True,
        "added": [END, token("ALLCAPS", single_word=True), token("  "), token("camel", normalized=True), token("<think>")],
    },
}  # fmt: skip


def train_base() -> tuple[dict, list]:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(vocab_size=360, min_frequency=1, show_progress=False, initial_alphabet=ByteLevel.alphabet(), special_tokens=["<|endoftext|>"])
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    # A token that no merges lead to, for those that ignore merges.
    return model["vocab"] | {"cafÃ©": len(model["vocab"])}, model["merges"]


def tokenizer_file(kind: dict, vocab: dict, merges: list) -> dict:
    """A tokenizer.json; its vocabulary is the shared one and, unless they are outside, the added tokens."""
    ids = dict(vocab)
    for added in kind["added"]:
        ids.setdefault(added["content"], len(ids))
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False}
    model |= {"byte_fallback": False, "ignore_merges": kind.get("ignore_merges", False), "vocab": vocab if kind.get("outside") else ids, "merges": merges}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": ids[added["content"]]} | added for added in kind["added"]],
        "normalizer": kind.get("normalizer"), "pre_tokenizer": kind["pre_tokenizer"],
        "post_processor": kind.get("post_processor"), "decoder": byte_level(True, True), "model": model,
    }  # fmt: skip


def reader(file: str) -> Tokenizer:
    tokenizer = Tokenizer.from_str(file)
    tokenizer.encode_special_tokens = True
    return tokenizer


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def write_fixtures() -> None:
    FIXTURES.mkdir(exist_ok=True)
    vocab, merges = train_base()
    write("base", {"vocab": vocab, "merges": merges, "texts": TEXTS})
    for name, kind in KINDS.items():
        file = tokenizer_file(kind, vocab, merges)
        tokenizer = reader(json.dumps(file))
        file["model"]["vocab"] = {token: id for token, id in file["model"]["vocab"].items() if token not in vocab}
        del file["model"]["merges"]
        write(name, {"file": file, "ids": [ids_of(tokenizer, text) for text in TEXTS]})


def write(name: str, content: dict) -> None:
    path = FIXTURES / f"{name}.json"
    path.write_text(json.dumps(content, ensure_ascii=True, separators=(",", ":")) + "\n", encoding="utf-8")


def random_text(random: random.Random) -> str:
    """Pieces of the odd strings and single characters, so that what the kinds tell apart meets."""
    pieces = []
    for _ in range(random.randrange(1, 12)):
        choice = random.random()
        text = random.choice(TEXTS[1:] + CORPUS)
        start = random.randrange(len(text))
        if choice < 0.6:
            pieces.append(text[start : start + random.randrange(1, 9)])
        elif choice < 0.8:
            pieces.append(random.choice(" \t\n\r") * random.randrange(1, 6))
        elif choice < 0.9:
            pieces.append(random.choice(["<think>", "<mask>", "<left>", "<right>", "he", "the", "e\u0301", "<fim_a>", "<|im_", "<|im_start|>", "ALLCAPS", "camel"]))
        else:
            code_point = random.randrange(0x110000)
            pieces.append(chr(code_point) if not 0xD800 <= code_point < 0xE000 else "x")
    return "".join(pieces)


def check(nanochat: str, strings: int) -> bool:
    vocab, merges = train_base()
    texts = [random_text(random.Random(i)) for i in range(strings)]
    agreed = True
    for name, kind in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            given = Path(folder) / "given.json"
            given.write_text(json.dumps(tokenizer_file(kind, vocab, merges)), encoding="utf-8")
            subprocess.run([nanochat, "tok", "import", str(given), "--base-dir", folder], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            original = reader(given.read_text(encoding="utf-8"))
            written = reader((Path(folder) / "tokenizer/tokenizer.json").read_text(encoding="utf-8"))
            different = [text for text in TEXTS + texts if ids_of(original, text) != ids_of(written, text)]
            for text in TEXTS + texts[:20]:
                command = [nanochat, "tok", "encode", "--base-dir", folder]
                ours = subprocess.run(command, input=text.encode(), stdout=subprocess.PIPE, check=True).stdout.split()
                if list(map(int, ours)) != ids_of(original, text):
                    different.append(text)
        print(f"{'same     ' if not different else 'DIFFERENT'} {name}" + (f" {len(different)}, such as {different[0]!r}" if different else ""))
        agreed &= not different
    return agreed


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--check", metavar="NANOCHAT", help="compare instead of writing")
    arguments.add_argument("--strings", type=int, default=2000, help="random strings for --check")
    args = arguments.parse_args()
    if args.check is None:
        write_fixtures()
    else:
        sys.exit(0 if check(args.check, args.strings) else 1)
