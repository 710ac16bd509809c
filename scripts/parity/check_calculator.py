"""Checks the calculator against Python's own arithmetic on random expressions.

    python scripts/parity/check_calculator.py [--count 100000] [--program target/release/examples/calculate]

What Python makes a whole float (10.0) must read 10; division by zero must give nothing, and so must what leaves the
128 bits of our integers or the range of floats. Exits with 1 if any differs.
"""

import argparse
import random
import subprocess
import sys

LARGEST = 2**127


def expression(rng: random.Random, depth: int) -> str:
    if depth == 0 or rng.random() < 0.2:
        number = rng.choice([rng.randint(0, 9), rng.randint(0, 10**6), rng.randint(0, 10**30)])
        return rng.choice([str(number), f"{number}.{rng.randint(0, 999)}", f".{rng.randint(0, 99)}", f"{number:,}"])
    left, right = expression(rng, depth - 1), expression(rng, depth - 1)
    space = rng.choice(["", " "])
    text = rng.choice([left + space + op + space + right for op in ("+", "-", "*", "/", "//")])
    return rng.choice([text, f"({text})", f"-{left}", f"+({text})"])


def expected(text: str) -> str | None:
    """None where a result of more than 128 bits may have come in between."""
    try:
        value = eval(text.replace(",", ""), {"__builtins__": {}})
    except (ZeroDivisionError, OverflowError):
        return ""
    if isinstance(value, int):
        return str(value) if abs(value) < LARGEST else None
    if value != value or value in (float("inf"), float("-inf")):
        return ""
    whole = repr(value).removesuffix(".0")
    return "0" if whole == "-0" else whole


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--program", default="target/release/examples/calculate")
    args = parser.parse_args()
    rng = random.Random(0)
    texts = [expression(rng, rng.randint(1, 4)) for _ in range(args.count)]
    run = subprocess.run([args.program], input="\n".join(texts) + "\n", text=True, capture_output=True, check=True)
    ours = run.stdout.split("\n")[: len(texts)]
    compared = refused = wrong = 0
    for text, our in zip(texts, ours, strict=True):
        want = expected(text)
        if our == "" and want != "":  # an intermediate integer beyond 128 bits
            refused += 1
        elif want is not None:
            compared += 1
            if our != want:
                wrong += 1
                print(f"{text} is {want}, ours {our or 'nothing'}")
    print(f"{compared} of {len(texts)} compared, {wrong} differ; {refused} refused for their size")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
