// A block owns 16 · TILES rows of w (N, K), and its warps deal the columns out among themselves in pieces of 32. The
// weights are the left operand of mma.m16n8k16, eight rows of x to a tile the right one. Which columns a product calls
// its k-th is free as long as both operands agree: a lane takes the eight that lie side by side in memory, 16 bytes,
// and no lane needs what another one has read.
//
// A block asks for its first AHEAD pieces before it waits for the kernel that computes x: what it asks for is what
// hides that kernel's end. With 240 blocks of 40 KB (q, k and v of a d20) all of w is under way by then. It goes to
// shared memory, each lane's to a place of its own, for the sake of the room: loads into registers must find room in
// the L1 cache, of which attention, that shares the multiprocessor, leaves little (45 to 55 µs for the head of a d20).

#define ROWS 16
#define PIECE 32

enum Epilogue { PLAIN, RELU_SQUARED, ADD, SOFTCAP };

// 16 bytes of weights, which are read once in a step, or zeros.
__device__ inline void stream16(u32 to, const bf16* from, bool real) {
    asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(real ? 16 : 0));
}

// 16 bytes that other blocks read too. Volatile: all of a round are under way before the first is used.
__device__ inline uint4 load16(const bf16* p) {
    uint4 q;
    asm volatile("ld.global.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(q.x), "=r"(q.y), "=r"(q.z), "=r"(q.w) : "l"(p));
    return q;
}

// What this lane asked for, once it has arrived.
__device__ inline uint4 take16(u32 from) {
    uint4 q;
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(q.x), "=r"(q.y), "=r"(q.z), "=r"(q.w) : "r"(from));
    return q;
}

__device__ inline float squares(u32 pair) {
    return low_float(pair) * low_float(pair) + high_float(pair) * high_float(pair);
}

__device__ inline void finish(void* y, u64 at, float value, u32 how) {
    bf16* to = (bf16*)y + at;
    float positive = fmaxf(value, 0.0f);
    if (how == SOFTCAP)
        ((float*)y)[at] = 15.0f * tanhf(value / 15.0f);
    else if (how == RELU_SQUARED)
        *to = to_bf16(positive * positive);
    else
        *to = to_bf16(how == ADD ? value + to_float(*to) : value);
}

