// FlashAttention-2 (Dao 2023). A block has eight warps, each with 16 rows of its own tile of 128 and the other
// side streamed past it in tiles through shared memory, two in flight (cp.async). Scores never leave registers.
//
// Products are those of mma.cuh, which every card from sm_80 has. Hopper has faster ways: attention_sm90.cu.
//
// Exponents are base 2: p = 2^(s * scale2 - lse2) with scale2 = log2(e) / sqrt(D).

#define ROWS 128
#define THREADS 256

#define FORWARD_KEYS 64
#define BACKWARD_STAGE 32

// lse and delta have `padded` rows a head, T rounded up to whole tiles.
struct Shape {
    u32 t, padded, h, kvh, window;
    float scale;
};

// Rows first .. first + N of one head into a tile; rows from `t` on read as zeros.
template <int D, int N>
__device__ inline void load_tile(u32 tile, const bf16* head, u64 stride, u32 first, u32 t) {
    const int CHUNKS = D / 8;
#pragma unroll
    for (int i = threadIdx.x; i < N * CHUNKS; i += THREADS) {
        u32 row = i / CHUNKS, chunk = i % CHUNKS;
        bool real = first + row < t;
        copy16(at<N>(tile, row, chunk), head + (u64)(real ? first + row : 0) * stride + chunk * 8, real);
    }
}

// Whether the query at `q` sees the key at `k`. Written for unsigned: k > q wraps to a large distance.
__device__ inline bool sees(u32 q, u32 k, u32 window) { return q - k < window && k <= q; }

// Accumulators (16, D), scaled, as bf16 rows of one head.
template <int D>
__device__ inline void store(bf16* head, u64 stride, u32 row, u32 t, const float (&x)[D / 8][4], float low, float high) {
    u32 lane = threadIdx.x % WARP, column = lane % 4 * 2;
    row += lane / 4;
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
        if (row < t) *(u32*)(head + row * stride + n * 8 + column) = pack(x[n][0] * low, x[n][1] * low);
        if (row + 8 < t) *(u32*)(head + (row + 8) * stride + n * 8 + column) = pack(x[n][2] * high, x[n][3] * high);
    }
}

template <int D>
__device__ inline void forward(bf16* y, float* lse, const bf16* q, const bf16* k, const bf16* v, Shape s) {
    const int KEYS = FORWARD_KEYS, TILE = KEYS * D * 2;
    extern __shared__ __align__(1024) unsigned char memory[];
    u32 q_tile = shared_address(memory), k_tiles = q_tile + ROWS * D * 2, v_tiles = k_tiles + 2 * TILE;
    // Late queries see the most keys: they go first, so that no long block is left over at the end.
    u32 first = (gridDim.x - 1 - blockIdx.x) * ROWS, h = blockIdx.y, b = blockIdx.z;
    u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    u64 stride = (u64)s.h * D, kv_stride = (u64)s.kvh * D;
    u32 kv_head = h * s.kvh / s.h;
    q += b * s.t * stride + h * D;
    y += b * s.t * stride + h * D;
    k += b * s.t * kv_stride + kv_head * D;
    v += b * s.t * kv_stride + kv_head * D;

    u32 seen = first + ROWS < s.t ? first + ROWS : s.t;
    u32 begin = (first + 1 > s.window ? first + 1 - s.window : 0) / KEYS, end = (seen + KEYS - 1) / KEYS;
    auto load = [&](u32 tile) {
        if (tile >= end) return;
        load_tile<D, KEYS>(k_tiles + tile % 2 * TILE, k, kv_stride, tile * KEYS, s.t);
        load_tile<D, KEYS>(v_tiles + tile % 2 * TILE, v, kv_stride, tile * KEYS, s.t);
        commit();
    };
    load_tile<D, ROWS>(q_tile, q, stride, first, s.t);
    load(begin);

    float out[D / 8][4] = {}, largest[2] = {-INFINITY_F, -INFINITY_F}, total[2] = {}, keep[2];
    float scale2 = s.scale * LOG2E;
    u32 my_first = first + warp * 16, my_row = my_first + lane / 4;
    auto mask = [&](float (&p)[KEYS / 8][4], u32 tile) {
        if (tile * KEYS + KEYS <= my_first + 1 && my_first + 16 <= tile * KEYS + s.window) return;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (!sees(my_row + j / 2 * 8, tile * KEYS + n * 8 + lane % 4 * 2 + j % 2, s.window)) p[n][j] = -INFINITY_F;
    };
    for (u32 tile = begin; tile < end; tile++) {
        wait<0>();
        __syncthreads();
        load(tile + 1);
        float p[KEYS / 8][4] = {};
        times_transposed<D, KEYS, ROWS>(p, q_tile, warp * 16, k_tiles + tile % 2 * TILE);
        mask(p, tile);
        softmax(p, largest, total, keep, scale2);
        multiply(out, keep);
        times<D, KEYS>(out, p, v_tiles + tile % 2 * TILE);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        total[half] = sum_lanes(total[half], 4);
        u32 row = my_row + half * 8;
        if (lane % 4 == 0 && row < s.t)
            lse[((u64)b * s.h + h) * s.padded + row] = largest[half] * scale2 + log2f(total[half]);
    }
    store<D>(y, stride, my_first, s.t, out, 1.0f / total[0], 1.0f / total[1]);
}

