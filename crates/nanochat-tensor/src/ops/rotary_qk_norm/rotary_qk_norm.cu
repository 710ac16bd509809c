// D / 8 lanes to a head: each holds four values of the first half and the four they are rotated with.

template <int D>
__device__ inline void forward(bf16* y, float* r, const bf16* x, const float* cosines, const float* sines,
                               const u32* positions, u32 heads, u32 total, float eps) {
    const int LANES = D / 8;
    u32 n = (blockIdx.x * blockDim.x + threadIdx.x) / LANES, i = threadIdx.x % LANES * 4;
    if (n >= total) n = total - 1;  // the last lanes repeat the last head: shuffles want whole warps
    u64 start = (u64)n * D;
    u32 angle = positions[n / heads] * (D / 2) + i;
    Four x1 = load4(x + start + i), x2 = load4(x + start + D / 2 + i);
    float4 c = *(const float4*)(cosines + angle), s = *(const float4*)(sines + angle);
    float co[4] = {c.x, c.y, c.z, c.w}, si[4] = {s.x, s.y, s.z, s.w};
    Four z1, z2;
    float sum = 0.0f;
    for (int j = 0; j < 4; j++) {
        z1.v[j] = x1.v[j] * co[j] + x2.v[j] * si[j];
        z2.v[j] = x2.v[j] * co[j] - x1.v[j] * si[j];
        sum += z1.v[j] * z1.v[j] + z2.v[j] * z2.v[j];
    }
    float scale = rsqrtf(sum_lanes(sum, LANES) / D + eps);
    for (int j = 0; j < 4; j++) {
        z1.v[j] *= scale;
        z2.v[j] *= scale;
    }
    store4(y + start + i, z1);
    store4(y + start + D / 2 + i, z2);
    if (i == 0) r[n] = scale;
}

// Added to dx where `add`.
template <int D>
__device__ inline void backward(bf16* dx, const bf16* dy, const bf16* y, const float* r, const float* cosines,
                                const float* sines, const u32* positions, u32 heads, u32 total, u32 add) {
    const int LANES = D / 8;
    u32 n = (blockIdx.x * blockDim.x + threadIdx.x) / LANES, i = threadIdx.x % LANES * 4;
    bool real = n < total;
    if (!real) n = total - 1;
    u64 start = (u64)n * D;
    u32 angle = positions[n / heads] * (D / 2) + i;
    Four g1 = load4(dy + start + i), g2 = load4(dy + start + D / 2 + i);
    Four y1 = load4(y + start + i), y2 = load4(y + start + D / 2 + i);
    float4 c = *(const float4*)(cosines + angle), s = *(const float4*)(sines + angle);
    float co[4] = {c.x, c.y, c.z, c.w}, si[4] = {s.x, s.y, s.z, s.w};
    float sum = 0.0f;
    for (int j = 0; j < 4; j++) sum += g1.v[j] * y1.v[j] + g2.v[j] * y2.v[j];
    float mean = sum_lanes(sum, LANES) / D, scale = r[n];
    Four d1 = {}, d2 = {};
    if (add) {
        d1 = load4(dx + start + i);
        d2 = load4(dx + start + D / 2 + i);
    }
    for (int j = 0; j < 4; j++) {
        float dz1 = scale * (g1.v[j] - y1.v[j] * mean), dz2 = scale * (g2.v[j] - y2.v[j] * mean);
        d1.v[j] += dz1 * co[j] - dz2 * si[j];
        d2.v[j] += dz2 * co[j] + dz1 * si[j];
    }
    if (!real) return;
    store4(dx + start + i, d1);
    store4(dx + start + D / 2 + i, d2);
}

#define KERNELS(D)                                                                                                     \
    extern "C" __global__ void rotary_qk_norm_forward_##D(bf16* y, float* r, const bf16* x, const float* cosines,      \
                                                          const float* sines, const u32* positions, u32 heads,         \
                                                          u32 total, float eps) {                                      \
        forward<D>(y, r, x, cosines, sines, positions, heads, total, eps);                                             \
    }                                                                                                                  \
    extern "C" __global__ void rotary_qk_norm_backward_##D(bf16* dx, const bf16* dy, const bf16* y, const float* r,    \
                                                           const float* cosines, const float* sines,                   \
                                                           const u32* positions, u32 heads, u32 total, u32 add) {      \
        backward<D>(dx, dy, y, r, cosines, sines, positions, heads, total, add);                                       \
    }

KERNELS(64)
KERNELS(128)
