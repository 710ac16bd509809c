// FlashAttention on Hopper, in the manner of FlashAttention-3 (Shah et al. 2024): one warp fetches tiles with the
// tensor memory accelerator (TMA), two groups of four warps multiply them with wgmma, and mbarriers alone stand between
// them. The groups run free of each other: while one takes exponents the other keeps the tensor cores busy.
// A block stays on its multiprocessor and draws tiles of work from a counter; the next ones are fetched meanwhile.
//
// Every tile is kept in panels of 64 values (128 bytes) a row with the 128-byte swizzle. Exponents are base 2:
// p = 2^(s * scale2 - lse) with scale2 = log2(e) / sqrt(D). lse and delta have `padded` rows a head, a multiple of 128.

#define GROUP_THREADS 128
#define THREADS 384
#define ROWS 128
#define PANEL 8192
#define BEYOND 1e30f  // the log-sum-exp of rows after the last: p = 2^(s - 1e30) = 0

// CUtensorMap, which the driver fills in: (D, heads, T, B) of bf16 in boxes of 64 values by 64 rows.
struct alignas(64) Map {
    u64 words[16];
};

// How tiles of work are numbered: `heads` of B * heads, `tiles` of 128 rows each, in groups of heads that share the
// L2 cache; in a group the tiles with the most to do come first.
struct Work {
    u32 t, padded, heads, kv_heads, batch, window, group;
    float scale;
};

struct Tile {
    u32 index, head, batch;
};

__device__ inline u32 count_tiles(const Work& w) { return w.padded / ROWS * w.heads * w.batch; }

// The n-th piece of work among `heads` heads; `rising`: tile 0 has the most to do.
__device__ inline Tile tile_of(const Work& w, u32 n, u32 heads, bool rising) {
    u32 tiles = w.padded / ROWS, all = heads * w.batch, first = n / (tiles * w.group) * w.group;
    u32 here = min(w.group, all - first), rest = n - first * tiles, head = first + rest % here, index = rest / here;
    return {rising ? index : tiles - 1 - index, head % heads, head / heads};
}

__device__ inline u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// mbarriers: `expect` promises bytes to come, `arrive` counts one, `await` waits until phase `parity` is over.
__device__ inline void init(u32 barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
__device__ inline void expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ inline void arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ inline void await(u32 barrier, u32 parity) {
    asm volatile(
        "{.reg .pred p;\n"
        "again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
        "@!p bra again;}" ::"r"(barrier), "r"(parity) : "memory");
}
// One lane of each warp says that the warp is done with what the barrier guards.
__device__ inline void release(u32 barrier) {
    __syncwarp();
    if (threadIdx.x % WARP == 0) arrive(barrier);
}

// A ring of stages in shared memory: which one, and the parity of its turn.
template <int N>
struct Ring {
    u32 stage = 0, parity = 0;
    __device__ inline void next() {
        if (++stage == N) stage = 0, parity ^= 1;
    }
};

__device__ inline void fetch(u32 to, const Map& map, u32 barrier, u32 column, u32 head, u32 row, u32 batch) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
        "l"(&map), "r"(barrier), "r"(column), "r"(head), "r"(row), "r"(batch)
        : "memory");
}
// 64 rows, a panel for each 64 values, `stride` bytes apart.
template <int D>
__device__ inline void fetch_rows(u32 to, u32 stride, const Map& map, u32 barrier, u32 head, u32 row, u32 batch) {
#pragma unroll
    for (int p = 0; p < D / 64; p++) fetch(to + p * stride, map, barrier, p * 64, head, row, batch);
}
__device__ inline void fetch_floats(u32 to, const float* from, u32 count, u32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(count * 4), "r"(barrier)
                 : "memory");
}

