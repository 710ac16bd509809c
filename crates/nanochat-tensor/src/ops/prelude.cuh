// Joined in front of every .cu file. No header is included, so that NVRTC needs nothing but itself.
//
// Activations are bf16 in memory and float in registers; weights and their gradients are float.

typedef unsigned short bf16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define WARP 32
#define ALL_LANES 0xffffffffu
#define INFINITY_F __int_as_float(0x7f800000)
#define LOG2E 1.4426950408889634f

__device__ inline float to_float(bf16 x) { return __uint_as_float((u32)x << 16); }
__device__ inline float low_float(u32 pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_float(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

__device__ inline bf16 to_bf16(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}

__device__ inline u32 pack(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// One instruction of the special function unit each; below 2^-126 the first gives 0.
__device__ inline float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ inline float tanh_fast(float x) {
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Eight values, one 16-byte access for bf16 and two for float.
struct Eight {
    float v[8];
};

__device__ inline Eight load8(const bf16* p) {
    uint4 q = *(const uint4*)p;
    return {low_float(q.x), high_float(q.x), low_float(q.y), high_float(q.y),
            low_float(q.z), high_float(q.z), low_float(q.w), high_float(q.w)};
}

__device__ inline Eight load8(const float* p) {
    float4 a = ((const float4*)p)[0], b = ((const float4*)p)[1];
    return {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
}

__device__ inline void store8(bf16* p, const Eight& x) {
    *(uint4*)p = make_uint4(pack(x.v[0], x.v[1]), pack(x.v[2], x.v[3]), pack(x.v[4], x.v[5]), pack(x.v[6], x.v[7]));
}

__device__ inline void store8(float* p, const Eight& x) {
    ((float4*)p)[0] = make_float4(x.v[0], x.v[1], x.v[2], x.v[3]);
    ((float4*)p)[1] = make_float4(x.v[4], x.v[5], x.v[6], x.v[7]);
}

// Four values, 8 bytes of bf16.
struct Four {
    float v[4];
};

__device__ inline Four load4(const bf16* p) {
    uint2 q = *(const uint2*)p;
    return {low_float(q.x), high_float(q.x), low_float(q.y), high_float(q.y)};
}

__device__ inline void store4(bf16* p, const Four& x) {
    *(uint2*)p = make_uint2(pack(x.v[0], x.v[1]), pack(x.v[2], x.v[3]));
}

// Sum over `lanes` neighbouring lanes (a power of two); every lane gets it.
__device__ inline float sum_lanes(float x, int lanes) {
    for (int offset = lanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}

// Sum over the block, at most 1,024 threads; every thread gets it.
__device__ inline float sum_block(float x) {
    __shared__ float parts[WARP];
    x = sum_lanes(x, WARP);
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = x;
    __syncthreads();
    u32 warps = blockDim.x / WARP;
    x = sum_lanes(threadIdx.x % WARP < warps ? parts[threadIdx.x % WARP] : 0.0f, WARP);
    __syncthreads();
    return x;
}

// Programmatic dependent launch (sm_90 on): a kernel launched as `overlapping` may begin before the one in front of
// it has ended, once every block of that one has called the first function. What the kernels in front wrote must be
// read after the second; every kernel that is launched so calls it, so one wait is a wait for all of them.
__device__ inline void launch_dependents() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ inline void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
