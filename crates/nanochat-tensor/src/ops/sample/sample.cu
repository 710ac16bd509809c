// A token from a row of logits, one block a choice. The row is never sorted. Of 1,024 threads each knows the largest of
// its share: what passes the k-th of these are the k largest of all and few more, which are sorted alone. Where that does
// not do (many tokens are alike, k is large, or the nucleus is) every limit is a binary search over the 32 bits of a
// logit's key, which asks how much of the row lies at or above one.
//
// Probabilities are whole multiples of 2^-40 of the likeliest one's: sums have no order, so every run draws the same.

#define THREADS 1024
#define LISTED 2048  // most tokens of a list
#define ONE 1099511627776.0f

struct Choice {
    u32 row, top_k;
    float temperature, top_p, min_p;
    u32 changed;  // 1 + its row among those changed by penalties; 0: the model's own
    double uniform;
};

// Order of unsigned keys is that of logits, -0 before 0; NaN counts as minus infinity. No key is 0.
__device__ inline u32 key_of(float z) {
    u32 bits = __float_as_uint(z != z ? -INFINITY_F : z);
    return bits ^ ((u32)((int)bits >> 31) | 0x80000000u);
}
__device__ inline float logit_of(u32 key) {
    return __uint_as_float(key ^ (key & 0x80000000u ? 0x80000000u : 0xffffffffu));
}

__device__ inline u64 sum_block(u64 x) {
    __shared__ u64 parts[WARP];
    for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = x;
    __syncthreads();
    x = parts[threadIdx.x % WARP];
    for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
    __syncthreads();
    return x;
}

// Tokens in some order: those of a row of logits, by their ids, or a list taken from one.
struct Items {
    const float* logits;
    const u32 *keys, *ids;
    u32 count;
    __device__ inline u32 key(u32 i) const { return keys ? keys[i] : key_of(logits[i]); }
    __device__ inline u32 id(u32 i) const { return keys ? ids[i] : i; }
};

// Which tokens are left: those above a key, and of those with that key the first `ties`.
struct Cut {
    u32 key, ties;
};

// f of everything at or above `key` that the cut leaves.
template <class F>
__device__ inline u64 at_least(const Items& items, u32 key, Cut cut, F f) {
    u64 sum = threadIdx.x == 0 && key <= cut.key && cut.ties ? cut.ties * f(cut.key) : 0;
    u32 from = max(key, cut.key + 1);
#pragma unroll 4
    for (u32 i = threadIdx.x; i < items.count; i += THREADS) {
        u32 k = items.key(i);
        if (k >= from) sum += f(k);
    }
    return sum_block(sum);
}

// The largest key with f of everything at or above it no less than `need`, which all together reach.
template <class F>
__device__ inline u32 search(const Items& items, Cut cut, u64 need, F f) {
    u32 key = 0;
    for (u32 bit = 1u << 31; bit; bit >>= 1)
        if (at_least(items, key | bit, cut, f) >= need) key |= bit;
    return key;
}

// The first item with which the sum of f over all items before it and its own reaches `need`. Warps take parts of the
// row one after another.
template <class F>
__device__ inline u32 first_to_reach(const Items& items, u64 need, F f) {
    __shared__ u64 parts[WARP];
    __shared__ u32 found;
    u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, share = (items.count + THREADS - 1) / THREADS * WARP;
    u32 begin = min(warp * share, items.count), end = min(begin + share, items.count);
    u64 sum = 0;
#pragma unroll 4
    for (u32 i = begin + lane; i < end; i += WARP) sum += f(items.key(i));
    for (int offset = WARP / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, offset);
    if (lane == 0) parts[warp] = sum;
    if (threadIdx.x == 0) found = 0;
    __syncthreads();
    u64 before = 0;
    for (u32 w = 0; w < warp; w++) before += parts[w];
    if (before < need && before + sum >= need)
        for (u32 first = begin; first < end; first += WARP) {
            u64 mine = first + lane < end ? f(items.key(first + lane)) : 0, upto = mine;
            for (int offset = 1; offset < WARP; offset *= 2) {
                u64 other = __shfl_up_sync(ALL_LANES, upto, offset);
                if (lane >= offset) upto += other;
            }
            u32 reached = __ballot_sync(ALL_LANES, before + upto >= need);
            if (reached) {
                if (lane == 0) found = first + __ffs(reached) - 1;
                break;
            }
            before += __shfl_sync(ALL_LANES, upto, WARP - 1);
        }
    __syncthreads();
    return found;
}