__device__ inline void named_sync(u32 id, u32 threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ inline void named_arrive(u32 id, u32 threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Where wgmma finds an operand: 1,024 bytes from eight rows to the next eight, `columns` bytes from a panel to the
// next (for operands read along their rows), 128-byte swizzle.
__device__ inline u64 operand(u32 address, u32 columns) {
    return (u64)(address >> 4 & 0x3fff) | (u64)(columns >> 4) << 16 | (u64)(1024 >> 4) << 32 | 1ull << 62;
}

// Keeps the compiler from touching registers that wgmma works on meanwhile: sums, and left operands too, which it
// reads until it is done.
template <int N>
__device__ inline void hold(float (&c)[N][4]) {
#pragma unroll
    for (int i = 0; i < N; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) asm volatile("" : "+f"(c[i][j])::"memory");
}
template <int N>
__device__ inline void hold(u32 (&a)[N][4]) {
#pragma unroll
    for (int i = 0; i < N; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) asm volatile("" : "+r"(a[i][j])::"memory");
}
__device__ inline void start() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void started() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until all products but the last PENDING started are done; x is the result of one of those.
template <int PENDING, int N>
__device__ inline void finish(float (&x)[N][4]) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
    hold(x);
}

#define FOUR(as, i) as(c[i][0]), as(c[i][1]), as(c[i][2]), as(c[i][3])
#define ALL8(as) FOUR(as, 0), FOUR(as, 1), FOUR(as, 2), FOUR(as, 3), FOUR(as, 4), FOUR(as, 5), FOUR(as, 6), FOUR(as, 7)
#define ALL16(as) ALL8(as), FOUR(as, 8), FOUR(as, 9), FOUR(as, 10), FOUR(as, 11), FOUR(as, 12), FOUR(as, 13), FOUR(as, 14), FOUR(as, 15)
#define MORE "+f"
#define NEW "=f"
#define R32 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define R64 R32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA(N, REGS, A, B, ADD, TRANSPOSED) \
    "{.reg .pred p; setp.ne.b32 p, " ADD ", 0; wgmma.mma_async.sync.aligned.m64n" N "k16.f32.bf16.bf16 {" REGS "}, " A ", " B ", p, 1, 1, " TRANSPOSED ";}"
#define A_32 "{%32, %33, %34, %35}"
#define A_64 "{%64, %65, %66, %67}"
#define REGISTERS "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3])

// c (64, N) = a (64, 16) * b (N, 16)^T, plus what c was if ADD; both in shared memory
template <bool ADD>
__device__ inline void wgmma(float (&c)[8][4], u64 a, u64 b) {
    if (ADD) asm volatile(WGMMA("64", R32, "%32", "%33", "1", "0, 0") : ALL8(MORE) : "l"(a), "l"(b));
    else asm volatile(WGMMA("64", R32, "%32", "%33", "0", "0, 0") : ALL8(NEW) : "l"(a), "l"(b));
}
template <bool ADD>
__device__ inline void wgmma(float (&c)[16][4], u64 a, u64 b) {
    if (ADD) asm volatile(WGMMA("128", R64, "%64", "%65", "1", "0, 0") : ALL16(MORE) : "l"(a), "l"(b));
    else asm volatile(WGMMA("128", R64, "%64", "%65", "0", "0, 0") : ALL16(NEW) : "l"(a), "l"(b));
}
// c (64, N) += a (64, 16) * b (16, N), a in registers
__device__ inline void wgmma_rows(float (&c)[8][4], const u32 (&a)[4], u64 b) {
    asm volatile(WGMMA("64", R32, A_32, "%36", "1", "1") : ALL8(MORE) : REGISTERS, "l"(b));
}
__device__ inline void wgmma_rows(float (&c)[16][4], const u32 (&a)[4], u64 b) {
    asm volatile(WGMMA("128", R64, A_64, "%68", "1", "1") : ALL16(MORE) : REGISTERS, "l"(b));
}

// s (64, N) = a (64, D) * tile (N, D)^T. Started, not done: `finish` waits. `a_tile` has panels of 64 rows.
template <int D, int N>
__device__ inline void times_transposed(float (&s)[N / 8][4], u32 a_tile, u32 tile) {
    auto a = [&](int k) { return operand(a_tile + k / 4 * PANEL + k % 4 * 32, 16); };
    auto b = [&](int k) { return operand(tile + k / 4 * (N * 128) + k % 4 * 32, 16); };
    start();
    wgmma<false>(s, a(0), b(0));
#pragma unroll
    for (int k = 1; k < D / 16; k++) wgmma<true>(s, a(k), b(k));
    started();
}
// out (64, D) += a (64, N) * tile (N, D). Started, not done.
template <int D, int N>
__device__ inline void times(float (&out)[D / 8][4], const u32 (&a)[N / 16][4], u32 tile) {
    hold(out);
    start();
#pragma unroll
    for (int k = 0; k < N / 16; k++) wgmma_rows(out, a[k], operand(tile + k * 2048, N * 128));
    started();
}

// Accumulators as the left operand of the next product: the layouts are the same.
template <int N>
__device__ inline void round_to(u32 (&a)[N][4], const float (&p)[2 * N][4]) {
#pragma unroll
    for (int k = 0; k < N; k++)
#pragma unroll
        for (int j = 0; j < 4; j++) a[k][j] = pack(p[2 * k + j / 2][j % 2 * 2], p[2 * k + j / 2][j % 2 * 2 + 1]);
    hold(a);
}

// Accumulators (64, D), scaled, through shared memory (panels of 64 rows at `tile`) to 64 rows of one head.
template <int D>
__device__ inline void put(u32 tile, const Map& map, const float (&x)[D / 8][4], float low, float high, u32 named, u32 head,
                           u32 row, u32 batch) {
    u32 lane = threadIdx.x % WARP, my = threadIdx.x % GROUP_THREADS / WARP * 16 + lane / 4;
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
        u32 to = tile + n / 8 * PANEL + my * 128 + ((n % 8 ^ my % 8) << 4) + lane % 4 * 4;
        asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(pack(x[n][0] * low, x[n][1] * low)) : "memory");
        asm volatile("st.shared.b32 [%0], %1;" ::"r"(to + 1024), "r"(pack(x[n][2] * high, x[n][3] * high)) : "memory");
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    named_sync(named, GROUP_THREADS);
    if (threadIdx.x % GROUP_THREADS == 0) {
#pragma unroll
        for (int p = 0; p < D / 64; p++)
            asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(&map),
                         "r"(tile + p * PANEL), "r"(p * 64), "r"(head), "r"(row), "r"(batch)
                         : "memory");
        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
    }
}
// Waits until what this thread has `put` was read from shared memory.
__device__ inline void put_done() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }

