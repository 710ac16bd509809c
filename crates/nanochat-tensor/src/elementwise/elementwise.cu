// Loops over flat arrays; lengths are multiples of eight or the tail is taken one by one.

#define FLAT(len)                                                   \
    for (u64 i = 8 * ((u64)blockIdx.x * blockDim.x + threadIdx.x); \
         i < len; i += 8 * (u64)gridDim.x * blockDim.x)

template <class Y, class X>
__device__ inline void add_scaled(Y* y, const X* x, float factor, u32 add, u64 len);

__device__ inline float value(float x) { return x; }
__device__ inline float value(bf16 x) { return to_float(x); }
__device__ inline void put(float* p, float x) { *p = x; }
__device__ inline void put(bf16* p, float x) { *p = to_bf16(x); }

// y = factor x, plus y where `add`
template <class Y, class X>
__device__ inline void add_scaled(Y* y, const X* x, float factor, u32 add, u64 len) {
    FLAT(len) {
        if (i + 8 <= len) {
            Eight a = load8(x + i), b = add ? load8(y + i) : Eight{};
            for (int j = 0; j < 8; j++) b.v[j] += factor * a.v[j];
            store8(y + i, b);
        } else {
            for (u64 j = i; j < len; j++) put(y + j, factor * value(x[j]) + (add ? value(y[j]) : 0.0f));
        }
    }
}

extern "C" __global__ void add_scaled_bf16(bf16* y, const bf16* x, float factor, u32 add, u64 len) {
    add_scaled(y, x, factor, add, len);
}
extern "C" __global__ void add_scaled_f32(float* y, const float* x, float factor, u32 add, u64 len) {
    add_scaled(y, x, factor, add, len);
}
extern "C" __global__ void f32_to_bf16(bf16* y, const float* x, u64 len) { add_scaled(y, x, 1.0f, 0, len); }
extern "C" __global__ void bf16_to_f32(float* y, const bf16* x, u64 len) { add_scaled(y, x, 1.0f, 0, len); }

// z = x + y
extern "C" __global__ void sum_bf16(bf16* z, const bf16* x, const bf16* y, u64 len) {
    FLAT(len) {
        if (i + 8 <= len) {
            Eight a = load8(x + i), b = load8(y + i);
            for (int j = 0; j < 8; j++) a.v[j] += b.v[j];
            store8(z + i, a);
        } else {
            for (u64 j = i; j < len; j++) z[j] = to_bf16(to_float(x[j]) + to_float(y[j]));
        }
    }
}
