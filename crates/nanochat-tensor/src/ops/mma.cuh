// Tensor-core products of tiles in shared memory, for every card from sm_80: mma.m16n8k16 on bf16, and what attention
// needs around it. A warp holds 16 rows of sums; the layout of an accumulator is that of a left operand.

// Address of the 16-byte chunk `chunk` of row `row` in a tile of N rows. A tile is stored in columns of 64 values,
// 128 bytes; the xor spreads rows that are read together over all banks.
template <int N>
__device__ inline u32 at(u32 tile, u32 row, u32 chunk) {
    return tile + chunk / 8 * (N * 128) + row * 128 + ((chunk % 8 ^ row % 8) << 4);
}

__device__ inline u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

__device__ inline void copy16(u32 to, const void* from, bool real) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(real ? 16 : 0));
}
__device__ inline void commit() { asm volatile("cp.async.commit_group;"); }
// All but the last N groups of copies have arrived.
template <int N>
__device__ inline void wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N));
}

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
template <int D, int N, int ROWS>
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