__device__ inline void fewer_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 24;"); }
__device__ inline void more_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 240;"); }

// Whether a query `distance` after a key sees it; a key after the query wraps to a large distance.
__device__ inline bool sees(u32 distance, u32 window) { return distance < window; }

// The next piece of work. Block n begins with piece n; the counter gives what follows.
__device__ inline u32 draw(u32* counter) { return gridDim.x + atomicAdd(counter, 1); }

// The softmax of 16 rows of a warp as it grows: scores p (16, N) become e^(score - largest), and what was summed so
// far is to be multiplied by `keep`.
template <int N>
__device__ inline void softmax(float (&p)[N][4], float (&largest)[2], float (&total)[2], float (&keep)[2], float scale2) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float m = largest[half];
#pragma unroll
        for (int n = 0; n < N; n++) m = fmaxf(m, fmaxf(p[n][2 * half], p[n][2 * half + 1]));
        m = fmaxf(m, __shfl_xor_sync(ALL_LANES, m, 1));
        m = fmaxf(m, __shfl_xor_sync(ALL_LANES, m, 2));
        float shift = m * scale2, sum = 0.0f;
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

template <int D>
__device__ inline void forward(const Map& q, const Map& k, const Map& v, const Map& y, float* lse, u32* counter, const Work& w) {
    const int KEYS = 128, STAGES = 2, TILE = KEYS * D * 2, HALF = 64 * D * 2;
    extern __shared__ __align__(1024) unsigned char memory[];
    u32 q_tile = shared_address(memory), y_tile = q_tile + TILE, k_tiles = y_tile + TILE, v_tiles = k_tiles + STAGES * TILE;
    u32 q_full = v_tiles + STAGES * TILE, q_empty = q_full + 8, k_full = q_empty + 8, k_empty = k_full + 8 * STAGES;
    u32 v_full = k_empty + 8 * STAGES, v_empty = v_full + 8 * STAGES, slot = v_empty + 8 * STAGES;
    if (threadIdx.x == 0) {
        init(q_full, 1);
        init(q_empty, 8);
        for (int i = 0; i < STAGES; i++) init(k_full + 8 * i, 1), init(k_empty + 8 * i, 8), init(v_full + 8 * i, 1), init(v_empty + 8 * i, 8);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    u32 all = count_tiles(w);
    auto last_key_tile = [&](u32 tile) { return tile * ROWS / KEYS; };
    auto first_key_tile = [&](u32 tile) { return (tile * ROWS + 1 > w.window ? tile * ROWS + 1 - w.window : 0) / KEYS; };

    u32 group = __shfl_sync(ALL_LANES, threadIdx.x / GROUP_THREADS, 0);
    if (group == 0) {
        fewer_registers();
        if (threadIdx.x != 0) return;
        Ring<STAGES> ring;
        Ring<1> turn;
        for (u32 n = blockIdx.x;; turn.next()) {
            await(q_empty, turn.parity ^ 1);
            asm volatile("st.shared.b32 [%0], %1;" ::"r"(slot), "r"(n) : "memory");
            if (n >= all) {
                arrive(q_full);
                return;
            }
            u32 following = draw(counter);
            Tile at = tile_of(w, n, w.heads, false);
            u32 kv_head = at.head * w.kv_heads / w.heads;
            expect(q_full, TILE);
            fetch_rows<D>(q_tile, PANEL, q, q_full, at.head, at.index * ROWS, at.batch);
            fetch_rows<D>(q_tile + HALF, PANEL, q, q_full, at.head, at.index * ROWS + 64, at.batch);
            int begin = first_key_tile(at.index);
            for (int tile = last_key_tile(at.index); tile >= begin; tile--, ring.next()) {
                for (int values = 0; values < 2; values++) {
                    u32 full = (values ? v_full : k_full) + 8 * ring.stage, empty = (values ? v_empty : k_empty) + 8 * ring.stage;
                    u32 to = (values ? v_tiles : k_tiles) + ring.stage * TILE;
                    await(empty, ring.parity ^ 1);
                    expect(full, TILE);
                    fetch_rows<D>(to, 2 * PANEL, values ? v : k, full, kv_head, tile * KEYS, at.batch);
                    fetch_rows<D>(to + PANEL, 2 * PANEL, values ? v : k, full, kv_head, tile * KEYS + 64, at.batch);
                }
            }
            n = following;
        }
    } else {
        more_registers();
        group -= 1;
        u32 lane = threadIdx.x % WARP, my = group * 64 + threadIdx.x % GROUP_THREADS / WARP * 16 + lane / 4;
        float scale2 = w.scale * LOG2E;
        Ring<STAGES> k_ring, v_ring;
        Ring<1> turn;
        if (group == 1) named_arrive(1, 256);
        for (;; turn.next()) {
            await(q_full, turn.parity);
            u32 n;
            asm volatile("ld.shared.b32 %0, [%1];" : "=r"(n) : "r"(slot) : "memory");
            if (n >= all) break;
            Tile at = tile_of(w, n, w.heads, false);
            u32 my_row = at.index * ROWS + my, my_first = at.index * ROWS + my - lane / 4;
            int begin = first_key_tile(at.index), tile = last_key_tile(at.index);
            float out[D / 8][4] = {}, largest[2] = {-INFINITY_F, -INFINITY_F}, total[2] = {}, keep[2];
            float s[KEYS / 8][4];
            u32 p[KEYS / 16][4];
            auto mask = [&](int tile) {
                if (tile * KEYS + KEYS <= my_first + 1 && my_first + 16 <= tile * KEYS + w.window) return;
                u32 distance = my_row - tile * KEYS - lane % 4 * 2;
#pragma unroll
                for (int i = 0; i < KEYS / 8; i++)
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        if (!sees(distance + (j / 2 * 8 - i * 8 - j % 2), w.window)) s[i][j] = -INFINITY_F;
            };
            // From the diagonal back: every row sees a key of the first tile, so `largest` is a number from then on.
            await(k_full + 8 * k_ring.stage, k_ring.parity);
            times_transposed<D, KEYS>(s, q_tile + group * HALF, k_tiles + k_ring.stage * TILE);
            finish<0>(s);
            release(k_empty + 8 * k_ring.stage);
            k_ring.next();
            mask(tile);
            softmax(s, largest, total, keep, scale2);
            round_to(p, s);
            for (tile--; tile >= begin; tile--) {
                // The scores of this tile come before the values of the last, and their softmax is taken while those
                // are multiplied.
                await(k_full + 8 * k_ring.stage, k_ring.parity);
                named_sync(1 + group, 256);
                times_transposed<D, KEYS>(s, q_tile + group * HALF, k_tiles + k_ring.stage * TILE);
                await(v_full + 8 * v_ring.stage, v_ring.parity);
                times<D, KEYS>(out, p, v_tiles + v_ring.stage * TILE);
                named_arrive(2 - group, 256);
                finish<1>(s);
                release(k_empty + 8 * k_ring.stage);
                k_ring.next();
                mask(tile);
                softmax(s, largest, total, keep, scale2);
                finish<0>(out);
                hold(p);
                release(v_empty + 8 * v_ring.stage);
                v_ring.next();
                if (__any_sync(ALL_LANES, keep[0] != 1.0f || keep[1] != 1.0f)) {
#pragma unroll
                    for (int i = 0; i < D / 8; i++)
#pragma unroll
                        for (int j = 0; j < 4; j++) out[i][j] *= keep[j / 2];
                }
                round_to(p, s);
            }
            release(q_empty);
            await(v_full + 8 * v_ring.stage, v_ring.parity);
            times<D, KEYS>(out, p, v_tiles + v_ring.stage * TILE);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                total[half] = sum_lanes(total[half], 4);
                u32 row = my_row + half * 8;
                float value = row < w.t ? largest[half] * scale2 + log2f(total[half]) : BEYOND;
                if (lane % 4 == 0) lse[((u64)at.batch * w.heads + at.head) * w.padded + row] = value;
            }
            finish<0>(out);
            hold(p);
            release(v_empty + 8 * v_ring.stage);
            v_ring.next();
            if (threadIdx.x % GROUP_THREADS == 0) put_done();
            named_sync(3 + group, GROUP_THREADS);
            put<D>(y_tile + group * HALF, y, out, 1.0f / total[0], 1.0f / total[1], 3 + group, at.head, at.index * ROWS + group * 64, at.batch);
        }
        if (threadIdx.x % GROUP_THREADS == 0) put_done();
    }
}

