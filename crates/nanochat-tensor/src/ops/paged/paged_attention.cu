// Attention of new tokens over the paged cache, FlashAttention-2 (Dao 2023) with a page of keys as the tile. A block has
// four warps, each with 16 of 64 queries of one head; the next page is fetched (cp.async) while one is multiplied. At
// 1,024 queries of 10 heads these are 160 blocks: half as many, of 128 queries, would leave multiprocessors idle.
//
// Exponents are base 2: p = 2^(s * scale2 - largest) with scale2 = log2(e) / sqrt(D).

#define ROWS 64
#define THREADS 128
#define PAGE 64

// Up to ROWS neighbouring queries of one sequence: the first one's row in the batch, how many, its position in the
// sequence, and where the sequence's pages begin in the list of all.
struct Tile {
    u32 row, count, position, pages;
};

// 64 rows `stride` values apart into a tile; rows from `count` on read as zeros: the cache holds anything there.
template <int D>
__device__ inline void load_rows(u32 tile, const bf16* from, u64 stride, u32 count) {
    const int CHUNKS = D / 8;
#pragma unroll
    for (int i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
        u32 row = i / CHUNKS, chunk = i % CHUNKS;
        bool real = row < count;
        copy16(at<ROWS>(tile, row, chunk), from + (real ? row : 0) * stride + chunk * 8, real);
    }
}

template <int D>
__device__ inline void attend(bf16* y, const bf16* q, const bf16* k, const bf16* v, const Tile* tiles, const u32* pages,
                              u32 h, u32 kvh, float scale) {
    const int BYTES = PAGE * D * 2;
    extern __shared__ __align__(1024) unsigned char memory[];
    u32 q_tile = shared_address(memory), k_tiles = q_tile + ROWS * D * 2, v_tiles = k_tiles + 2 * BYTES;
    Tile t = tiles[blockIdx.y];
    u32 head = blockIdx.x, kv_head = head * kvh / h, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    u64 stride = (u64)(h + 2 * kvh) * D;
    q += t.row * stride + head * D;
    y += ((u64)t.row * h + head) * D;
    pages += t.pages;

    u32 seen = t.position + t.count, end = (seen + PAGE - 1) / PAGE;
    auto load = [&](u32 n) {
        if (n >= end) return;
        u64 from = ((u64)pages[n] * kvh + kv_head) * PAGE * D;
        load_rows<D>(k_tiles + n % 2 * BYTES, k + from, D, seen - n * PAGE);
        load_rows<D>(v_tiles + n % 2 * BYTES, v + from, D, seen - n * PAGE);
        commit();
    };
    load_rows<D>(q_tile, q, stride, t.count);
    load(0);

    float out[D / 8][4] = {}, largest[2] = {-INFINITY_F, -INFINITY_F}, total[2] = {}, keep[2];
    float scale2 = scale * LOG2E;
    u32 my_row = warp * 16 + lane / 4;
    for (u32 n = 0; n < end; n++) {
        wait<0>();
        __syncthreads();
        load(n + 1);
        float p[PAGE / 8][4] = {};
        times_transposed<D, PAGE, ROWS>(p, q_tile, warp * 16, k_tiles + n % 2 * BYTES);
        if (n * PAGE + PAGE > t.position + warp * 16 + 1) {
            u32 ahead = n * PAGE + lane % 4 * 2, position = t.position + my_row;
#pragma unroll
            for (int i = 0; i < PAGE / 8; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    if (ahead + i * 8 + j % 2 > position + j / 2 * 8) p[i][j] = -INFINITY_F;
        }
        softmax(p, largest, total, keep, scale2);
        multiply(out, keep);
        times<D, PAGE>(out, p, v_tiles + n % 2 * BYTES);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        u32 row = my_row + half * 8;
        float share = 1.0f / sum_lanes(total[half], 4);
        bf16* to = y + (u64)row * h * D + lane % 4 * 2;
        if (row < t.count)
#pragma unroll
            for (int n = 0; n < D / 8; n++) *(u32*)(to + n * 8) = pack(out[n][2 * half] * share, out[n][2 * half + 1] * share);
    }
}

#define KERNELS(D)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        paged_attention_##D(bf16* y, const bf16* q, const bf16* k, const bf16* v, const Tile* tiles, const u32* pages, \
                            u32 h, u32 kvh, float scale) {                                                             \
        attend<D>(y, q, k, v, tiles, pages, h, kvh, scale);                                                            \
    }

KERNELS(64)
KERNELS(128)
