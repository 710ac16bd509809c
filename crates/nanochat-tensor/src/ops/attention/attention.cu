// FlashAttention-2 (Dao 2023). A block has eight warps, each with 16 rows of its own tile of 128 and the other
// side streamed past it in tiles through shared memory, two in flight (cp.async). Scores never leave registers:
// the layout of an accumulator is that of a left operand.
//
// Products run on mma.m16n8k16, which every card from sm_80 has, or on Hopper's wgmma.m64nNk16, by which four
// warps multiply 64 rows straight from shared memory. Both leave a warp the same 16 rows in the same registers.
//
// Exponents are base 2: p = 2^(s * scale2 - lse2) with scale2 = log2(e) / sqrt(D).

#define ROWS 128
#define THREADS 256
#define LOG2E 1.4426950408889634f

struct Shape {
    u32 t, h, kvh, window;
    float scale;
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define WGMMA 1
#define FORWARD_KEYS 128
#define BACKWARD_STAGE 64
#define GROUP 64
#else
#define WGMMA 0
#define FORWARD_KEYS 64
#define BACKWARD_STAGE 32
#define GROUP 16
#endif

// Address of the 16-byte chunk `chunk` of row `row` in a tile of N rows. A tile is stored in columns of 64 values,
// 128 bytes; the xor spreads rows that are read together over all banks, in the pattern that wgmma knows.
template <int N>
__device__ inline u32 at(u32 tile, u32 row, u32 chunk) {
    return tile + chunk / 8 * (N * 128) + row * 128 + ((chunk % 8 ^ row % 8) << 4);
}

__device__ inline u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

__device__ inline void copy16(u32 to, const void* from, bool real) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(real ? 16 : 0));
}
__device__ inline void commit() { asm volatile("cp.async.commit_group;"); }
// All but the last N groups of copies have arrived, for wgmma too.
template <int N>
__device__ inline void wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N));
#if WGMMA
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

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

#if WGMMA

// Where wgmma finds an operand: 1,024 bytes from eight rows to the next eight, `columns` bytes from a column of 64
// values to the next (for operands read along their rows), 128-byte swizzle.
__device__ inline u64 operand(u32 address, u32 columns) {
    return (u64)(address >> 4 & 0x3fff) | (u64)(columns >> 4) << 16 | (u64)(1024 >> 4) << 32 | 1ull << 62;
}

// Keeps the compiler from touching registers that wgmma works on meanwhile.
template <int N>
__device__ inline void hold(float (&c)[N][4]) {
#pragma unroll
    for (int i = 0; i < N; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) asm volatile("" : "+f"(c[i][j])::"memory");
}
__device__ inline void start() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void started() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

#define ACC4(i) "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
#define ACC16(i) ACC4(i), ACC4(i + 1), ACC4(i + 2), ACC4(i + 3)
#define R32 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define R64 R32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA_TEXT(N, REGS, A, B, TRANSPOSED) \
    "{.reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n" N "k16.f32.bf16.bf16 {" REGS "}, " A ", " B ", p, 1, 1, " TRANSPOSED ";}"

