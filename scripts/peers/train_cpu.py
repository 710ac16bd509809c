"""Times the training step of karpathy's nanochat on the CPU, beside `nanochat bench train`.

    git clone https://github.com/karpathy/nanochat && git -C nanochat checkout b399e43
    pip install torch numpy
    python scripts/peers/train_cpu.py nanochat --depth 4 --max-seq-len 1024 --device-batch-size 1 --vocab-size 65536 \
        --mode eager
    target/release/nanochat bench train --depth 4 --max-seq-len 1024 --device-batch-size 1 --vocab-size 65536 \
        --total-batch-size 1024 --steps 8

The model, Muon and AdamW are nanochat's own, the step is that of its base_train.py on random tokens. `eager` is nanochat
as it comes in float32, `compiled` adds torch.compile of the model, `bf16` autocast to bfloat16 and torch.compile: the
best PyTorch does here. Prints the median step.
"""

import argparse
import contextlib
import resource
import statistics
import sys
import time


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("nanochat", help="folder of karpathy's nanochat")
    arguments.add_argument("--depth", type=int, default=4)
    arguments.add_argument("--max-seq-len", type=int, default=1024)
    arguments.add_argument("--device-batch-size", type=int, default=1)
    arguments.add_argument("--vocab-size", type=int, default=65_536)
    arguments.add_argument("--steps", type=int, default=6)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--mode", choices=["eager", "compiled", "bf16"], default="eager")
    args = arguments.parse_args()
    sys.path.insert(0, args.nanochat)

    import torch
    from nanochat.gpt import GPT, GPTConfig

    torch.set_num_threads(args.threads)
    torch.manual_seed(42)
    width = 64 * args.depth
    heads = -(-width // 128)
    config = GPTConfig(args.max_seq_len, args.vocab_size, args.depth, heads, heads, width)
    model = GPT(config)
    model.init_weights()
    optimizers = model.setup_optimizers()
    forward = model if args.mode == "eager" else torch.compile(model, dynamic=False)
    autocast = torch.autocast("cpu", torch.bfloat16) if args.mode == "bf16" else contextlib.nullcontext()
    inputs, targets = torch.randint(args.vocab_size, (2, args.device_batch_size, args.max_seq_len))
    seconds = []
    for step in range(2 + args.steps):
        begin = time.perf_counter()
        with autocast:
            loss = forward(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad(set_to_none=True)
        loss = loss.item()
        if step >= 2:  # the first two compile
            seconds.append(time.perf_counter() - begin)
    median, tokens = statistics.median(seconds), inputs.numel()
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{args.mode}: {tokens / median:.0f} tok/s, {1e3 * median:.1f} ms a step, {gib:.2f} GiB, loss {loss:.4f}")


if __name__ == "__main__":
    main()
