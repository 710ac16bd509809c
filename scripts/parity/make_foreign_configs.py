"""Writes crates/nanochat/tests/fixtures/foreign: what transformers makes of odd config.json files.

Run by hand: `python scripts/parity/make_foreign_configs.py` (see requirements.txt). One tiny model, whose config.json is
changed in one way after another:

config.json, model.safetensors   the model before any change, its weights in bf16
cases.json                       ids, and of each case its name, the keys it sets and removes, and either `logits` after
                                 the last id, to be met, or `refused`, the key that the refusal must name, with `theirs`:
                                 whether transformers computes the same as without the change, other logits, or fails

check_foreign_configs.py draws from the same changes.
"""

import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from make_fixtures import FIXTURES, sizes
from reference import write_json

FOLDER = FIXTURES / "foreign"
REMOVED = object()
TOLERANCE = 1e-4

# Changes that leave the model computable: name -> keys.
HONOURED = {
    "nothing": {},
    "eps of the hub's folders": {"rms_norm_eps": 1e-6},
    "eps left out": {"rms_norm_eps": REMOVED},
    "a large eps": {"rms_norm_eps": 1e-2},
    "theta in rope_parameters": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}},
    "theta without a type": {"rope_parameters": {"rope_theta": 500000}},
    "theta beside no rope_parameters": {"rope_theta": 1e5, "rope_scaling": None, "rope_parameters": REMOVED},
    "theta beside a type": {"rope_theta": 1e6, "rope_parameters": {"rope_type": "default"}},
    "theta twice": {"rope_theta": 1e5, "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}},
    "the old name": {"rope_scaling": {"rope_type": "default", "rope_theta": 300.0}, "rope_parameters": REMOVED},
    "the old names": {"rope_scaling": {"type": "default"}, "rope_theta": 2e4, "rope_parameters": REMOVED},
    "nothing of rope": {"rope_parameters": REMOVED},
    "all of a head rotated": {"partial_rotary_factor": 1.0},
    "head_dim": {"head_dim": 8},
    "no softcap given": {"final_logit_softcapping": REMOVED},
    "key-value heads null": {"num_key_value_heads": None, "num_attention_heads": 1},
    "generation": {"temperature": 0.3, "top_k": 5, "max_length": 20, "eos_token_id": [3, 4], "pad_token_id": 5, "do_sample": True},
    "labels": {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}, "num_labels": 2},
    "where it came from": {"_name_or_path": "someone/nanochat", "torch_dtype": "float32", "transformers_version": "4.57.1"},
    "outputs": {"use_cache": False, "output_hidden_states": False, "return_dict": True, "initializer_range": 0.5},
    "attention's program": {"attn_implementation": "sdpa"},
    "empty rope_scaling": {"rope_scaling": {}},
}  # fmt: skip

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
LONG = {"rope_type": "longrope", "factor": 4.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}

