"""Decoding in PyTorch at its best, beside `nanochat bench infer --device cuda`: the same model of random weights in bf16,
a static cache of keys and values, layers compiled by torch.compile, and the whole step as one CUDA graph.

    python scripts/peers/infer_torch.py --depth 20 --batch-sizes 1,8,32,128

Needs torch only. Each row has a prompt of its own; a token is drawn by temperature 1 among the 50 likeliest.
"""

import argparse
import json
import time

import torch
import torch.nn.functional as F

HEAD = 128


def norm(x):
    return F.rms_norm(x, (x.size(-1),), eps=torch.finfo(torch.float32).eps)


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1)


def layer(x, w, keys, values, cos, sin, positions, mask):
    """x (B, T, C); keys and values (B, H, L, D), written at `positions` (T); mask (T, L): what each token sees."""
    b, t, c = x.shape
    q, k, v = (norm(x) @ w["qkv"].T).view(b, t, 3, c // HEAD, HEAD).permute(2, 0, 3, 1, 4)
    q, k = norm(rotate(q, cos, sin)), norm(rotate(k, cos, sin))
    keys.index_copy_(2, positions, k)
    values.index_copy_(2, positions, v)
    y = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
    x = x + y.transpose(1, 2).reshape(b, t, c) @ w["attn_proj"].T
    return x + F.relu(norm(x) @ w["fc"].T).square() @ w["mlp_proj"].T


def prefill_layer(x, w, keys, values, cos, sin):
    """A whole prompt from its beginning: causal attention inside it."""
    b, t, c = x.shape
    q, k, v = (norm(x) @ w["qkv"].T).view(b, t, 3, c // HEAD, HEAD).permute(2, 0, 3, 1, 4)
    q, k = norm(rotate(q, cos, sin)), norm(rotate(k, cos, sin))
    keys[:, :, :t] = k
    values[:, :, :t] = v
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    x = x + y.transpose(1, 2).reshape(b, t, c) @ w["attn_proj"].T
    return x + F.relu(norm(x) @ w["fc"].T).square() @ w["mlp_proj"].T


def head(x, lm_head):
    logits = (norm(x) @ lm_head.T).float()
    logits = 15 * torch.tanh(logits / 15)
    best, ids = logits.topk(50, dim=-1)
    # Gumbel's trick draws without leaving the GPU.
    noise = -torch.log(torch.empty_like(best).exponential_())
    return ids.gather(-1, (best + noise).argmax(-1, keepdim=True))[:, 0]


class Decoder:
    def __init__(self, args, rows):
        c, v = 64 * args.depth, args.vocab_size
        length = -(-(args.prompt_tokens + args.decode_tokens) // 64) * 64

        def weight(*shape):
            return 0.02 * torch.randn(*shape, device="cuda", dtype=torch.bfloat16)

        sizes = {"qkv": (3 * c, c), "attn_proj": (c, c), "fc": (4 * c, c), "mlp_proj": (c, 4 * c)}
        self.layers = [{name: weight(*size) for name, size in sizes.items()} for _ in range(args.depth)]
        self.wte, self.lm_head = weight(v, c), weight(v, c)
        cache = (rows, c // HEAD, length, HEAD)
        self.cache = [[torch.zeros(cache, device="cuda", dtype=torch.bfloat16) for _ in "kv"] for _ in self.layers]
        angles = torch.outer(torch.arange(length), 10_000.0 ** (-torch.arange(0, HEAD, 2) / HEAD)).cuda()
        self.cos, self.sin = angles.cos().bfloat16(), angles.sin().bfloat16()
        self.ids = torch.zeros(rows, dtype=torch.long, device="cuda")
        self.position = torch.zeros(1, dtype=torch.long, device="cuda")
        self.places = torch.arange(length, device="cuda")
        self.layer, self.head = torch.compile(layer, dynamic=False), torch.compile(head, dynamic=False)
        self.prefill_layer = torch.compile(prefill_layer, dynamic=False)

    def step(self):
        """The token after each of `ids`, in their place."""
        mask = (self.places <= self.position)[None]
        cos, sin = self.cos[self.position], self.sin[self.position]
        x = norm(self.wte[self.ids])[:, None]
        for w, (keys, values) in zip(self.layers, self.cache):
            x = self.layer(x, w, keys, values, cos, sin, self.position, mask)
        self.ids.copy_(self.head(x[:, 0], self.lm_head))
        self.position += 1

    def prefill(self, prompt, row):
        """prompt (T) into one row of the cache -> its first token (1)."""
        t = len(prompt)
        x = norm(self.wte[prompt])[None]
        for w, cache in zip(self.layers, self.cache):
            x = self.prefill_layer(x, w, *(c[row : row + 1] for c in cache), self.cos[:t], self.sin[:t])
        return self.head(x[:, -1], self.lm_head)


@torch.inference_mode()
def measure(args, rows):
    decoder = Decoder(args, rows)
    prompts = torch.randint(args.vocab_size, (rows, args.prompt_tokens), device="cuda")
    decoder.prefill(prompts[0], 0)
    decoder.prefill(prompts[0], 0).item()
    first = []
    started = time.perf_counter()
    for row in range(rows):
        decoder.ids[row : row + 1] = decoder.prefill(prompts[row], row)
        decoder.ids[row].item()
        first.append(time.perf_counter() - started)
    decoder.position.fill_(args.prompt_tokens)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            decoder.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        decoder.step()
    decoder.position.fill_(args.prompt_tokens)
    steps = args.decode_tokens - 1
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(steps):
        graph.replay()
        decoder.ids.tolist()  # the host sees every token, as a server must
    seconds = (time.perf_counter() - started) / steps
    return {
        "rows": rows,
        "first_token_ms": 1e3 * sum(first) / rows,
        "step_ms": 1e3 * seconds,
        "tokens_per_second": rows / seconds,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--vocab-size", type=int, default=65_536)
    parser.add_argument("--prompt-tokens", type=int, default=1_024)
    parser.add_argument("--decode-tokens", type=int, default=64)
    parser.add_argument("--batch-sizes", default="1,8,32,128")
    args = parser.parse_args()
    assert 64 * args.depth % HEAD == 0, "head_dim is 128: an even depth is wanted"
    torch.manual_seed(1)
    for rows in map(int, args.batch_sizes.split(",")):
        print(json.dumps(measure(args, rows)), flush=True)
        torch._dynamo.reset()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