// Lists what the cut leaves of a row, LISTED at most, in the order of the ids; how many these are.
__device__ inline u32 list(const float* logits, u32 v, Cut cut, u32* keys, u32* ids) {
    __shared__ u32 above[WARP], equal[WARP];
    u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, share = (v + THREADS - 1) / THREADS * WARP;
    u32 begin = min(warp * share, v), end = min(begin + share, v);
    u32 more = 0, same = 0;
#pragma unroll 4
    for (u32 i = begin + lane; i < end; i += WARP) {
        u32 key = key_of(logits[i]);
        more += key > cut.key;
        same += key == cut.key;
    }
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        more += __shfl_xor_sync(ALL_LANES, more, offset);
        same += __shfl_xor_sync(ALL_LANES, same, offset);
    }
    __syncthreads();
    if (lane == 0) above[warp] = more, equal[warp] = same;
    __syncthreads();
    u32 count = 0, ties = 0, my_count = 0, my_ties = 0;
    for (u32 w = 0; w < WARP; w++) {
        if (w == warp) my_count = count, my_ties = ties;
        count += above[w];
        ties += equal[w];
    }
    count += min(ties, cut.ties);
    if (more + same)
        for (u32 first = begin; first < end; first += WARP) {
            u32 key = first + lane < end ? key_of(logits[first + lane]) : 0, before = (1u << lane) - 1;
            u32 larger = __ballot_sync(ALL_LANES, key > cut.key), alike = __ballot_sync(ALL_LANES, key == cut.key);
            u32 tie = my_ties + __popc(alike & before), at = my_count + __popc(larger & before) + min(tie, cut.ties);
            if (key > cut.key || key == cut.key && tie < cut.ties) keys[at] = key, ids[at] = first + lane;
            my_count += __popc(larger);
            my_ties += __popc(alike);
        }
    __syncthreads();
    return count;
}

// Keys and ids of tokens, in the memory of a block.
struct List {
    u32 keys[LISTED], ids[LISTED];
};

// The k-th largest of the threads' keys.
__device__ inline u32 kth_of_threads(u32 mine, u32 k) {
    u32 key = 0;
    for (u32 bit = 1u << 31; bit; bit >>= 1)
        if (__syncthreads_count(mine >= (key | bit)) >= k) key |= bit;
    return key;
}

// Puts `count` tokens of a list in order, likeliest first, of equals the smaller id: a bitonic network (Batcher 1968), which
// 1,000 tokens pass in 3 us.
__device__ inline void sort(List& list, u32 count) {
    u32 size = WARP;
    while (size < count) size *= 2;
    for (u32 i = count + threadIdx.x; i < size; i += THREADS) list.keys[i] = 0, list.ids[i] = ~0u;
    for (u32 run = 2; run <= size; run *= 2)
        for (u32 apart = run / 2; apart; apart /= 2) {
            __syncthreads();
            if (threadIdx.x < size / 2) {
                u32 a = 2 * threadIdx.x - (threadIdx.x & (apart - 1)), b = a + apart;
                u32 key = list.keys[a], other = list.keys[b], id = list.ids[a], its = list.ids[b];
                bool ordered = key > other || key == other && id < its;
                if (ordered == ((a & run) != 0)) {
                    list.keys[a] = other, list.ids[a] = its;
                    list.keys[b] = key, list.ids[b] = id;
                }
            }
        }
    __syncthreads();
}

// f(logit, id) of a thread's share of a row: 16 bytes at a time, if rows begin at such.
template <class F>
__device__ inline void each_of_thread(const float* logits, u32 v, F f) {
    u32 whole = v % 4 ? 0 : v;
#pragma unroll 8
    for (u32 i = threadIdx.x * 4; i < whole; i += THREADS * 4) {
        float4 z = *(const float4*)(logits + i);
        f(z.x, i);
        f(z.y, i + 1);
        f(z.z, i + 2);
        f(z.w, i + 3);
    }
#pragma unroll 8
    for (u32 i = whole + threadIdx.x; i < v; i += THREADS) f(logits[i], i);
}