# Changes that are refused: name -> (the key to be named, keys).
REFUSED = {
    "no softcap": ("final_logit_softcapping", {"final_logit_softcapping": None}),
    "another softcap": ("final_logit_softcapping", {"final_logit_softcapping": 30.0}),
    "yarn": ("rope_type", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}}),
    "linear, old": ("rope_scaling.type", {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_parameters": REMOVED}),
    "dynamic": ("rope_type", {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}}),
    "llama3": ("rope_type", {"rope_parameters": {**LLAMA3, "rope_theta": 10000.0}}),
    "longrope": ("rope_type", {"rope_parameters": {**LONG, "rope_theta": 10000.0}}),
    "a factor without a type": ("rope_parameters.factor", {"rope_parameters": {"rope_theta": 10000.0, "factor": 4.0}}),
    "two places": ("rope_scaling", {"rope_scaling": {"type": "default", "rope_theta": 500.0}}),
    "two thetas": ("rope_theta", {"rope_theta": 500.0}),
    "theta null": ("rope_theta", {"rope_theta": None, "rope_parameters": REMOVED}),
    "a theta below 1": ("rope_theta", {"rope_parameters": {"rope_type": "default", "rope_theta": 0.5}}),
    "rope by kinds of layers": ("full_attention", {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 500.0}}}),
    "part of a head rotated": ("partial_rotary_factor", {"partial_rotary_factor": 0.5}),
    "eps 0": ("rms_norm_eps", {"rms_norm_eps": 0.0}),
    "eps null": ("rms_norm_eps", {"rms_norm_eps": None}),
    "gelu": ("hidden_act", {"hidden_act": "gelu"}),
    "silu": ("hidden_act", {"hidden_act": "silu"}),
    "biases": ("attention_bias", {"attention_bias": True}),
    "dropout": ("attention_dropout", {"attention_dropout": 0.1}),
    "tied": ("tie_word_embeddings", {"tie_word_embeddings": True}),
    "other heads": ("head_dim", {"head_dim": 16}),
    "another MLP": ("intermediate_size", {"intermediate_size": 48}),
    "not causal": ("is_causal", {"is_causal": False}),
    "a window": ("sliding_window", {"sliding_window": 4, "layer_types": ["sliding_attention"]}),
    "kinds of layers": ("layer_types", {"layer_types": ["full_attention"]}),
    "layers of their own": ("per_layer_config", {"per_layer_config": {"0": {"intermediate_size": 32}}}),
    "quantized": ("quantization_config", {"quantization_config": {"quant_method": "fp8"}}),
    "no head": ("architectures", {"architectures": ["NanoChatModel"]}),
    "a classifier": ("architectures", {"architectures": ["NanoChatForSequenceClassification"]}),
    "code of its own": ("auto_map", {"auto_map": {"AutoConfig": "configuration_nanochat.NanochatConfig"}}),
    "another float": ("dtype", {"dtype": "float64"}),
    "another file of weights": ("transformers_weights", {"transformers_weights": "other.safetensors"}),
    "windows of newer models": ("window_pattern", {"window_pattern": "SSSL"}),
    "an unknown key": ("qk_gain", {"qk_gain": 1.2}),
    "another loss": ("loss_type", {"loss_type": "ForMaskedLM"}),
    "a decoder of an encoder": ("is_encoder_decoder", {"is_encoder_decoder": True}),
    "another model": ("model_type", {"model_type": "llama"}),
    "a size as text": ("vocab_size", {"vocab_size": "23"}),
    "a size null": ("hidden_size", {"hidden_size": None}),
    "a width beyond memory": ("hidden_size", {"hidden_size": 1 << 31, "intermediate_size": 1 << 33, "num_attention_heads": 1 << 20}),
}  # fmt: skip


def changed(config: dict, change: dict) -> dict:
    config = {**config, **change}
    return {key: value for key, value in config.items() if value is not REMOVED}


def random_model(folder: Path, random: torch.Generator):
    """The model of a folder's config.json. Embeddings are so small that eps matters."""
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    for name, w in model.named_parameters():
        std = 1e-3 if "embed_tokens" in name else 0.7 if "lm_head" in name else w.size(-1) ** -0.5
        w.data = torch.randn(w.shape, generator=random) * std
    return model


def last_logits(folder: Path, ids: list[int]) -> list[float]:
    """Those of transformers after the last id, of the folder as it is."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1].tolist()


def theirs(folder: Path, ids: list[int], plain: list[float]) -> str:
    try:
        logits = last_logits(folder, ids)
    except Exception:
        return "fails"
    differ = len(logits) != len(plain) or max(abs(a - b) for a, b in zip(logits, plain)) > TOLERANCE
    return "other logits" if differ else "the same"


def rounded(logits: list[float]) -> list[float]:
    return [round(logit, 6) for logit in logits]


def main() -> None:
    random = torch.Generator().manual_seed(5)
    FOLDER.mkdir(parents=True, exist_ok=True)
    base = sizes(23, 1, 16, 2, 1, sequence_len=32)
    write_json(FOLDER / "config.json", base)
    weights = dict(random_model(FOLDER, random).named_parameters())
    tensors = {name: w.detach().bfloat16().contiguous() for name, w in weights.items()}
    save_file(tensors, FOLDER / "model.safetensors", {"format": "pt"})
    ids = torch.randint(base["vocab_size"], (24,), generator=random).tolist()
    plain = last_logits(FOLDER, ids)

    cases = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)

        def case(name: str, change: dict) -> dict:
            write_json(folder / "config.json", changed(base, change))
            set_keys = {key: value for key, value in change.items() if value is not REMOVED}
            case = {"name": name, "set": set_keys, "removed": [key for key in change if key not in set_keys]}
            cases.append(case)
            return case

        (folder / "model.safetensors").write_bytes((FOLDER / "model.safetensors").read_bytes())
        for name, change in HONOURED.items():
            if "num_attention_heads" in change:
                continue  # other shapes; check_foreign_configs.py has them
            case(name, change).update(logits=rounded(last_logits(folder, ids)))
        for name, (key, change) in REFUSED.items():
            case(name, change).update(refused=key, theirs=theirs(folder, ids, plain))
    lines = ",\n".join(json.dumps(case) for case in cases)
    (FOLDER / "cases.json").write_text(f'{{"ids": {ids}, "cases": [\n{lines}\n]}}\n')
    print(f"{FOLDER}: {len(cases)} cases, {sum(file.stat().st_size for file in FOLDER.iterdir()) / 1000:.0f} kB")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
