// One warp per row, the row read once into registers: rows of up to 32 * 8 * VECTORS values.

// Of the rows named by `which`, where it is given; r where it is wanted.
template <int VECTORS>
__device__ inline void forward(bf16* y, float* r, const bf16* x, const u32* which, u32 rows, u32 cols, float eps) {
    u32 row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP;
    if (row >= rows) return;
    x += (u64)(which ? which[row] : row) * cols;
    y += (u64)row * cols;
    Eight values[VECTORS];
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        u32 c = (i * WARP + lane) * 8;
        if (c < cols) {
            values[i] = load8(x + c);
            for (int j = 0; j < 8; j++) sum += values[i].v[j] * values[i].v[j];
        }
    }
    float scale = rsqrtf(sum_lanes(sum, WARP) / cols + eps);
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        u32 c = (i * WARP + lane) * 8;
        if (c < cols) {
            for (int j = 0; j < 8; j++) values[i].v[j] *= scale;
            store8(y + c, values[i]);
        }
    }
    if (r && lane == 0) r[row] = scale;
}

// dx = r (dy - y mean(dy y)), added to dx where ADD
template <int VECTORS>
__device__ inline void backward(bf16* dx, const bf16* dy, const bf16* y, const float* r, u32 rows, u32 cols, u32 add) {
    u32 row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP;
    if (row >= rows) return;
    u64 start = (u64)row * cols;
    Eight gradients[VECTORS], outputs[VECTORS];
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        u32 c = (i * WARP + lane) * 8;
        if (c < cols) {
            gradients[i] = load8(dy + start + c);
            outputs[i] = load8(y + start + c);
            for (int j = 0; j < 8; j++) sum += gradients[i].v[j] * outputs[i].v[j];
        }
    }
    float mean = sum_lanes(sum, WARP) / cols, scale = r[row];
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        u32 c = (i * WARP + lane) * 8;
        if (c < cols) {
            Eight out = add ? load8(dx + start + c) : Eight{};
            for (int j = 0; j < 8; j++) out.v[j] += scale * (gradients[i].v[j] - outputs[i].v[j] * mean);
            store8(dx + start + c, out);
        }
    }
}

#define KERNELS(VECTORS)                                                                                            \
    extern "C" __global__ void rms_norm_forward_##VECTORS(bf16* y, float* r, const bf16* x, const u32* which,       \
                                                          u32 rows, u32 cols, float eps) {                          \
        forward<VECTORS>(y, r, x, which, rows, cols, eps);                                                          \
    }                                                                                                               \
    extern "C" __global__ void rms_norm_backward_##VECTORS(bf16* dx, const bf16* dy, const bf16* y, const float* r, \
                                                           u32 rows, u32 cols, u32 add) {                           \
        backward<VECTORS>(dx, dy, y, r, rows, cols, add);                                                           \
    }

KERNELS(2)
KERNELS(5)
KERNELS(8)
KERNELS(16)
