// A block owns 16 · TILES rows of w (N, K), and its warps deal the columns out among themselves in pieces of 32. The
// weights are the left operand of mma.m16n8k16, eight rows of x to a tile the right one. Which columns a product calls
// its k-th is free as long as both operands agree: a lane takes the eight that lie side by side in memory, 16 bytes,
// so weights go from memory to registers and never through shared memory.
//
// A block asks for its first AHEAD pieces before it waits for the kernel that computes x: what it asks for is what
// hides that kernel's end. With 240 blocks of 40 KB (q, k and v of a d20) all of w is under way by then.

#define ROWS 16
#define PIECE 32

enum Epilogue { PLAIN, RELU_SQUARED, ADD, SOFTCAP };

// 16 bytes that are read once in a step: not worth a place in L1.
__device__ inline uint4 stream16(const bf16* p) {
    uint4 q;
    asm volatile("ld.global.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(q.x), "=r"(q.y), "=r"(q.z), "=r"(q.w)
                 : "l"(p));
    return q;
}

// 16 bytes that other blocks read too. Volatile: all of a round are under way before the first is used.
__device__ inline uint4 load16(const bf16* p) {
    uint4 q;
    asm volatile("ld.global.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(q.x), "=r"(q.y), "=r"(q.z), "=r"(q.w) : "l"(p));
    return q;
}

__device__ inline void mma(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
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
// whole row of y.
template <int BATCH, int TILES, int AHEAD, int WARPS>
__device__ inline void decode_linear(void* y, const bf16* x, const bf16* __restrict__ w, u32 rows, u32 n, u32 k,
                                     u32 normed, u32 how, float eps) {
    const int OUT = ROWS * TILES, STRIDE = OUT + 4;  // + 4: the lanes of a warp write to different banks
    const int STEP = WARPS * PIECE;                  // columns that all warps take at a time
    extern __shared__ float sums[];                  // (warps, 8 · BATCH, STRIDE), then (warps, 8 · BATCH)
    launch_dependents();
    u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    u32 group = lane / 4, column = warp * PIECE + lane % 4 * 8, first = blockIdx.x * OUT;
    float* norms = sums + WARPS * BATCH * 8 * STRIDE;

    const bf16* from[2 * TILES];
#pragma unroll
    for (int i = 0; i < 2 * TILES; i++) {
        u32 row = first + i * 8 + group;
        from[i] = w + (u64)(row < n ? row : n - 1) * k + column;
    }
    uint4 held[AHEAD][2 * TILES] = {};
#pragma unroll
    for (int j = 0; j < AHEAD; j++)
#pragma unroll
        for (int i = 0; i < 2 * TILES; i++)
            if (column + j * STEP < k) held[j][i] = stream16(from[i] + j * STEP);
    wait_for_previous();

    float c[TILES][BATCH][4] = {}, square[BATCH] = {};
    x += group * k;
    for (; column < k; column += AHEAD * STEP) {
        uint4 q[AHEAD][BATCH] = {};
#pragma unroll
        for (int j = 0; j < AHEAD; j++)
#pragma unroll
            for (int b = 0; b < BATCH; b++)
                if (column + j * STEP < k && b * 8 + group < rows)
                    q[j][b] = load16(x + b * 8 * k + column + j * STEP);
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
#pragma unroll
            for (int b = 0; b < BATCH; b++) {
                uint4 r = q[j][b];
                square[b] += squares(r.x) + squares(r.y) + squares(r.z) + squares(r.w);
#pragma unroll
                for (int t = 0; t < TILES; t++) {
                    uint4 low = held[j][2 * t], high = held[j][2 * t + 1];
                    mma(c[t][b], low.x, high.x, low.y, high.y, r.x, r.y);
                    mma(c[t][b], low.z, high.z, low.w, high.w, r.z, r.w);
                }
            }
#pragma unroll
            for (int i = 0; i < 2 * TILES; i++)
                if (column + (AHEAD + j) * STEP < k) held[j][i] = stream16(from[i] + (AHEAD + j) * STEP);
        }
#pragma unroll
        for (int i = 0; i < 2 * TILES; i++) from[i] += AHEAD * STEP;
    }

    // c holds rows group and group + 8 of a tile, for the rows 2 · (lane % 4) and the next of x.
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
        for (u32 p = 0; p < WARPS; p++) {
            sum += sums[(p * BATCH * 8 + row) * STRIDE + out];
            norm += norms[p * BATCH * 8 + row];
        }
        if (normed) sum *= rsqrtf(norm / k + eps);
        finish(y, (u64)row * n + first + out, sum, how);
    }
}

#define KERNEL(BATCH, TILES, AHEAD, THREADS, BLOCKS)                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                      \
        decode_linear_##BATCH##_##TILES##_##THREADS(void* y, const bf16* x, const bf16* w, u32 rows, u32 n, u32 k,     \
                                                    u32 normed, u32 how, float eps) {                                  \
        decode_linear<BATCH, TILES, AHEAD, THREADS / WARP>(y, x, w, rows, n, k, normed, how, eps);                                     \
    }

KERNEL(1, 1, 5, 256, 3)
KERNEL(1, 1, 10, 512, 1)
KERNEL(2, 2, 5, 256, 1)
KERNEL(2, 1, 5, 256, 2)
KERNEL(2, 1, 10, 512, 1)
KERNEL(4, 2, 5, 256, 1)
KERNEL(4, 1, 5, 256, 2)
KERNEL(4, 1, 5, 512, 1)