// c (64, N) += a (64, 16) * b (N, 16)^T, both in shared memory
__device__ inline void wgmma(float (&c)[8][4], u64 a, u64 b) {
    asm volatile(WGMMA_TEXT("64", R32, "%32", "%33", "0, 0") : ACC16(0), ACC16(4) : "l"(a), "l"(b));
}
__device__ inline void wgmma(float (&c)[16][4], u64 a, u64 b) {
    asm volatile(WGMMA_TEXT("128", R64, "%64", "%65", "0, 0")
                 : ACC16(0), ACC16(4), ACC16(8), ACC16(12)
                 : "l"(a), "l"(b));
}
// c (64, N) += a (64, 16) * b (16, N), a in registers
__device__ inline void wgmma(float (&c)[8][4], const u32 (&a)[4], u64 b) {
    asm volatile(WGMMA_TEXT("64", R32, "{%32, %33, %34, %35}", "%36", "1")
                 : ACC16(0), ACC16(4)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ inline void wgmma(float (&c)[16][4], const u32 (&a)[4], u64 b) {
    asm volatile(WGMMA_TEXT("128", R64, "{%64, %65, %66, %67}", "%68", "1")
                 : ACC16(0), ACC16(4), ACC16(8), ACC16(12)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// s (16, N) += a (16, D) * tile (N, D)^T, the 16 rows of `a` beginning at `row` of tile `a_tile` of ROWS rows.
// Started, not done: `finish` waits.
template <int D, int N>
__device__ inline void times_transposed(float (&s)[N / 8][4], u32 a_tile, u32 row, u32 tile) {
    hold(s);
    start();
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        u32 a = a_tile + k / 4 * (ROWS * 128) + row / 64 * (64 * 128) + k % 4 * 32;
        u32 b = tile + k / 4 * (N * 128) + k % 4 * 32;
        wgmma(s, operand(a, 16), operand(b, 16));
    }
    started();
}

// out (16, D) += p (16, N) * tile (N, D), p being accumulators rounded to bf16. Started, not done.
template <int D, int N>
__device__ inline void times(float (&out)[D / 8][4], const float (&p)[N / 8][4], u32 tile) {
    u32 a[N / 16][4];
#pragma unroll
    for (int k = 0; k < N / 16; k++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            a[k][j] = pack(p[2 * k + j / 2][j % 2 * 2], p[2 * k + j / 2][j % 2 * 2 + 1]);
            asm volatile("" : "+r"(a[k][j])::"memory");
        }
    hold(out);
    start();
#pragma unroll
    for (int k = 0; k < N / 16; k++) wgmma(out, a[k], operand(tile + k * 2048, N * 128));
    started();
}

// Waits until all products but the last PENDING started are done; x is the result of one of those.
template <int PENDING, int N>
__device__ inline void finish(float (&x)[N][4]) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
    hold(x);
}

#else

__device__ inline void ldmatrix(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address));
}
__device__ inline void ldmatrix_transposed(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address));
}
__device__ inline void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// s (16, N) += a (16, D) * tile (N, D)^T, the 16 rows of `a` beginning at `row` of tile `a_tile` of ROWS rows
template <int D, int N>
__device__ inline void times_transposed(float (&s)[N / 8][4], u32 a_tile, u32 row, u32 tile) {
    u32 lane = threadIdx.x % WARP;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        u32 a[4];
        ldmatrix(a, at<ROWS>(a_tile, row + lane % 16, 2 * k + lane / 16));
#pragma unroll
        for (int n = 0; n < N / 8; n += 2) {
            u32 b[4];
            ldmatrix(b, at<N>(tile, n * 8 + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
            mma(s[n], a, b[0], b[1]);
            mma(s[n + 1], a, b[2], b[3]);
        }
    }
}

// out (16, D) += p (16, N) * tile (N, D), p being accumulators rounded to bf16
template <int D, int N>
__device__ inline void times(float (&out)[D / 8][4], const float (&p)[N / 8][4], u32 tile) {
    u32 lane = threadIdx.x % WARP;
#pragma unroll
    for (int k = 0; k < N / 16; k++) {
        u32 a[4] = {pack(p[2 * k][0], p[2 * k][1]), pack(p[2 * k][2], p[2 * k][3]),
                    pack(p[2 * k + 1][0], p[2 * k + 1][1]), pack(p[2 * k + 1][2], p[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            u32 b[4];
            ldmatrix_transposed(b, at<N>(tile, k * 16 + lane % 16, n + lane / 16));
            mma(out[n], a, b[0], b[1]);
            mma(out[n + 1], a, b[2], b[3]);
        }
    }
}

template <int PENDING, int N>
__device__ inline void finish(float (&)[N][4]) {}

#endif

// The shuffle tells the compiler that all lanes agree: products must not be started where they might not.
__device__ inline u32 this_warp() { return __shfl_sync(ALL_LANES, threadIdx.x / WARP, 0); }

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

// The softmax of 16 rows as it grows: scores p (16, N) become e^(score - largest), and what was summed so far is to
// be multiplied by `keep`.
template <int N>
__device__ inline void softmax(float (&p)[N][4], float (&largest)[2], float (&total)[2], float (&keep)[2], float scale2) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float m = largest[half];
#pragma unroll
        for (int n = 0; n < N; n++) m = fmaxf(m, fmaxf(p[n][2 * half], p[n][2 * half + 1]));
        m = fmaxf(m, __shfl_xor_sync(ALL_LANES, m, 1));
        m = fmaxf(m, __shfl_xor_sync(ALL_LANES, m, 2));
        // A row may see nothing in the first tiles of its block: no infinity minus infinity then.
        float shift = m == -INFINITY_F ? 0.0f : m * scale2, sum = 0.0f;
        keep[half] = exp2_fast(largest[half] * scale2 - shift);
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int j = 2 * half; j < 2 * half + 2; j++) {
                p[n][j] = exp2_fast(p[n][j] * scale2 - shift);
                sum += p[n][j];
            }
        total[half] = total[half] * keep[half] + sum;
        largest[half] = m;
    }
}

