// Flash-decoding (Dao et al. 2023) over pages, with what surrounds it: rotary embedding and norm of q and k, and the
// write of the new keys and values into the cache.
//
// The tokens a query sees are cut into slices of 16, and slices are dealt out to blocks, then to their four warps. A
// warp goes through its slices alone, with its own pipeline of STAGES slices of keys and values in shared memory and
// its own softmax; nothing is shared before the end. In its 16 rows of sums are the heads that share a key head: of one
// row of the batch, or, where rows begin with the same pages, of as many rows as fit. Cached tokens are asked for before
// the wait for the kernel that computes q, k and v: they were written in steps before this one.
//
// What the blocks of a row found is joined by the last of them to end, in the order of the blocks.

#define THREADS 128
#define WARPS 4
#define SLICE 16
#define STAGES 2
#define PAGE 64
#define MOST_SLOTS 32

struct Sizes {
    u32 rows, heads, kv_heads, max_pages;
    u32 splits, tile_splits;  // blocks for a row's own tokens, and for those of a tile of rows
    u32 tiles;
    float scale2, eps;        // log2(e) / sqrt(D)
};

// Rows of the batch that begin with the same `pages` pages. None where pages is 0.
struct Tile {
    u32 row, rows, pages, reserved;
};

__device__ inline u32 smaller(u32 a, u32 b) { return a < b ? a : b; }

__device__ inline float largest_lane(float x) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, offset));
    return x;
}

// The norm of x (D) rotated to `position`, by one warp: put(i, values i and i + 1).
template <int D, typename Put>
__device__ inline void rotary_norm(const bf16* x, const float* cosines, const float* sines, u32 position, float eps,
                                   Put put) {
    u32 i = threadIdx.x % WARP * 2;
    float2 z1 = {}, z2 = {};
    if (i < D / 2) {
        u32 low = *(const u32*)(x + i), high = *(const u32*)(x + D / 2 + i);
        float2 c = *(const float2*)(cosines + (u64)position * (D / 2) + i);
        float2 s = *(const float2*)(sines + (u64)position * (D / 2) + i);
        z1 = {low_float(low) * c.x + low_float(high) * s.x, high_float(low) * c.y + high_float(high) * s.y};
        z2 = {low_float(high) * c.x - low_float(low) * s.x, high_float(high) * c.y - high_float(low) * s.y};
    }
    float scale = rsqrtf(sum_lanes(z1.x * z1.x + z1.y * z1.y + z2.x * z2.x + z2.y * z2.y, WARP) / D + eps);
    if (i < D / 2) {
        put(i, pack(z1.x * scale, z1.y * scale));
        put(i + D / 2, pack(z2.x * scale, z2.y * scale));
    }
}

// Where the pair of values at column `i` of a row of a tile lies.
__device__ inline u32* pair(unsigned char* tile, u32 row, u32 i) {
    return (u32*)(tile + at<SLICE>(0, row, i / 8) + i % 8 * 2);
}