__device__ inline u32 largest_of_thread(const float* logits, u32 v) {
    u32 largest = 0;
    each_of_thread(logits, v, [&](float z, u32) { largest = max(largest, key_of(z)); });
    return largest;
}

// Lists at least the k largest of a row, in order; how many, or 0 if too many pass. `mine`: the largest key of this
// thread's share.
__device__ inline u32 list_largest(List& list, const float* logits, u32 v, u32 k, u32 mine) {
    __shared__ u32 count;
    u32 passes = kth_of_threads(mine, k);
    if (passes == 0) return 0;  // fewer threads than k have any
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    if (mine >= passes)
        each_of_thread(logits, v, [&](float z, u32 id) {
            u32 key = key_of(z);
            if (key < passes) return;
            u32 at = atomicAdd(&count, 1);
            if (at < LISTED) list.keys[at] = key, list.ids[at] = id;
        });
    __syncthreads();
    if (count > LISTED) return 0;
    sort(list, count);
    return count;
}

__device__ inline u32 max_block(u32 x) {
    __shared__ u32 parts[WARP];
    x = __reduce_max_sync(ALL_LANES, x);
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = x;
    __syncthreads();
    x = __reduce_max_sync(ALL_LANES, parts[threadIdx.x % WARP]);
    __syncthreads();
    return x;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    sample_choose(u32* chosen, const float* logits, const float* changed, const Choice* choices, u32 v) {
    __shared__ List sorted;
    Choice c = choices[blockIdx.x];
    const float* row = c.changed ? changed + (u64)(c.changed - 1) * v : logits + (u64)c.row * v;
    u32 mine = largest_of_thread(row, v);
    float likeliest = logit_of(max_block(mine)), highest = fminf(likeliest, 3.402823466e38f);
    auto answer = [&](u32 id) {
        if (threadIdx.x == 0) chosen[blockIdx.x] = id;
    };
    Items all = {row, 0, 0, v};
    if (!(c.temperature > 0.0f) || likeliest == -INFINITY_F)
        return answer(first_to_reach(all, 1, [=](u32 key) { return (u64)(logit_of(key) == likeliest); }));

    auto one = [](u32) { return 1ull; };
    auto weight = [=](u32 key) {
        float p = expf((fminf(logit_of(key), 3.402823466e38f) - highest) / c.temperature);
        return p >= c.min_p ? __float2ull_rn(p * ONE) : 0ull;
    };
    // u * total, of which the drawn token's probability covers a part.
    auto need = [=](u64 total) { return min((u64)(c.uniform * (double)total), total - 1) + 1; };
    bool cut_k = c.top_k > 0 && c.top_k < v, cut_p = c.top_p < 1.0f;
    if (!cut_k && !cut_p) {
        u64 total = at_least(all, 0, {0, 0}, weight);
        return answer(first_to_reach(all, need(total), weight));
    }

    // Half the threads' keys are as long a list as will do, where nothing says how many tokens the nucleus has.
    u32 listed = list_largest(sorted, row, v, cut_k ? c.top_k : THREADS / 2, mine);
    Items items = {0, sorted.keys, sorted.ids, cut_k ? min(listed, c.top_k) : listed};
    Cut cut = {0, 0};
    u64 total = at_least(cut_k ? items : all, 0, cut, weight);
    u64 enough = max((u64)ceil((double)c.top_p * (double)total), 1ull);
    if (listed && (cut_k || at_least(items, 0, cut, weight) >= enough)) {
        if (cut_p) {
            items.count = first_to_reach(items, enough, weight) + 1;
            total = at_least(items, 0, cut, weight);
        }
        return answer(items.id(first_to_reach(items, need(total), weight)));
    }

    if (cut_k) {
        u32 key = search(all, cut, c.top_k, one);
        cut = {key, c.top_k - (u32)at_least(all, key + 1, cut, one)};
        total = at_least(all, 0, cut, weight);
    }
    if (cut_p) {
        enough = max((u64)ceil((double)c.top_p * (double)total), 1ull);
        u32 key = search(all, cut, enough, weight);
        u64 above = at_least(all, key + 1, cut, weight), each = weight(key);
        cut = {key, (u32)((enough - above + each - 1) / each)};
        total = above + cut.ties * each;
    }
    u64 reach = need(total);
    u32 key = search(all, cut, reach, weight);
    u64 above = at_least(all, key + 1, cut, weight), tie = (reach - above - 1) / weight(key);
    answer(first_to_reach(all, tie + 1, [=](u32 other) { return (u64)(other == key); }));
}

struct Penalties {
    u32 row, seen, prompt, answer;  // where its tokens begin, how many are of the prompt and of the answer
    float repetition, presence, frequency;
};

// A copy of a row in which tokens seen before are less likely. counts (choices, V) is zero, and zero again afterwards.
extern "C" __global__ void __launch_bounds__(THREADS)
    sample_penalize(float* changed, u32* counts, const float* logits, const Penalties* all, const u32* seen, u32 v) {
    const u32 USED = 1u << 31;
    Penalties p = all[blockIdx.x];
    logits += (u64)p.row * v;
    changed += (u64)blockIdx.x * v;
    counts += (u64)blockIdx.x * v;
    seen += p.seen;
    for (u32 i = threadIdx.x; i < v; i += THREADS) changed[i] = logits[i];
    for (u32 i = threadIdx.x; i < p.prompt + p.answer; i += THREADS)
        if (seen[i] < v) {
            atomicOr(counts + seen[i], USED);
            if (i >= p.prompt) atomicAdd(counts + seen[i], 1);
        }
    __syncthreads();
    for (u32 i = threadIdx.x; i < p.prompt + p.answer; i += THREADS) {
        if (seen[i] >= v) continue;
        u32 count = atomicExch(counts + seen[i], 0);  // whoever comes first does it for all
        if (count == 0) continue;
        float z = changed[seen[i]];
        if (p.repetition != 1.0f) z = z > 0.0f ? z / p.repetition : z * p.repetition;
        count -= USED;
        if (count) z -= __fadd_rn(p.presence, __fmul_rn(p.frequency, (float)count));
        changed[seen[i]] = z;
    }
}

// Of token ids[n] after row rows[n] of logits its log-probability, and those of the `top` likeliest: out (N, 1 + 2 top),
// first the token's, then ids and values, likeliest first. A row with fewer tokens repeats none: its id is V.
extern "C" __global__ void __launch_bounds__(THREADS)
    sample_log_probabilities(float* out, const float* logits, const u32* rows, const u32* chosen, u32 v, u32 top) {
    __shared__ List sorted;
    __shared__ double sums[WARP];
    const float* row = logits + (u64)rows[blockIdx.x] * v;
    out += (u64)blockIdx.x * (1 + 2 * top);
    u32 mine = largest_of_thread(row, v);
    float highest = fminf(logit_of(max_block(mine)), 3.402823466e38f);
    double sum = 0.0;
#pragma unroll 8
    for (u32 i = threadIdx.x; i < v; i += THREADS) sum += row[i] == row[i] ? expf(row[i] - highest) : 0.0f;
    for (int offset = WARP / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, offset);
    if (threadIdx.x % WARP == 0) sums[threadIdx.x / WARP] = sum;
    __syncthreads();
    sum = sums[threadIdx.x % WARP];
    for (int offset = WARP / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, offset);
    float log_sum = highest + (float)log(sum);
    if (threadIdx.x == 0) out[0] = row[chosen[blockIdx.x]] - log_sum;
    if (top == 0) return;

    u32 some = min(top, v), count = list_largest(sorted, row, v, some, mine);
    if (!count) {
        Items all = {row, 0, 0, v};
        Cut none = {0, 0};
        auto one = [](u32) { return 1ull; };
        u32 key = search(all, none, some, one);
        count = list(row, v, {key, some - (u32)at_least(all, key + 1, none, one)}, sorted.keys, sorted.ids);
        sort(sorted, count);
    }
    for (u32 i = threadIdx.x; i < top; i += THREADS) {
        out[1 + i] = __uint_as_float(i < some ? sorted.ids[i] : v);
        out[1 + top + i] = i < some ? logit_of(sorted.keys[i]) - log_sum : 0.0f;
    }
}