template <int N>
__device__ inline void multiply(float (&x)[N][4], const float (&keep)[2]) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int j = 0; j < 4; j++) x[n][j] *= keep[j / 2];
}

template <int D>
__device__ inline void forward(bf16* y, float* lse, const bf16* q, const bf16* k, const bf16* v, Shape s) {
    const int KEYS = FORWARD_KEYS, TILE = KEYS * D * 2;
    extern __shared__ __align__(1024) unsigned char memory[];
    u32 q_tile = shared_address(memory), k_tiles = q_tile + ROWS * D * 2, v_tiles = k_tiles + 2 * TILE;
    // Late queries see the most keys: they go first, so that no long block is left over at the end.
    u32 first = (gridDim.x - 1 - blockIdx.x) * ROWS, h = blockIdx.y, b = blockIdx.z;
    u32 warp = this_warp(), lane = threadIdx.x % WARP;
    u64 stride = (u64)s.h * D, kv_stride = (u64)s.kvh * D;
    u32 kv_head = h * s.kvh / s.h;
    q += b * s.t * stride + h * D;
    y += b * s.t * stride + h * D;
    k += b * s.t * kv_stride + kv_head * D;
    v += b * s.t * kv_stride + kv_head * D;

    u32 seen = first + ROWS < s.t ? first + ROWS : s.t;
    u32 begin = (first + 1 > s.window ? first + 1 - s.window : 0) / KEYS, end = (seen + KEYS - 1) / KEYS;
    auto load = [&](u32 k_next, u32 v_next) {
        if (k_next < end) load_tile<D, KEYS>(k_tiles + k_next % 2 * TILE, k, kv_stride, k_next * KEYS, s.t);
        if (v_next < end) load_tile<D, KEYS>(v_tiles + v_next % 2 * TILE, v, kv_stride, v_next * KEYS, s.t);
        commit();
    };
    load_tile<D, ROWS>(q_tile, q, stride, first, s.t);
    load(begin, end);
    load(begin + 1, begin);

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
    wait<1>();
    __syncthreads();
    float p[KEYS / 8][4] = {};
    times_transposed<D, KEYS>(p, q_tile, warp * 16, k_tiles + begin % 2 * TILE);
    finish<0>(p);
    mask(p, begin);
    softmax(p, largest, total, keep, scale2);
    for (u32 tile = begin; tile + 1 < end; tile++) {
        wait<0>();
        __syncthreads();
        load(tile + 2, tile + 1);
        // The scores of the next tile come before the values of this one, and their softmax is taken while those
        // are multiplied.
        float next[KEYS / 8][4] = {};
        times_transposed<D, KEYS>(next, q_tile, warp * 16, k_tiles + (tile + 1) % 2 * TILE);
        times<D, KEYS>(out, p, v_tiles + tile % 2 * TILE);
        finish<1>(next);
        mask(next, tile + 1);
        softmax(next, largest, total, keep, scale2);
        finish<0>(out);
        multiply(out, keep);
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int j = 0; j < 4; j++) p[n][j] = next[n][j];
    }
    wait<0>();
    __syncthreads();
    times<D, KEYS>(out, p, v_tiles + (end - 1) % 2 * TILE);
    finish<0>(out);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        total[half] = sum_lanes(total[half], 4);
        u32 row = my_row + half * 8;
        if (lane % 4 == 0 && row < s.t)
            lse[((u64)b * s.h + h) * s.t + row] = largest[half] * scale2 + log2f(total[half]);
    }
    store<D>(y, stride, my_first, s.t, out, 1.0f / total[0], 1.0f / total[1]);
}