template <int D>
__device__ inline void decode_attention(bf16* y, const bf16* qkv, bf16* keys, bf16* values, const float* cosines,
                                        const float* sines, const u32* tables, const u32* lengths, const u32* shared,
                                        const Tile* tiles, float* partial, float2* softmaxes, u32* arrived, Sizes n) {
    const int TILE = SLICE * D * 2;
    extern __shared__ __align__(1024) unsigned char memory[];  // q, then each warp's stages of keys and values
    __shared__ float largest_of[WARPS][SLICE], total_of[WARPS][SLICE];
    __shared__ bool joins[SLICE];
    __shared__ uint4 fresh[2][D / 8];  // key and value of the new token
    launch_dependents();
    u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, kv_head = blockIdx.x;
    u32 group = n.heads / n.kv_heads, width = (n.heads + 2 * n.kv_heads) * D;

    // Which rows, and which of their slices. Tiles come first: they are the longest.
    bool is_tile = blockIdx.y < n.tiles * n.tile_splits;
    u32 unit = is_tile ? blockIdx.y : blockIdx.y - n.tiles * n.tile_splits;
    u32 splits = is_tile ? n.tile_splits : n.splits, split = unit % splits;
    Tile tile = is_tile ? tiles[unit / splits] : Tile{unit / splits, 1, 0, 0};
    u32 length = lengths[tile.row], begin = is_tile ? 0 : shared[tile.row] * PAGE;
    u32 end = is_tile ? tile.pages * PAGE : length, cached = is_tile ? end : length - 1;
    if (length == 0 || end == 0) return;
    u32 slices = (end - begin + SLICE - 1) / SLICE, used = smaller(splits, slices);
    if (split >= used) return;
    u32 from = split * slices / used + warp, to = (split + 1) * slices / used;

    const u32* table = tables + tile.row * n.max_pages;
    unsigned char* stages = memory + TILE + warp * STAGES * 2 * TILE;
    auto load = [&](u32 slice, u32 stage) {
        if (slice < to) {
            u32 token = begin + slice * SLICE;
            u64 start = ((u64)(table[token / PAGE] * n.kv_heads + kv_head) * PAGE + token % PAGE) * D;
            u32 k_tile = shared_address(stages + stage * 2 * TILE);
#pragma unroll
            for (int i = lane; i < SLICE * D / 8; i += WARP) {
                u32 row = i / (D / 8), chunk = i % (D / 8);
                bool real = token + row < cached;
                u64 at_row = real ? start + row * D + chunk * 8 : start;
                copy16(at<SLICE>(k_tile, row, chunk), keys + at_row, real);
                copy16(at<SLICE>(k_tile + TILE, row, chunk), values + at_row, real);
            }
        }
        commit();
    };
    for (u32 i = 0; i < STAGES - 1; i++) load(from + i * WARPS, i);
    wait_for_previous();

    for (u32 i = warp; i < SLICE; i += WARPS) {
        u32 row = tile.row + i / group;
        if (i < tile.rows * group)
            rotary_norm<D>(qkv + (u64)row * width + (kv_head * group + i % group) * D, cosines, sines, lengths[row] - 1,
                           n.eps, [&](u32 at, u32 value) { *pair(memory, i, at) = value; });
        else if (lane < D / 8)
            *(uint4*)pair(memory, i, lane * 8) = make_uint4(0, 0, 0, 0);
    }
    // The new token belongs to the warp of the last slice: into the cache, and to be put among the others.
    if (!is_tile && split == used - 1 && (slices - 1 - from) % WARPS == 0 && from < to) {
        const bf16* k = qkv + (u64)tile.row * width + (n.heads + kv_head) * D;
        u64 start = ((u64)(table[cached / PAGE] * n.kv_heads + kv_head) * PAGE + cached % PAGE) * D;
        rotary_norm<D>(k, cosines, sines, cached, n.eps, [&](u32 at, u32 value) {
            *(u32*)(keys + start + at) = value;
            *(u32*)((bf16*)fresh[0] + at) = value;
        });
        if (lane < D / 8) {
            uint4 value = ((const uint4*)(k + n.kv_heads * D))[lane];
            ((uint4*)(values + start))[lane] = value;
            fresh[1][lane] = value;
        }
    }
    __syncthreads();

    float out[D / 8][4] = {}, largest[2] = {-INFINITY_F, -INFINITY_F}, total[2] = {};
    u32 stage = 0;
    for (u32 slice = from; slice < to; slice += WARPS) {
        wait<STAGES - 2>();
        __syncwarp();
        load(slice + (STAGES - 1) * WARPS, (stage + STAGES - 1) % STAGES);
        unsigned char* k_tile = stages + stage * 2 * TILE;
        u32 token = begin + slice * SLICE;
        if (!is_tile && slice == slices - 1) {
            if (lane < D / 8) {
                *(uint4*)pair(k_tile, cached - token, lane * 8) = fresh[0][lane];
                *(uint4*)pair(k_tile + TILE, cached - token, lane * 8) = fresh[1][lane];
            }
            __syncwarp();
        }
        float s[2][4] = {}, keep[2];
        times_transposed<D, SLICE, SLICE>(s, shared_address(memory), 0, shared_address(k_tile));
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (token + i / 4 * 8 + lane % 4 * 2 + i % 2 >= end) s[i / 4][i % 4] = -INFINITY_F;
        softmax<2>(s, largest, total, keep, n.scale2);
        multiply<D / 8>(out, keep);
        times<D, SLICE>(out, s, shared_address(k_tile + TILE));
        stage = (stage + 1) % STAGES;
    }

    // The four warps' parts become the block's. Theirs take the place of the stages.
    wait<0>();
    __syncthreads();
    float(*outs)[SLICE][D] = (float(*)[SLICE][D])(memory + TILE);
    u32 queries = tile.rows * group;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        u32 row = lane / 4 + half * 8;
        float sum = sum_lanes(total[half], 4);
        if (lane % 4 == 0) {
            largest_of[warp][row] = largest[half] * n.scale2;
            total_of[warp][row] = sum;
        }
        if (row < queries)
#pragma unroll
            for (int i = 0; i < D / 8; i++)
                *(float2*)&outs[warp][row][i * 8 + lane % 4 * 2] = make_float2(out[i][2 * half], out[i][2 * half + 1]);
    }
    __syncthreads();
    u32 slots = n.splits + n.tile_splits;
    for (u32 i = threadIdx.x; i < queries * D; i += THREADS) {
        u32 query = i / D, d = i % D, row = tile.row + query / group, head = kv_head * group + query % group;
        float most = -INFINITY_F, sum = 0.0f, weights = 0.0f;
        for (int w = 0; w < WARPS; w++) most = fmaxf(most, largest_of[w][query]);
        for (int w = 0; w < WARPS; w++) {
            float weight = exp2_fast(largest_of[w][query] - most);
            sum += weight * outs[w][query][d];
            weights += weight * total_of[w][query];
        }
        if (!is_tile && used == 1 && shared[row] == 0) {
            y[(u64)(row * n.heads + head) * D + d] = to_bf16(sum / weights);
            continue;
        }
        u64 slot = (u64)(row * n.heads + head) * slots + (is_tile ? n.splits : 0) + split;
        partial[slot * D + d] = sum;
        if (d == 0) softmaxes[slot] = make_float2(most, weights);
    }
    if (!is_tile && used == 1 && shared[tile.row] == 0) return;

    // The last block of a row joins what all of them left.
    __threadfence();
    __syncthreads();
    auto own = [&](u32 row) {
        return smaller(n.splits, (lengths[row] - shared[row] * PAGE + SLICE - 1) / SLICE);
    };
    auto of_tile = [&](u32 row) { return smaller(n.tile_splits, shared[row] * PAGE / SLICE); };
    if (threadIdx.x < tile.rows) {
        u32 row = tile.row + threadIdx.x, *count = arrived + row * n.kv_heads + kv_head;
        bool last = atomicAdd(count, 1) + 1 == own(row) + of_tile(row);
        joins[threadIdx.x] = last;
        if (last) *count = 0;
    }
    __syncthreads();
    __threadfence();
    // Each query's weights first, a lane to a slot, so that the loads of what they weigh need not wait for one another.
    __shared__ float weights[SLICE][MOST_SLOTS];
    for (u32 query = warp; query < queries; query += WARPS) {
        u32 row = tile.row + query / group, mine = own(row), all = mine + of_tile(row);
        u64 first = (u64)(row * n.heads + kv_head * group + query % group) * slots;
        float2 part = {-INFINITY_F, 0.0f};
        if (lane < all) part = __ldcg(softmaxes + first + (lane < mine ? lane : n.splits + lane - mine));
        float weight = exp2_fast(part.x - largest_lane(part.x));
        weights[query][lane] = weight / sum_lanes(weight * part.y, WARP);
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < queries * D; i += THREADS) {
        u32 query = i / D, d = i % D, row = tile.row + query / group, head = kv_head * group + query % group;
        if (!joins[query / group]) continue;
        const float* first = partial + (u64)(row * n.heads + head) * slots * D + d;
        u32 mine = own(row), all = mine + of_tile(row);
        float sum = 0.0f;
#pragma unroll 8
        for (u32 j = 0; j < all; j++)
            sum += weights[query][j] * __ldcg(first + (j < mine ? j : n.splits + j - mine) * D);
        y[(u64)(row * n.heads + head) * D + d] = to_bf16(sum);
    }
}

#define KERNEL(D)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS) decode_attention_##D(                                        \
        bf16* y, const bf16* qkv, bf16* keys, bf16* values, const float* cosines, const float* sines,                  \
        const u32* tables, const u32* lengths, const u32* shared, const Tile* tiles, float* partial,                   \
        float2* softmaxes, u32* arrived, u32 rows, u32 heads, u32 kv_heads, u32 max_pages, u32 splits,                 \
        u32 tile_splits, u32 tile_count, float scale2, float eps) {                                                    \
        Sizes n = {rows, heads, kv_heads, max_pages, splits, tile_splits, tile_count, scale2, eps};                    \
        decode_attention<D>(y, qkv, keys, values, cosines, sines, tables, lengths, shared, tiles, partial, softmaxes,  \
                            arrived, n);                                                                               \
    }

KERNEL(64)
KERNEL(128)
