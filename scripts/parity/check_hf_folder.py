"""Checks that Hugging Face transformers and `nanochat` see the same model in a checkpoint folder.

    python scripts/parity/check_hf_folder.py FOLDER [--nanochat target/release/nanochat]

Loads FOLDER with AutoModelForCausalLM and AutoTokenizer as it is, and compares with our program: token ids of plain
text, logits, ids of rendered conversations, the greedy answer of a chat. A warning of transformers counts as a failure. Exits
with 1 when anything differs.
"""

import argparse
import json
import logging
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = {
    "English": "Hello, world! It's 12345 o'clock; we'll see.  Two spaces,\ttabs\n\n\nand lines. ",
    "Chinese": "你好，世界！今天天气不错，价格是３.14元。\r\n“引号”——破折号……",
    "code": "def f(x, *args):\n    return {k: v ** 2 for k, v in x.items()}  # été 🙂\n\n\tpass\n",
    "edge": "  lead\u00a0nbsp\u3000wide e\u0301 \u200d👩\u200d👩\u200d👧 123 4567 \n \n  x",
}

CONVERSATIONS = {
    "plain": [{"role": "user", "content": "Why is the sky blue?"}, {"role": "assistant", "content": "Light scatters."}],
    "system": [
        {"role": "system", "content": "请用中文回答。"},
        {"role": "user", "content": " 你好\n"},
        {"role": "assistant", "content": "你好。"},
        {"role": "user", "content": "再见"},
        {"role": "assistant", "content": "再见！"},
    ],
    "tools": [
        {"role": "user", "content": "What is 12*3?"},
        {"role": "assistant", "content": [
            {"type": "text", "text": "Let me see. "},
            {"type": "python", "text": "12*3"},
            {"type": "python_output", "text": "36"},
            {"type": "text", "text": "It is 36."},
        ]},
    ],
}  # fmt: skip

PROMPTS = ["What is the capital of France?", "你是谁？", "Spell the word: apple"]
NEW_TOKENS = 32


# What our program says. The only functions that know its commands.


def run(*command: str, stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin.encode(), stdout=subprocess.PIPE)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed with exit code {done.returncode}")
    return done.stdout.decode()


def our_ids(nanochat: str, folder: Path, text: str) -> list[int]:
    return integers(run(nanochat, "tok", "encode", "--tokenizer", str(folder / "tokenizer.json"), stdin=text))


def our_rendering(nanochat: str, folder: Path, messages: list[dict]) -> list[int]:
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        json.dump({"messages": messages}, file, ensure_ascii=False)
        file.write("\n")
        file.flush()
        return integers(run(nanochat, "tok", "render", "--ids", "--tokenizer", str(folder / "tokenizer.json"), file.name))


def our_answer(nanochat: str, folder: Path, prompt: str) -> str:
    return run(nanochat, "chat", "-m", str(folder), "-p", prompt, "--temperature", "0", "--max-tokens", str(NEW_TOKENS))


def our_logits(program: str, folder: Path, ids: list[int]) -> list[float]:
    return [float(line) for line in run(program, str(folder), *map(str, ids)).split()]


def integers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


# What transformers says.


def their_answer(model, tokenizer, prompt: str) -> tuple[str, bool]:
    """The greedy answer, and whether it goes on behind a tool call (transformers has no calculator to go on with)."""
    messages = [{"role": "user", "content": prompt}]
    prompt_ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    output = model.generate(**prompt_ids, max_new_tokens=NEW_TOKENS, do_sample=False)
    answer = output[0, prompt_ids["input_ids"].size(1) :].tolist()
    call_end = tokenizer.convert_tokens_to_ids("<|python_end|>")
    calls_tool = call_end in answer
    if calls_tool:
        answer = answer[: answer.index(call_end)]
    return tokenizer.decode(answer, skip_special_tokens=True), calls_tool


class Warnings(logging.Handler):
    """Collects what transformers would have liked the user to know."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def same_answer(theirs: str, calls_tool: bool, ours: str) -> bool:
    """Ours stops before a character that the token limit cut, theirs shows U+FFFD."""
    theirs, ours = theirs.rstrip("\ufffd").strip(), ours.strip()
    return ours.startswith(theirs) if calls_tool else ours == theirs


def checks(nanochat: str, logits: str, folder: Path):
    """Every comparison as (name, theirs, ours, whether they agree)."""
    warnings = Warnings()
    transformers.utils.logging.add_handler(warnings)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    for name, text in TEXTS.items():
        theirs, ours = tokenizer.encode(text, add_special_tokens=False), our_ids(nanochat, folder, text)
        yield f"ids of {name}", theirs, ours, theirs == ours
        last = model(torch.tensor([theirs])).logits[0, -1].tolist()
        worst = max(abs(a - b) for a, b in zip(last, our_logits(logits, folder, theirs), strict=True))
        yield f"logits after {name}", worst, "at most 1e-4", worst <= 1e-4
        yield f"{name} decoded", tokenizer.decode(theirs), text, tokenizer.decode(theirs) == text
    for name, messages in CONVERSATIONS.items():
        theirs = list(tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"])
        ours = our_rendering(nanochat, folder, messages)
        yield f"rendering of {name}", theirs, ours, theirs == ours
    for prompt in PROMPTS:
        (theirs, calls_tool), ours = their_answer(model, tokenizer, prompt), our_answer(nanochat, folder, prompt)
        yield f"answer to {prompt!r}", theirs, ours, same_answer(theirs, calls_tool, ours)
    yield "warnings of transformers", warnings.messages, [], not warnings.messages


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--nanochat", default="target/release/nanochat", help="our program")
    arguments.add_argument("--logits", default="target/release/examples/logits", help="our example of that name")
    args = arguments.parse_args()
    agreed = True
    for name, theirs, ours, same in checks(args.nanochat, args.logits, args.folder):
        print(f"{'same     ' if same else 'DIFFERENT'} {name}" + ("" if same else f"\n  theirs {theirs!r}\n  ours   {ours!r}"))
        agreed &= same
    sys.exit(0 if agreed else 1)