// 128 keys of one key head, 64 a group of warps, against all queries that see them, for every query head that shares
// the key head. The scores are transposed, (keys, queries): so they are the left operand of both gradients.
template <int D>
__device__ inline void backward_kv(const Map& dk, const Map& dv, const Map& dy, const Map& q, const Map& k, const Map& v,
                                   const float* lse, const float* delta, u32* counter, const Work& w) {
    const int QUERIES = 64, STAGES = 3, KV = ROWS * D * 2, HALF = KV / 2, TILE = QUERIES * D * 2, ROW = QUERIES * 4;
    const int STAGE = 2 * TILE;
    extern __shared__ __align__(1024) unsigned char memory[];
    u32 kv_tiles = shared_address(memory), q_tiles = kv_tiles + 2 * 2 * KV, rows = q_tiles + STAGES * STAGE;
    u32 kv_full = rows + STAGES * 2 * ROW, kv_empty = kv_full + 16, q_full = kv_empty + 16, q_empty = q_full + 8 * STAGES;
    u32 slots = q_empty + 8 * STAGES;
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; i++) init(kv_full + 8 * i, 1), init(kv_empty + 8 * i, 2);
        for (int i = 0; i < STAGES; i++) init(q_full + 8 * i, 1), init(q_empty + 8 * i, 8);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    u32 all = w.padded / ROWS * w.kv_heads * w.batch, shared_by = w.heads / w.kv_heads;
    auto first_tile = [&](u32 index) { return index * ROWS / QUERIES; };
    auto tiles = [&](u32 index) {
        u32 first = index * ROWS, end = w.window < w.t - first && first + ROWS - 1 + w.window < w.t ? first + ROWS - 1 + w.window : w.t;
        return (end + QUERIES - 1) / QUERIES - first_tile(index);
    };

    u32 group = __shfl_sync(ALL_LANES, threadIdx.x / GROUP_THREADS, 0);
    if (group == 0) {
        fewer_registers();
        if (threadIdx.x != 0) return;
        Ring<STAGES> ring;
        Ring<2> turn;
        for (u32 n = blockIdx.x;; turn.next()) {
            u32 to = kv_tiles + turn.stage * 2 * KV, full = kv_full + 8 * turn.stage;
            await(kv_empty + 8 * turn.stage, turn.parity ^ 1);
            asm volatile("st.shared.b32 [%0], %1;" ::"r"(slots + 4 * turn.stage), "r"(n) : "memory");
            if (n >= all) {
                arrive(full);
                return;
            }
            u32 following = draw(counter);
            Tile at = tile_of(w, n, w.kv_heads, true);
            expect(full, 2 * KV);
            for (int half = 0; half < 2; half++) {
                fetch_rows<D>(to + half * HALF, PANEL, k, full, at.head, at.index * ROWS + half * 64, at.batch);
                fetch_rows<D>(to + KV + half * HALF, PANEL, v, full, at.head, at.index * ROWS + half * 64, at.batch);
            }
            u32 begin = first_tile(at.index), count = tiles(at.index);
            for (u32 i = 0; i < count * shared_by; i++, ring.next()) {
                u32 head = at.head * shared_by + i / count, row = (begin + i % count) * QUERIES;
                u32 to = q_tiles + ring.stage * STAGE, floats = rows + ring.stage * 2 * ROW, full = q_full + 8 * ring.stage;
                u64 from = ((u64)at.batch * w.heads + head) * w.padded + row;
                await(q_empty + 8 * ring.stage, ring.parity ^ 1);
                expect(full, STAGE + 2 * ROW);
                fetch_rows<D>(to, PANEL, q, full, head, row, at.batch);
                fetch_floats(floats, lse + from, QUERIES, full);
                fetch_rows<D>(to + TILE, PANEL, dy, full, head, row, at.batch);
                fetch_floats(floats + ROW, delta + from, QUERIES, full);
            }
            n = following;
        }
    } else {
        more_registers();
        group -= 1;
        u32 lane = threadIdx.x % WARP, my = group * 64 + threadIdx.x % GROUP_THREADS / WARP * 16 + lane / 4;
        float scale2 = w.scale * LOG2E;
        Ring<STAGES> ring;
        Ring<2> turn;
        for (;; turn.next()) {
            await(kv_full + 8 * turn.stage, turn.parity);
            u32 n;
            asm volatile("ld.shared.b32 %0, [%1];" : "=r"(n) : "r"(slots + 4 * turn.stage) : "memory");
            if (n >= all) break;
            Tile at = tile_of(w, n, w.kv_heads, true);
            u32 my_first = at.index * ROWS + group * 64, my_key = at.index * ROWS + my;
            u32 begin = first_tile(at.index), end = begin + tiles(at.index);
            u32 k_tile = kv_tiles + turn.stage * 2 * KV + group * HALF, v_tile = k_tile + KV, before = STAGES;
            float dk_out[D / 8][4] = {}, dv_out[D / 8][4] = {}, s[QUERIES / 8][4], ds[QUERIES / 8][4];
            u32 a[QUERIES / 16][4] = {};
            for (u32 i = begin, head = 0; head < shared_by; ring.next(), i++ < end - 1 || (i = begin, head++)) {
                u32 stage = ring.stage, tile = q_tiles + stage * STAGE, floats = rows + stage * 2 * ROW + lane % 4 * 8;
                u32 query = i * QUERIES;
                await(q_full + 8 * stage, ring.parity);
                if (query + QUERIES <= my_first) {
                    release(q_empty + 8 * stage);
                    continue;
                }
                times_transposed<D, QUERIES>(s, k_tile, tile);
                times_transposed<D, QUERIES>(ds, v_tile, tile + TILE);
                bool edge = my_first + 63 > query || query + QUERIES - 1 - my_first >= w.window;
                finish<1>(s);
                hold(a);
                if (before < STAGES) release(q_empty + 8 * before);
#pragma unroll
                for (int c = 0; c < QUERIES / 8; c++) {
                    float2 l;
                    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(l.x), "=f"(l.y) : "r"(floats + c * 32));
#pragma unroll
                    for (int j = 0; j < 4; j++) s[c][j] = exp2_fast(s[c][j] * scale2 - (j % 2 ? l.y : l.x));
                }
                if (edge) {
                    u32 distance = query + lane % 4 * 2 - my_key;
#pragma unroll
                    for (int c = 0; c < QUERIES / 8; c++)
#pragma unroll
                        for (int j = 0; j < 4; j++)
                            if (!sees(distance + (c * 8 + j % 2 - j / 2 * 8), w.window)) s[c][j] = 0.0f;
                }
                round_to(a, s);
                times<D, QUERIES>(dv_out, a, tile + TILE);
                finish<1>(ds);
#pragma unroll
                for (int c = 0; c < QUERIES / 8; c++) {
                    float2 d;
                    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(d.x), "=f"(d.y) : "r"(floats + ROW + c * 32));
#pragma unroll
                    for (int j = 0; j < 4; j++) ds[c][j] = s[c][j] * (ds[c][j] - (j % 2 ? d.y : d.x));
                }
                finish<0>(dv_out);
                hold(a);
                round_to(a, ds);
                times<D, QUERIES>(dk_out, a, tile);
                before = stage;
            }
            finish<0>(dk_out);
            hold(a);
            if (before < STAGES) release(q_empty + 8 * before);
            put<D>(k_tile, dk, dk_out, w.scale, w.scale, 3 + group, at.head, my_first, at.batch);
            put<D>(v_tile, dv, dv_out, 1.0f, 1.0f, 3 + group, at.head, my_first, at.batch);
            if (threadIdx.x % GROUP_THREADS == 0) {
                put_done();
                arrive(kv_empty + 8 * turn.stage);
            }
        }
    }
}

