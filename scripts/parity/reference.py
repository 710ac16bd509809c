"""The reference that nanochat in Rust is compared with: the model of Hugging Face transformers, and a plain trainer.

The model is `NanoChatForCausalLM`, which others wrote. The optimizers are written out here, in float32 and in the order
of the papers (Muon: Keller Jordan, https://kellerjordan.github.io/posts/muon/; AdamW: torch's), because torch.optim.Muon
rounds its iteration to bfloat16.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:  # the trainer alone runs where there is no transformers
    from transformers import NanoChatForCausalLM

MATRIX_LR = 0.02
EMBEDDING_LR = 0.2
UNEMBEDDING_LR = 0.004
GRAD_CLIP = 1.0
WARMDOWN_RATIO = 0.2


def load_model(folder: Path, attention: str = "eager") -> NanoChatForCausalLM:
    """The float32 model of a checkpoint folder."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)
    return every_row_learns(model)


def every_row_learns(model: NanoChatForCausalLM) -> NanoChatForCausalLM:
    """transformers gives the embedding of `pad_token_id` no gradient; nanochat knows no padding token."""
    model.model.embed_tokens.padding_idx = None
    return model


def loss_sum(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Summed cross entropy in nats; targets (B, T) are already moved by one, -1 is ignored."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten().long(), ignore_index=-1, reduction="sum")


def loss_mean(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return loss_sum(logits, targets) / (targets != -1).sum()


def lr_multiplier(step: int, num_steps: int) -> float:
    """Constant, then falling linearly in the last fifth of the steps; `step` counts from 0."""
    warmdown_steps = round(WARMDOWN_RATIO * num_steps)
    return 1.0 if step <= num_steps - warmdown_steps else (num_steps - step) / warmdown_steps


def muon_momentum(step: int) -> float:
    risen = min(step / 300, 1.0)
    return (1 - risen) * 0.85 + risen * 0.95


def orthogonalize(update: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Five quintic Newton-Schulz steps, which push every singular value of (rows, cols) towards 1."""
    a, b, c = 3.4445, -4.7750, 2.0315
    update = update.to(dtype)
    tall = update.size(0) > update.size(1)
    x = update.T if tall else update
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon:
    """Momentum, orthogonalized, for the matrices inside the blocks."""

    def __init__(self, matrices: list[torch.nn.Parameter], dtype: torch.dtype):
        self.matrices, self.dtype = matrices, dtype
        self.buffers = [torch.zeros_like(w) for w in matrices]

    @torch.no_grad()
    def step(self, lr: float, momentum: float) -> None:
        for w, buf in zip(self.matrices, self.buffers):
            buf.mul_(momentum).add_(w.grad, alpha=1 - momentum)
            nesterov = (1 - momentum) * w.grad + momentum * buf
            rows, cols = w.shape
            w.sub_(lr * math.sqrt(max(1.0, rows / cols)) * orthogonalize(nesterov, self.dtype))


class Trainer:
    """One optimizer step at a time, with nanochat's groups, rates and schedule."""

    def __init__(self, model: NanoChatForCausalLM, num_steps: int, muon_dtype: torch.dtype = torch.float32):
        self.model = model.train()
        self.num_steps = num_steps
        self.muon = Muon([w for name, w in model.named_parameters() if name.startswith("model.layers.")], muon_dtype)
        scale = (model.config.hidden_size / 768) ** -0.5
        groups = [
            {"params": [model.lm_head.weight], "lr": UNEMBEDDING_LR * scale},
            {"params": [model.get_parameter("model.embed_tokens.weight")], "lr": EMBEDDING_LR * scale},
        ]
        self.adamw = torch.optim.AdamW(groups, betas=(0.8, 0.95), eps=1e-10, weight_decay=0.0, foreach=False)
        self.initial_lrs = [group["lr"] for group in self.adamw.param_groups]

    def step(self, step: int, inputs: torch.Tensor, targets: torch.Tensor) -> float:
        """Trains on one batch (B, T) and returns its mean loss before the update."""
        loss = loss_mean(self.model(inputs, use_cache=False).logits, targets)
        self.model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRAD_CLIP)
        multiplier = lr_multiplier(step, self.num_steps)
        for group, lr in zip(self.adamw.param_groups, self.initial_lrs):
            group["lr"] = lr * multiplier
        self.adamw.step()
        self.muon.step(MATRIX_LR * multiplier, muon_momentum(step))
        return loss.item()


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