// delta (B, H, padded) = rowsum(dy * y), 0 for rows after the last; D / 8 lanes to a row
template <int D>
__device__ inline void row_products(float* delta, const bf16* dy, const bf16* y, Shape s, u32 total) {
    const int LANES = D / 8;
    u32 n = (blockIdx.x * blockDim.x + threadIdx.x) / LANES, i = threadIdx.x % LANES * 8;
    u32 h = n % s.h, row = n / s.h % s.padded, b = n / s.h / s.padded;
    float sum = 0.0f;
    if (n < total && row < s.t) {
        u64 from = (((u64)b * s.t + row) * s.h + h) * D + i;
        Eight a = load8(dy + from), c = load8(y + from);
        for (int j = 0; j < 8; j++) sum += a.v[j] * c.v[j];
    }
    sum = sum_lanes(sum, LANES);
    if (n < total && i == 0) delta[((u64)b * s.h + h) * s.padded + row] = sum;
}

// 128 keys of one key head against all queries that see them, for every query head that shares it.
template <int D>
__device__ inline void backward_kv(bf16* dk, bf16* dv, const bf16* dy, const bf16* q, const bf16* k, const bf16* v,
                                   const float* lse, const float* delta, Shape s) {
    const int QUERIES = BACKWARD_STAGE, STAGE = 2 * QUERIES * D * 2;
    extern __shared__ __align__(1024) unsigned char memory[];
    __shared__ float row_lse[2][QUERIES], row_delta[2][QUERIES];
    u32 k_tile = shared_address(memory), v_tile = k_tile + ROWS * D * 2, q_tiles = v_tile + ROWS * D * 2;
    u32 first = blockIdx.x * ROWS, kv_head = blockIdx.y, b = blockIdx.z;
    u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    u64 stride = (u64)s.h * D, kv_stride = (u64)s.kvh * D, batch = (u64)b * s.t;
    u32 group = s.h / s.kvh;
    k += batch * kv_stride + kv_head * D;
    v += batch * kv_stride + kv_head * D;

    u32 begin = first / QUERIES;
    u32 last = s.window < s.t - first && first + ROWS - 1 + s.window < s.t ? first + ROWS - 1 + s.window : s.t;
    u32 tiles = (last + QUERIES - 1) / QUERIES - begin;
    auto load = [&](u32 n) {
        u32 h = kv_head * group + n / tiles, tile = begin + n % tiles, to = q_tiles + n % 2 * STAGE;
        load_tile<D, QUERIES>(to, q + batch * stride + h * D, stride, tile * QUERIES, s.t);
        load_tile<D, QUERIES>(to + QUERIES * D * 2, dy + batch * stride + h * D, stride, tile * QUERIES, s.t);
        commit();
        if (threadIdx.x < QUERIES) {
            u32 row = tile * QUERIES + threadIdx.x;
            u64 from = ((u64)b * s.h + h) * s.padded + row;
            // Beyond the end p must be 0: 2^(0 - 1e30).
            row_lse[n % 2][threadIdx.x] = row < s.t ? lse[from] : 1e30f;
            row_delta[n % 2][threadIdx.x] = row < s.t ? delta[from] : 0.0f;
        }
    };
    load_tile<D, ROWS>(k_tile, k, kv_stride, first, s.t);
    load_tile<D, ROWS>(v_tile, v, kv_stride, first, s.t);
    load(0);

    float dk_out[D / 8][4] = {}, dv_out[D / 8][4] = {};
    float scale2 = s.scale * LOG2E;
    u32 my_first = first + warp * 16, my_key = my_first + lane / 4;
    for (u32 n = 0; n < tiles * group; n++) {
        if (n + 1 < tiles * group) {
            load(n + 1);
            wait<1>();
        } else {
            wait<0>();
        }
        __syncthreads();
        u32 q_tile = q_tiles + n % 2 * STAGE, dy_tile = q_tile + QUERIES * D * 2;
        u32 query = (begin + n % tiles) * QUERIES;
        if (query + QUERIES > my_first) {
            float p[QUERIES / 8][4] = {}, ds[QUERIES / 8][4] = {};
            times_transposed<D, QUERIES, ROWS>(p, k_tile, warp * 16, q_tile);
            times_transposed<D, QUERIES, ROWS>(ds, v_tile, warp * 16, dy_tile);
            bool edge = my_first + 15 > query || query + QUERIES - 1 - my_first >= s.window;
#pragma unroll
            for (int i = 0; i < QUERIES / 8; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    u32 column = i * 8 + lane % 4 * 2 + j % 2;
                    p[i][j] = exp2_fast(p[i][j] * scale2 - row_lse[n % 2][column]);
                    if (edge && !sees(query + column, my_key + j / 2 * 8, s.window)) p[i][j] = 0.0f;
                }
            times<D, QUERIES>(dv_out, p, dy_tile);
#pragma unroll
            for (int i = 0; i < QUERIES / 8; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    ds[i][j] = p[i][j] * (ds[i][j] - row_delta[n % 2][i * 8 + lane % 4 * 2 + j % 2]);
            times<D, QUERIES>(dk_out, ds, q_tile);
        }
        __syncthreads();
    }
    store<D>(dk + batch * kv_stride + kv_head * D, kv_stride, my_first, s.t, dk_out, s.scale, s.scale);
    store<D>(dv + batch * kv_stride + kv_head * D, kv_stride, my_first, s.t, dv_out, 1.0f, 1.0f);
}

// 128 queries against all keys they see. The scores are computed a second time; in exchange every gradient is
// summed in one place and one order, without atomics.
template <int D>
__device__ inline void backward_q(bf16* dq, const bf16* dy, const bf16* q, const bf16* k, const bf16* v,
                                  const float* lse, const float* delta, Shape s) {
    const int KEYS = BACKWARD_STAGE, STAGE = 2 * KEYS * D * 2;
    extern __shared__ __align__(1024) unsigned char memory[];
    u32 q_tile = shared_address(memory), dy_tile = q_tile + ROWS * D * 2, kv_tiles = dy_tile + ROWS * D * 2;
    u32 first = (gridDim.x - 1 - blockIdx.x) * ROWS, h = blockIdx.y, b = blockIdx.z;
    u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    u64 stride = (u64)s.h * D, kv_stride = (u64)s.kvh * D, batch = (u64)b * s.t;
    u32 kv_head = h * s.kvh / s.h;
    q += batch * stride + h * D;
    dy += batch * stride + h * D;
    k += batch * kv_stride + kv_head * D;
    v += batch * kv_stride + kv_head * D;

    u32 seen = first + ROWS < s.t ? first + ROWS : s.t;
    u32 begin = (first + 1 > s.window ? first + 1 - s.window : 0) / KEYS, end = (seen + KEYS - 1) / KEYS;
    auto load = [&](u32 tile) {
        u32 to = kv_tiles + tile % 2 * STAGE;
        load_tile<D, KEYS>(to, k, kv_stride, tile * KEYS, s.t);
        load_tile<D, KEYS>(to + KEYS * D * 2, v, kv_stride, tile * KEYS, s.t);
        commit();
    };
    load_tile<D, ROWS>(q_tile, q, stride, first, s.t);
    load_tile<D, ROWS>(dy_tile, dy, stride, first, s.t);
    load(begin);

    float out[D / 8][4] = {}, my_lse[2], my_delta[2], scale2 = s.scale * LOG2E;
    u32 my_first = first + warp * 16, my_row = my_first + lane / 4;
    for (int half = 0; half < 2; half++) {
        u32 row = my_row + half * 8;
        u64 from = ((u64)b * s.h + h) * s.padded + row;
        my_lse[half] = row < s.t ? lse[from] : 1e30f;
        my_delta[half] = row < s.t ? delta[from] : 0.0f;
    }
    for (u32 tile = begin; tile < end; tile++) {
        if (tile + 1 < end) {
            load(tile + 1);
            wait<1>();
        } else {
            wait<0>();
        }
        __syncthreads();
        u32 k_tile = kv_tiles + tile % 2 * STAGE, v_tile = k_tile + KEYS * D * 2;
        if (tile * KEYS < my_first + 16) {
            float p[KEYS / 8][4] = {}, ds[KEYS / 8][4] = {};
            times_transposed<D, KEYS, ROWS>(p, q_tile, warp * 16, k_tile);
            times_transposed<D, KEYS, ROWS>(ds, dy_tile, warp * 16, v_tile);
            bool edge = tile * KEYS + KEYS > my_first + 1 || my_first + 16 > tile * KEYS + s.window;
#pragma unroll
            for (int i = 0; i < KEYS / 8; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    u32 key = tile * KEYS + i * 8 + lane % 4 * 2 + j % 2;
                    p[i][j] = exp2_fast(p[i][j] * scale2 - my_lse[j / 2]);
                    if (edge && !sees(my_row + j / 2 * 8, key, s.window)) p[i][j] = 0.0f;
                }
#pragma unroll
            for (int i = 0; i < KEYS / 8; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) ds[i][j] = p[i][j] * (ds[i][j] - my_delta[j / 2]);
            times<D, KEYS>(out, ds, k_tile);
        }
        __syncthreads();
    }
    store<D>(dq + batch * stride + h * D, stride, my_first, s.t, out, s.scale, s.scale);
}

#define SIZES u32 t, u32 padded, u32 h, u32 kvh, u32 window, float scale
#define SHAPE {t, padded, h, kvh, window, scale}
#define KERNELS(D)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                           \
        attention_forward_##D(bf16* y, float* lse, const bf16* q, const bf16* k, const bf16* v, SIZES) {               \
        forward<D>(y, lse, q, k, v, SHAPE);                                                                            \
    }                                                                                                                  \
    extern "C" __global__ void attention_delta_##D(float* delta, const bf16* dy, const bf16* y, SIZES, u32 total) {    \
        row_products<D>(delta, dy, y, SHAPE, total);                                                                   \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                           \
        attention_backward_kv_##D(bf16* dk, bf16* dv, const bf16* dy, const bf16* q, const bf16* k, const bf16* v,     \
                                  const float* lse, const float* delta, SIZES) {                                       \
        backward_kv<D>(dk, dv, dy, q, k, v, lse, delta, SHAPE);                                                        \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                           \
        attention_backward_q_##D(bf16* dq, const bf16* dy, const bf16* q, const bf16* k, const bf16* v,                \
                                 const float* lse, const float* delta, SIZES) {                                        \
        backward_q<D>(dq, dy, q, k, v, lse, delta, SHAPE);                                                             \
    }

KERNELS(64)
KERNELS(128)
