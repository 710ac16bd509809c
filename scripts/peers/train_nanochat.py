"""karpathy/nanochat (its state b399e43) on the work of `nanochat bench train --device cuda`, on one GPU or on several:

    python scripts/peers/train_nanochat.py PATH_TO_NANOCHAT --depth 20
    torchrun --nproc_per_node 2 scripts/peers/train_nanochat.py PATH_TO_NANOCHAT --depth 20

A step as its base_train takes it: float32 weights under bf16 autocast, torch.compile, clipping by the global norm, Muon and
AdamW (sharded over the ranks by its DistMuon and DistAdamW). The tokens are random and wait on the GPU. With --cudnn the
attention is cuDNN's instead of the one that PyTorch chooses.
"""

import argparse
import sys
import time
from contextlib import nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--vocab-size", type=int, default=65_536)
    parser.add_argument("--sequence-len", type=int, default=2_048)
    parser.add_argument("--device-batch-size", type=int, default=32)
    parser.add_argument("--total-batch-size", type=int, default=524_288)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--cudnn", action="store_true")
    args = parser.parse_args()

    sys.path.insert(0, args.path)
    from nanochat.common import compute_cleanup, compute_init
    from nanochat.gpt import GPT, GPTConfig

    _, rank, _, ranks, device = compute_init("cuda")
    heads = -(-64 * args.depth // 128)
    sizes = {"n_layer": args.depth, "n_head": heads, "n_kv_head": heads, "n_embd": 64 * args.depth}
    with torch.device("meta"):
        original = GPT(GPTConfig(sequence_len=args.sequence_len, vocab_size=args.vocab_size, **sizes))
    original.to_empty(device=device)
    original.init_weights()
    flops = original.estimate_flops()
    model = torch.compile(original, dynamic=False)
    optimizers = original.setup_optimizers()

    shape = (args.device_batch_size, args.sequence_len)
    rows = torch.randint(args.vocab_size, shape, device=device)
    targets = torch.randint(args.vocab_size, shape, device=device)
    micro_steps = args.total_batch_size // (rows.numel() * ranks)
    attention = sdpa_kernel(SDPBackend.CUDNN_ATTENTION) if args.cudnn else nullcontext()

    def step(micro_steps):
        for _ in range(micro_steps):
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(rows, targets)
            (loss / micro_steps).backward()
        torch.cuda.synchronize()
        begin = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(original.parameters(), 1.0).item()
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        return time.perf_counter() - begin

    with attention:
        for _ in range(2):  # compiles both directions and the optimizers
            step(1)
        begin = time.perf_counter()
        optimizer = [step(micro_steps) for _ in range(args.steps)]
        seconds = (time.perf_counter() - begin) / args.steps
    if rank == 0:
        rate = args.total_batch_size / seconds
        print(
            f"nanochat d{args.depth} on {ranks} x {torch.cuda.get_device_name()}: {rate:,.0f} tok/s, "
            f"MFU {100 * rate * flops / (ranks * 989e12):.1f} %, optimizer {1e3 * min(optimizer):.1f} ms, "
            f"peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
        )
    compute_cleanup()


main()
