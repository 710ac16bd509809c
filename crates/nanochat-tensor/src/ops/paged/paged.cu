// Keys and values on their way into the cache, and pages copied inside it. A page holds PAGE tokens of one layer:
// keys and values (KVH, PAGE, D) each.

#define PAGE 64

// qkv (N, H + 2 KVH, D): queries are rotated and normed where they lie, keys on the way to their page, values go
// there as they are. D / 8 lanes to a head: each holds four values of the first half and the four they are rotated
// with. slots (N): page * PAGE + place in the page.
template <int D>
__device__ inline void enter(bf16* qkv, bf16* k_pages, bf16* v_pages, const float* cosines, const float* sines,
                             const u32* positions, const u32* slots, u32 h, u32 kvh, u32 total, float eps) {
    const int LANES = D / 8;
    u32 n = (blockIdx.x * blockDim.x + threadIdx.x) / LANES, i = threadIdx.x % LANES * 4;
    bool real = n < total;
    if (!real) n = total - 1;  // shuffles want whole warps
    u32 heads = h + 2 * kvh, token = n / heads, head = n % heads;
    bf16* from = qkv + (u64)n * D;
    u32 angle = positions[token] * (D / 2) + i;
    Four x1 = load4(from + i), x2 = load4(from + D / 2 + i);
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
    bool is_value = head >= h + kvh;
    for (int j = 0; j < 4; j++) {
        z1.v[j] = is_value ? x1.v[j] : z1.v[j] * scale;
        z2.v[j] = is_value ? x2.v[j] : z2.v[j] * scale;
    }
    bf16* to = from;
    if (head >= h) {
        u32 slot = slots[token], kv_head = (head - h) % kvh;
        to = (is_value ? v_pages : k_pages) + ((u64)(slot / PAGE * kvh + kv_head) * PAGE + slot % PAGE) * D;
    }
    if (!real) return;
    store4(to + i, z1);
    store4(to + D / 2 + i, z2);
}

#define KERNELS(D)                                                                                                    \
    extern "C" __global__ void paged_enter_##D(bf16* qkv, bf16* k_pages, bf16* v_pages, const float* cosines,         \
                                               const float* sines, const u32* positions, const u32* slots, u32 h,     \
                                               u32 kvh, u32 total, float eps) {                                       \
        enter<D>(qkv, k_pages, v_pages, cosines, sines, positions, slots, h, kvh, total, eps);                        \
    }

KERNELS(64)
KERNELS(128)

// copies (N, 2): from, to. A block a copy and layer; `layer` and `page` are sizes in values.
extern "C" __global__ void paged_copy(bf16* k, bf16* v, const u32* copies, u64 layer, u32 page) {
    u64 from = blockIdx.y * layer + (u64)copies[2 * blockIdx.x] * page;
    u64 to = blockIdx.y * layer + (u64)copies[2 * blockIdx.x + 1] * page;
    for (u32 i = threadIdx.x * 8; i < page; i += blockDim.x * 8) {
        *(uint4*)(k + to + i) = *(const uint4*)(k + from + i);
        *(uint4*)(v + to + i) = *(const uint4*)(v + from + i);
    }
}