// delta (B, H, T) = rowsum(dy * y); D / 8 lanes to a row
template <int D>
__device__ inline void row_products(float* delta, const bf16* dy, const bf16* y, u32 t, u32 h, u32 total) {
    const int LANES = D / 8;
    u32 n = (blockIdx.x * blockDim.x + threadIdx.x) / LANES, i = threadIdx.x % LANES * 8;
    float sum = 0.0f;
    if (n < total) {
        Eight a = load8(dy + (u64)n * D + i), b = load8(y + (u64)n * D + i);
        for (int j = 0; j < 8; j++) sum += a.v[j] * b.v[j];
    }
    sum = sum_lanes(sum, LANES);
    if (n < total && i == 0) delta[((u64)(n / h / t) * h + n % h) * t + n / h % t] = sum;
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
    u32 warp = this_warp(), lane = threadIdx.x % WARP;
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
            u64 from = ((u64)b * s.h + h) * s.t + row;
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
    u32 my_first = first + warp * 16, my_key = my_first + lane / 4, group_first = first + warp * 16 / GROUP * GROUP;
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
        if (query + QUERIES > group_first) {
            float p[QUERIES / 8][4] = {}, ds[QUERIES / 8][4] = {};
            // Each product runs while the values for the next are made of the one before.
            times_transposed<D, QUERIES>(p, k_tile, warp * 16, q_tile);
            times_transposed<D, QUERIES>(ds, v_tile, warp * 16, dy_tile);
            bool edge = my_first + 15 > query || query + QUERIES - 1 - my_first >= s.window;
            finish<1>(p);
#pragma unroll
            for (int i = 0; i < QUERIES / 8; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    u32 column = i * 8 + lane % 4 * 2 + j % 2;
                    p[i][j] = exp2_fast(p[i][j] * scale2 - row_lse[n % 2][column]);
                    if (edge && !sees(query + column, my_key + j / 2 * 8, s.window)) p[i][j] = 0.0f;
                }
            times<D, QUERIES>(dv_out, p, dy_tile);
            finish<1>(ds);
#pragma unroll
            for (int i = 0; i < QUERIES / 8; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    ds[i][j] = p[i][j] * (ds[i][j] - row_delta[n % 2][i * 8 + lane % 4 * 2 + j % 2]);
            times<D, QUERIES>(dk_out, ds, q_tile);
            finish<0>(dv_out);
            finish<0>(dk_out);
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
    u32 warp = this_warp(), lane = threadIdx.x % WARP;
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
    u32 my_first = first + warp * 16, my_row = my_first + lane / 4, group_first = first + warp * 16 / GROUP * GROUP;
    for (int half = 0; half < 2; half++) {
        u32 row = my_row + half * 8;
        u64 from = ((u64)b * s.h + h) * s.t + row;
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
        if (tile * KEYS < group_first + GROUP) {
            float p[KEYS / 8][4] = {}, ds[KEYS / 8][4] = {};
            times_transposed<D, KEYS>(p, q_tile, warp * 16, k_tile);
            times_transposed<D, KEYS>(ds, dy_tile, warp * 16, v_tile);
            bool edge = tile * KEYS + KEYS > my_first + 1 || my_first + 16 > tile * KEYS + s.window;
            finish<1>(p);
#pragma unroll
            for (int i = 0; i < KEYS / 8; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    u32 key = tile * KEYS + i * 8 + lane % 4 * 2 + j % 2;
                    p[i][j] = exp2_fast(p[i][j] * scale2 - my_lse[j / 2]);
                    if (edge && !sees(my_row + j / 2 * 8, key, s.window)) p[i][j] = 0.0f;
                }
            finish<0>(ds);
#pragma unroll
            for (int i = 0; i < KEYS / 8; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) ds[i][j] = p[i][j] * (ds[i][j] - my_delta[j / 2]);
            times<D, KEYS>(out, ds, k_tile);
            finish<0>(out);
        }
        __syncthreads();
    }
    store<D>(dq + batch * stride + h * D, stride, my_first, s.t, out, s.scale, s.scale);
}

#define SHAPE {t, h, kvh, window, scale}
#define KERNELS(D)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                           \
        attention_forward_##D(bf16* y, float* lse, const bf16* q, const bf16* k, const bf16* v, u32 t, u32 h, u32 kvh, \
                              u32 window, float scale) {                                                               \
        forward<D>(y, lse, q, k, v, SHAPE);                                                                            \
    }                                                                                                                  \
    extern "C" __global__ void attention_delta_##D(float* delta, const bf16* dy, const bf16* y, u32 t, u32 h,          \
                                                   u32 total) {                                                        \
        row_products<D>(delta, dy, y, t, h, total);                                                                    \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                           \
        attention_backward_kv_##D(bf16* dk, bf16* dv, const bf16* dy, const bf16* q, const bf16* k, const bf16* v,     \
                                  const float* lse, const float* delta, u32 t, u32 h, u32 kvh, u32 window,             \
                                  float scale) {                                                                       \
        backward_kv<D>(dk, dv, dy, q, k, v, lse, delta, SHAPE);                                                        \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                           \
        attention_backward_q_##D(bf16* dq, const bf16* dy, const bf16* q, const bf16* k, const bf16* v,                \
                                 const float* lse, const float* delta, u32 t, u32 h, u32 kvh, u32 window,              \
                                 float scale) {                                                                        \
        backward_q<D>(dq, dy, q, k, v, lse, delta, SHAPE);                                                             \
    }

KERNELS(64)
KERNELS(128)
