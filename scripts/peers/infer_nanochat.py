"""The engine of karpathy/nanochat (its state b399e43) on the work of `nanochat bench infer --device cuda`: one prompt of
random tokens, and a number of samples of it, which is all that engine can batch.

    python scripts/peers/infer_nanochat.py PATH_TO_NANOCHAT --depth 20 --batch-sizes 1,8,32,128

Runs it as its chat_cli does: weights in float32, bf16 by autocast. Of its tokenizer only the special ids are asked for.
"""

import argparse
import json
import sys
import time
import types

import torch


class Tokenizer:
    def encode_special(self, name):
        return -1  # no sampled token is one: only the length ends a row

    def get_bos_token_id(self):
        return -1


def load(path):
    """nanochat's GPT and Engine, without what they import for training and files."""
    sys.path.insert(0, path)
    for name in ("filelock", "nanochat.checkpoint_manager", "nanochat.muon", "nanochat.adamw"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["filelock"].FileLock = None
    sys.modules["nanochat.checkpoint_manager"].load_model = None
    sys.modules["nanochat.muon"].Muon = sys.modules["nanochat.muon"].DistMuon = None
    sys.modules["nanochat.adamw"].DistAdamW = None
    from nanochat.engine import Engine
    from nanochat.gpt import GPT, GPTConfig

    return GPT, GPTConfig, Engine


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--vocab-size", type=int, default=65_536)
    parser.add_argument("--prompt-tokens", type=int, default=1_024)
    parser.add_argument("--decode-tokens", type=int, default=64)
    parser.add_argument("--batch-sizes", default="1,8,32,128")
    args = parser.parse_args()
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")
    gpt, config, engine = load(args.path)
    heads = -(-64 * args.depth // 128)
    sizes = {"n_layer": args.depth, "n_head": heads, "n_kv_head": heads, "n_embd": 64 * args.depth}
    length = args.prompt_tokens + args.decode_tokens
    with torch.device("meta"):
        model = gpt(config(sequence_len=length, vocab_size=args.vocab_size, **sizes))
    model.to_empty(device="cuda")
    model.init_weights()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.02)
    model.eval()
    engine = engine(model, Tokenizer())
    prompt = torch.randint(args.vocab_size, (args.prompt_tokens,)).tolist()
    with torch.amp.autocast("cuda", dtype=torch.bfloat16):
        for rows in map(int, args.batch_sizes.split(",")):
            for timed in (False, True):
                torch.cuda.synchronize()
                started = time.perf_counter()
                arrived = []
                tokens = engine.generate(prompt, rows, max_tokens=args.decode_tokens if timed else 4, top_k=50)
                for _ in tokens:
                    arrived.append(time.perf_counter() - started)
            # The second token's step allocates the rows' cache and is left out.
            seconds = (arrived[-1] - arrived[1]) / (len(arrived) - 2)
            speed = {"first_token_ms": 1e3 * arrived[0], "step_ms": 1e3 * seconds, "tokens_per_second": rows / seconds}
            print(json.dumps({"rows": rows, **speed}), flush=True)


if __name__ == "__main__":
    main()