// 128 queries against all keys they see. The scores are computed a second time; in exchange every gradient is
// summed in one place and one order, without atomics.
template <int D>
__device__ inline void backward_q(const Map& dq, const Map& dy, const Map& q, const Map& k, const Map& v, const float* lse,
                                  const float* delta, u32* counter, const Work& w) {
    const int KEYS = 64, STAGES = 3, OWN = ROWS * D * 2, HALF = OWN / 2, TILE = KEYS * D * 2, STAGE = 2 * TILE;
    extern __shared__ __align__(1024) unsigned char memory[];
    u32 q_tile = shared_address(memory), dy_tile = q_tile + OWN, dq_tile = dy_tile + OWN, kv_tiles = dq_tile + OWN;
    u32 q_full = kv_tiles + STAGES * STAGE, q_empty = q_full + 8, kv_full = q_empty + 8, kv_empty = kv_full + 8 * STAGES;
    u32 slot = kv_empty + 8 * STAGES;
    if (threadIdx.x == 0) {
        init(q_full, 1);
        init(q_empty, 8);
        for (int i = 0; i < STAGES; i++) init(kv_full + 8 * i, 1), init(kv_empty + 8 * i, 8);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    u32 all = count_tiles(w);
    auto first_key_tile = [&](u32 index) { return (index * ROWS + 1 > w.window ? index * ROWS + 1 - w.window : 0) / KEYS; };
    auto end_key_tile = [&](u32 index) { return (index + 1) * ROWS / KEYS; };

    u32 group = __shfl_sync(ALL_LANES, threadIdx.x / GROUP_THREADS, 0);
    if (group == 0) {
        fewer_registers();
        if (threadIdx.x != 0) return;
        Ring<STAGES> ring;
        Ring<1> turn;
        for (u32 n = blockIdx.x;; turn.next()) {
            await(q_empty, turn.parity ^ 1);
            asm volatile("st.shared.b32 [%0], %1;" ::"r"(slot), "r"(n) : "memory");
            if (n >= all) {
                arrive(q_full);
                return;
            }
            u32 following = draw(counter);
            Tile at = tile_of(w, n, w.heads, false);
            u32 kv_head = at.head * w.kv_heads / w.heads;
            expect(q_full, 2 * OWN);
            for (int half = 0; half < 2; half++) {
                fetch_rows<D>(q_tile + half * HALF, PANEL, q, q_full, at.head, at.index * ROWS + half * 64, at.batch);
                fetch_rows<D>(dy_tile + half * HALF, PANEL, dy, q_full, at.head, at.index * ROWS + half * 64, at.batch);
            }
            u32 end = end_key_tile(at.index);
            for (u32 tile = first_key_tile(at.index); tile < end; tile++, ring.next()) {
                u32 to = kv_tiles + ring.stage * STAGE, full = kv_full + 8 * ring.stage;
                await(kv_empty + 8 * ring.stage, ring.parity ^ 1);
                expect(full, STAGE);
                fetch_rows<D>(to, PANEL, k, full, kv_head, tile * KEYS, at.batch);
                fetch_rows<D>(to + TILE, PANEL, v, full, kv_head, tile * KEYS, at.batch);
            }
            n = following;
        }
    } else {
        more_registers();
        group -= 1;
        u32 lane = threadIdx.x % WARP, my = group * 64 + threadIdx.x % GROUP_THREADS / WARP * 16 + lane / 4;
        float scale2 = w.scale * LOG2E;
        Ring<STAGES> ring;
        Ring<1> turn;
        for (;; turn.next()) {
            await(q_full, turn.parity);
            u32 n;
            asm volatile("ld.shared.b32 %0, [%1];" : "=r"(n) : "r"(slot) : "memory");
            if (n >= all) break;
            Tile at = tile_of(w, n, w.heads, false);
            u32 my_first = at.index * ROWS + group * 64, my_row = at.index * ROWS + my;
            float my_lse[2], my_delta[2];
            for (int half = 0; half < 2; half++) {
                u64 from = ((u64)at.batch * w.heads + at.head) * w.padded + my_row + half * 8;
                my_lse[half] = lse[from];
                my_delta[half] = delta[from];
            }
            float out[D / 8][4] = {}, s[KEYS / 8][4], ds[KEYS / 8][4];
            u32 a[KEYS / 16][4] = {};
            u32 tile = first_key_tile(at.index), end = (my_first + 64) / KEYS, before = STAGES;
            for (; tile < end; tile++) {
                u32 stage = ring.stage, keys = kv_tiles + stage * STAGE;
                await(kv_full + 8 * stage, ring.parity);
                times_transposed<D, KEYS>(s, q_tile + group * HALF, keys);
                times_transposed<D, KEYS>(ds, dy_tile + group * HALF, keys + TILE);
                bool edge = tile * KEYS + KEYS > my_first + 1 || my_first + 64 > tile * KEYS + w.window;
                finish<1>(s);
                hold(a);
                if (before < STAGES) release(kv_empty + 8 * before);
#pragma unroll
                for (int c = 0; c < KEYS / 8; c++)
#pragma unroll
                    for (int j = 0; j < 4; j++) s[c][j] = exp2_fast(s[c][j] * scale2 - my_lse[j / 2]);
                if (edge) {
                    u32 distance = my_row - tile * KEYS - lane % 4 * 2;
#pragma unroll
                    for (int c = 0; c < KEYS / 8; c++)
#pragma unroll
                        for (int j = 0; j < 4; j++)
                            if (!sees(distance + (j / 2 * 8 - c * 8 - j % 2), w.window)) s[c][j] = 0.0f;
                }
                finish<0>(ds);
#pragma unroll
                for (int c = 0; c < KEYS / 8; c++)
#pragma unroll
                    for (int j = 0; j < 4; j++) ds[c][j] = s[c][j] * (ds[c][j] - my_delta[j / 2]);
                round_to(a, ds);
                times<D, KEYS>(out, a, keys);
                before = stage;
                ring.next();
            }
            finish<0>(out);
            hold(a);
            release(q_empty);
            release(kv_empty + 8 * before);
            for (; tile < end_key_tile(at.index); tile++, ring.next()) {
                await(kv_full + 8 * ring.stage, ring.parity);
                release(kv_empty + 8 * ring.stage);
            }
            if (threadIdx.x % GROUP_THREADS == 0) put_done();
            named_sync(3 + group, GROUP_THREADS);
            put<D>(dq_tile + group * HALF, dq, out, w.scale, w.scale, 3 + group, at.head, my_first, at.batch);
        }
        if (threadIdx.x % GROUP_THREADS == 0) put_done();
    }
}

#define IN const __grid_constant__ Map
#define SIZES u32 t, u32 padded, u32 heads, u32 kv_heads, u32 batch, u32 window, u32 group, float scale
#define WORK {t, padded, heads, kv_heads, batch, window, group, scale}
#define KERNELS(D)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                           \
        attention_forward_sm90_##D(IN q, IN k, IN v, IN y, float* lse, u32* counter, SIZES) {                          \
        forward<D>(q, k, v, y, lse, counter, WORK);                                                                    \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                           \
        attention_backward_kv_sm90_##D(IN dk, IN dv, IN dy, IN q, IN k, IN v, const float* lse, const float* delta,    \
                                       u32* counter, SIZES) {                                                          \
        backward_kv<D>(dk, dv, dy, q, k, v, lse, delta, counter, WORK);                                                \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                           \
        attention_backward_q_sm90_##D(IN dq, IN dy, IN q, IN k, IN v, const float* lse, const float* delta,            \
                                      u32* counter, SIZES) {                                                           \
        backward_q<D>(dq, dy, q, k, v, lse, delta, counter, WORK);                                                     \
    }

KERNELS(64)
KERNELS(128)