// y (rows, N) = x (rows, K) w^T, rows at most 8 · BATCH. `normed`: of x / √(mean(x²) + eps), which is a factor of the
// whole row of y. ROUND pieces of x are under way at a time; it divides AHEAD.
template <int BATCH, int TILES, int AHEAD, int ROUND, int WARPS>
__device__ inline void decode_linear(void* y, const bf16* x, const bf16* w, u32 rows, u32 n, u32 k, u32 normed, u32 how,
                                     float eps) {
    const int OUT = ROWS * TILES, STRIDE = OUT + 4;  // + 4: the lanes of a warp write to different banks
    const int STEP = WARPS * PIECE;                  // columns that all warps take at a time
    // Pieces of w (AHEAD, 2 · TILES, lanes); at the end sums (warps, 8 · BATCH, STRIDE) and norms (warps, 8 · BATCH).
    extern __shared__ __align__(16) unsigned char memory[];
    launch_dependents();
    u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    u32 group = lane / 4, column = warp * PIECE + lane % 4 * 8, first = blockIdx.x * OUT;

    const bf16* from[2 * TILES];
#pragma unroll
    for (int i = 0; i < 2 * TILES; i++) {
        u32 row = first + i * 8 + group;
        from[i] = w + (u64)(row < n ? row : n - 1) * k;
    }
    const u32 LANES = WARPS * WARP * 16;
    u32 mine = shared_address(memory) + threadIdx.x * 16;
    auto ask = [&](u32 slot, u32 at) {
#pragma unroll
        for (int i = 0; i < 2 * TILES; i++)
            stream16(mine + (slot * 2 * TILES + i) * LANES, from[i] + (at < k ? at : 0), at < k);
        commit();
    };
#pragma unroll
    for (int j = 0; j < AHEAD; j++) ask(j, column + j * STEP);
    wait_for_previous();

    float c[TILES][BATCH][4] = {}, square[BATCH] = {};
    x += group * k;
    for (u32 slot = 0; column < k; column += ROUND * STEP, slot = (slot + ROUND) % AHEAD) {
        uint4 q[ROUND][BATCH] = {};
#pragma unroll
        for (int j = 0; j < ROUND; j++)
#pragma unroll
            for (int b = 0; b < BATCH; b++)
                if (column + j * STEP < k && b * 8 + group < rows)
                    q[j][b] = load16(x + b * 8 * k + column + j * STEP);
#pragma unroll
        for (int j = 0; j < ROUND; j++) {
            wait<AHEAD - 1>();
            uint4 a[2 * TILES];
#pragma unroll
            for (int i = 0; i < 2 * TILES; i++) a[i] = take16(mine + ((slot + j) * 2 * TILES + i) * LANES);
#pragma unroll
            for (int b = 0; b < BATCH; b++) {
                uint4 r = q[j][b];
                square[b] += squares(r.x) + squares(r.y) + squares(r.z) + squares(r.w);
#pragma unroll
                for (int t = 0; t < TILES; t++) {
                    uint4 low = a[2 * t], high = a[2 * t + 1];
                    mma(c[t][b], {low.x, high.x, low.y, high.y}, r.x, r.y);
                    mma(c[t][b], {low.z, high.z, low.w, high.w}, r.z, r.w);
                }
            }
            if (column + (AHEAD + j) * STEP < k) ask(slot + j, column + (AHEAD + j) * STEP); else commit();
        }
    }

    // c holds rows group and group + 8 of a tile, for the rows 2 · (lane % 4) and the next of x.
    wait<0>();
    __syncthreads();
    float *sums = (float*)memory, *norms = sums + WARPS * BATCH * 8 * STRIDE;
#pragma unroll
    for (int b = 0; b < BATCH; b++) {
        float norm = sum_lanes(square[b], 4);
        if (lane % 4 == 0) norms[warp * BATCH * 8 + b * 8 + group] = norm;
#pragma unroll
        for (int t = 0; t < TILES; t++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                u32 row = b * 8 + lane % 4 * 2 + i % 2;
                sums[(warp * BATCH * 8 + row) * STRIDE + t * ROWS + i / 2 * 8 + group] = c[t][b][i];
            }
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < rows * OUT; i += WARPS * WARP) {
        u32 row = i / OUT, out = i % OUT;
        if (first + out >= n) continue;
        float sum = 0.0f, norm = 0.0f;
#pragma unroll
        for (u32 p = 0; p < WARPS; p++) {
            sum += sums[(p * BATCH * 8 + row) * STRIDE + out];
            norm += norms[p * BATCH * 8 + row];
        }
        if (normed) sum *= rsqrtf(norm / k + eps);
        finish(y, (u64)row * n + first + out, sum, how);
    }
}

#define KERNEL(BATCH, TILES, AHEAD, ROUND, THREADS, BLOCKS)                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                      \
        decode_linear_##BATCH##_##TILES##_##THREADS(void* y, const bf16* x, const bf16* w, u32 rows, u32 n, u32 k,     \
                                                    u32 normed, u32 how, float eps) {                                  \
        decode_linear<BATCH, TILES, AHEAD, ROUND, THREADS / WARP>(y, x, w, rows, n, k, normed, how, eps);              \
    }

KERNEL(1, 1, 5, 5, 256, 3)
KERNEL(1, 1, 10, 5, 512, 1)
KERNEL(2, 1, 5, 5, 256, 3)
KERNEL(2, 1, 10, 5, 512, 1)
KERNEL(2, 2, 5, 5, 256, 2)
