"""Trains a plain PyTorch model on the batches that `parity_train` trained on, and prints a line a step: number and loss.

    target/release/examples/parity_train BATCHES cuda 300 INITIAL_FOLDER > ours.tsv
    python scripts/parity/train_gpu.py INITIAL_FOLDER/model.safetensors BATCHES --steps 300 > theirs.tsv
    python scripts/parity/compare_losses.py ours.tsv theirs.tsv

On a GPU as nanochat trains: float32 weights, bfloat16 autocast, Newton-Schulz in bfloat16. With --device cpu all is
float32. Nothing but torch is needed. BATCHES is what the example `parity_batches` writes.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from reference import Trainer

EPS = 2.0**-23
SOFTCAP = 15.0
TYPES = {"F32": torch.float32, "U16": torch.uint16}


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a file; the format is a length, a JSON header, and the values."""
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    metadata = header.pop("__metadata__", {})

    def tensor(entry: dict) -> torch.Tensor:
        begin, end = entry["data_offsets"]
        values = torch.frombuffer(data, dtype=torch.uint8, count=end - begin, offset=start + begin)
        return values.clone().view(TYPES[entry["dtype"]]).reshape(entry["shape"])

    return {name: tensor(entry) for name, entry in header.items()}, metadata


def norm(x: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x.float(), (x.size(-1),), eps=EPS).to(x.dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x (B, T, H, D), cos and sin (1, T, 1, D/2)"""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos + second * sin, second * cos - first * sin], dim=-1).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        for name in ["q_proj", "k_proj", "v_proj", "o_proj"]:
            self.add_module(name, nn.Linear(width, width, bias=False))

    def forward(self, x: torch.Tensor, heads: int, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        b, t, width = x.shape
        q, k, v = (proj(x).view(b, t, heads, width // heads) for proj in [self.q_proj, self.k_proj, self.v_proj])
        q, k = norm(rotate(q, cos, sin)), norm(rotate(k, cos, sin))
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, width))


class Mlp(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.relu(self.fc1(x)).square())


class Layer(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.self_attn, self.mlp = Attention(width), Mlp(width)


class Gpt(nn.Module):
    """nanochat's model, its weights under the names of transformers."""

    def __init__(self, depth: int, vocab_size: int, length: int):
        super().__init__()
        width = 64 * depth
        self.heads = -(-width // 128)
        self.config = SimpleNamespace(hidden_size=width)
        layers = nn.ModuleList(Layer(width) for _ in range(depth))
        self.model = nn.ModuleDict({"embed_tokens": nn.Embedding(vocab_size, width), "layers": layers})
        self.lm_head = nn.Linear(width, vocab_size, bias=False)
        half = width // self.heads // 2
        frequencies = 1.0 / 10_000.0 ** (torch.arange(half, dtype=torch.float32) / half)
        angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)[None, :, None, :]
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, ids: torch.Tensor, use_cache: bool = False) -> SimpleNamespace:
        on_gpu = ids.is_cuda
        with torch.autocast("cuda", torch.bfloat16, enabled=on_gpu):
            x = self.model["embed_tokens"](ids)
            x = norm(x.bfloat16() if on_gpu else x)
            for layer in self.model["layers"]:
                x = x + layer.self_attn(norm(x), self.heads, self.cos, self.sin)
                x = x + layer.mlp(norm(x))
            logits = self.lm_head(norm(x)).float()
        return SimpleNamespace(logits=SOFTCAP * torch.tanh(logits / SOFTCAP))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("weights", type=Path)
    arguments.add_argument("batches", type=Path)
    arguments.add_argument("--steps", type=int, help="how many of the file's steps to train")
    arguments.add_argument("--device", default="cuda")
    args = arguments.parse_args()
    tensors, sizes = read_safetensors(args.batches)
    tokens, (b, t) = tensors["tokens"].to(torch.int64), (int(sizes["batch_size"]), int(sizes["sequence_len"]))
    model = Gpt(int(sizes["depth"]), int(sizes["vocab_size"]), t)
    model.load_state_dict(read_safetensors(args.weights)[0])
    model.to(args.device)
    # Trainer and optimizers are those of the float32 reference; only the rounding of Muon's iteration differs.
    dtype = torch.bfloat16 if args.device.startswith("cuda") else torch.float32
    trainer, start = Trainer(model, num_steps=len(tokens), muon_dtype=dtype), time.time()
    for step, row in enumerate(tokens[: args.steps]):
        inputs, targets = row[:-1].view(b, t), row[1:].view(b, t)
        loss = trainer.step(step, inputs.to(args.device), targets.to(args.device))
        print(f"{step}\t{loss}", flush=True)
    print(f"{time.time() - start:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
