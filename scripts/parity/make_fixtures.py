"""Writes the small models and expected numbers that crates/nanochat/tests compare with.

Run by hand: `python scripts/parity/make_fixtures.py` (see requirements.txt). Deterministic on one machine; another
processor may differ in the last bits. Per fixture folder:

config.json, model.safetensors   a Hugging Face model folder with random weights, none of them zero, in float32
expected.safetensors
  inputs, targets (B, T) i32       one batch, some targets ignored (-1)
  logits (B, T, V)                 after the softcap
  loss_sum, loss_mean ()           over the targets that count
  grad.NAME                        of loss_mean, for every tensor NAME of model.safetensors, not clipped
  train.inputs, train.targets (10, B, T) i32, train.losses, train.lr_multipliers, train.momenta (10)
  trained.NAME                     the weights after those ten steps
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import NanoChatConfig, NanoChatForCausalLM

from reference import Trainer, load_model, loss_mean, loss_sum, lr_multiplier, muon_momentum, write_json

FIXTURES = Path(__file__).resolve().parents[2] / "crates/nanochat/tests/fixtures"
TRAIN_STEPS = 10


def sizes(vocab_size, n_layer, n_embd, n_head, n_kv_head, sequence_len) -> dict:
    """config.json of a checkpoint folder."""
    return {
        "architectures": ["NanoChatForCausalLM"],
        "model_type": "nanochat",
        "vocab_size": vocab_size,
        "hidden_size": n_embd,
        "intermediate_size": 4 * n_embd,
        "num_hidden_layers": n_layer,
        "num_attention_heads": n_head,
        "num_key_value_heads": n_kv_head,
        "max_position_embeddings": sequence_len,
        "hidden_act": "relu2",
        "rms_norm_eps": 1.1920929e-7,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "final_logit_softcapping": 15.0,
        "attention_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": vocab_size - 9,
        "eos_token_id": vocab_size - 5,
        "pad_token_id": None,
        "dtype": "float32",
        "transformers_version": "5.23.0",
    }


def random_model(config: dict, random: torch.Generator) -> NanoChatForCausalLM:
    """Weights large enough that the softcap bends the logits and every gradient says something."""
    model = NanoChatForCausalLM(NanoChatConfig(**config))
    for name, w in model.named_parameters():
        std = 1.0 if "embed_tokens" in name else 0.7 if "lm_head" in name else w.size(1) ** -0.5
        w.data = torch.randn(w.shape, generator=random) * std
    return model


def random_batches(n: int, rows: int, length: int, vocab_size: int, random: torch.Generator):
    """Noisy walks x -> 3x + 7 over the vocabulary, so that training has something to learn; one target in eight is ignored."""
    tokens = torch.randint(vocab_size, (n, rows, length + 1), generator=random)
    follows_rule = torch.rand(tokens.shape, generator=random) < 0.9
    for t in range(1, length + 1):
        tokens[..., t] = torch.where(follows_rule[..., t], (3 * tokens[..., t - 1] + 7) % vocab_size, tokens[..., t])
    inputs, targets = tokens[..., :-1].clone(), tokens[..., 1:].clone()
    targets[torch.rand(targets.shape, generator=random) < 1 / 8] = -1
    return inputs.int(), targets.int()


def make_fixture(name: str, config: dict, rows: int, length: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    folder = FIXTURES / name
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    weights = dict(random_model(config, random).named_parameters())
    save_file({k: w.detach().contiguous() for k, w in weights.items()}, folder / "model.safetensors", {"format": "pt"})

    model = load_model(folder)
    inputs, targets = random_batches(1, rows, length, config["vocab_size"], random)
    expected = {"inputs": inputs[0], "targets": targets[0]}
    logits = model(inputs[0], use_cache=False).logits
    expected |= {"logits": logits, "loss_sum": loss_sum(logits, targets[0]), "loss_mean": loss_mean(logits, targets[0])}
    expected["loss_mean"].backward()
    expected |= {f"grad.{k}": w.grad.clone() for k, w in model.named_parameters()}

    inputs, targets = random_batches(TRAIN_STEPS, rows, length, config["vocab_size"], random)
    trainer = Trainer(model, TRAIN_STEPS)
    losses = [trainer.step(i, inputs[i], targets[i]) for i in range(TRAIN_STEPS)]
    expected |= {
        "train.inputs": inputs,
        "train.targets": targets,
        "train.losses": torch.tensor(losses),
        "train.lr_multipliers": torch.tensor([lr_multiplier(i, TRAIN_STEPS) for i in range(TRAIN_STEPS)]),
        "train.momenta": torch.tensor([muon_momentum(i) for i in range(TRAIN_STEPS)]),
    }
    expected |= {f"trained.{k}": w for k, w in model.named_parameters()}
    save_file({k: x.detach().contiguous() for k, x in expected.items()}, folder / "expected.safetensors")
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {size / 1000:.0f} kB, losses {' '.join(f'{loss:.4f}' for loss in losses)}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    # Grouped queries: two heads share a key; a vocabulary that no block size divides.
    make_fixture("parity_tiny", sizes(97, 2, 32, 4, 2, sequence_len=32), rows=2, length=24, seed=1)
    # A key for every head; a row longer than any tile of attention, with a tail.
    make_fixture("parity_long", sizes(41, 1, 32, 2, 2, sequence_len=160), rows=1, length=150, seed=2)
