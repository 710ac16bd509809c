// Updates of weights, each in one pass. The gradient is multiplied by *factor (clipping) as it is read.

extern "C" __global__ void sum_of_squares(float* parts, const float* x, u64 len) {
    float sum = 0.0f;
    for (u64 i = 4 * ((u64)blockIdx.x * blockDim.x + threadIdx.x); i < len; i += 4 * (u64)gridDim.x * blockDim.x) {
        if (i + 4 <= len) {
            float4 v = *(const float4*)(x + i);
            sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
        } else {
            for (u64 j = i; j < len; j++) sum += x[j] * x[j];
        }
    }
    sum = sum_block(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

// One block.
extern "C" __global__ void sum(float* out, const float* parts, u32 n) {
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) sum += parts[i];
    sum = sum_block(sum);
    if (threadIdx.x == 0) *out = sum;
}

// out = {norm, min(1, limit / norm)}; limit 0: no limit. One thread.
extern "C" __global__ void clip_factor(float* out, const float* square, float limit) {
    float norm = sqrtf(*square);
    out[0] = norm;
    out[1] = limit > 0.0f && norm > limit ? limit / norm : 1.0f;
}

extern "C" __global__ void adamw(float* w, float* m, float* v, const float* g, const float* factor, u64 len, float keep,
                                 float step_size, float root_correction, float beta1, float beta2, float eps) {
    float f = *factor;
    u64 i = 4 * ((u64)blockIdx.x * blockDim.x + threadIdx.x);
    for (u64 end = i + 4 < len ? i + 4 : len; i < end; i++) {
        float grad = f * g[i];
        m[i] = beta1 * m[i] + (1.0f - beta1) * grad;
        v[i] = beta2 * v[i] + (1.0f - beta2) * grad * grad;
        w[i] = keep * w[i] - step_size * m[i] / (sqrtf(v[i]) * root_correction + eps);
    }
}

// Nesterov momentum: buf = momentum buf + (1 - momentum) g, u = (1 - momentum) g + momentum buf, and the partial
// sums of u^2.
extern "C" __global__ void muon_momentum(bf16* u, float* parts, float* buf, const float* g, const float* factor, u64 len,
                                         float momentum) {
    float f = *factor, sum = 0.0f;
    for (u64 i = 8 * ((u64)blockIdx.x * blockDim.x + threadIdx.x); i < len; i += 8 * (u64)gridDim.x * blockDim.x) {
        Eight grad = load8(g + i), b = load8(buf + i), out;
        for (int j = 0; j < 8; j++) {
            float part = (1.0f - momentum) * f * grad.v[j];
            b.v[j] = momentum * b.v[j] + part;
            out.v[j] = part + momentum * b.v[j];
            sum += out.v[j] * out.v[j];
        }
        store8(buf + i, b);
        store8(u + i, out);
    }
    sum = sum_block(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

// u = u / (norm + 1e-7) for a batch of matrices of `len` values; blockIdx.y is the matrix, with `parts` sums each.
extern "C" __global__ void muon_normalize(bf16* u, const float* parts, u32 n, u64 len) {
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) sum += parts[blockIdx.y * n + i];
    float scale = 1.0f / (sqrtf(sum_block(sum)) + 1e-7f);
    u += blockIdx.y * len;
    for (u64 i = 8 * ((u64)blockIdx.x * blockDim.x + threadIdx.x); i < len; i += 8 * (u64)gridDim.x * blockDim.x) {
        Eight v = load8(u + i);
        for (int j = 0; j < 8; j++) v.v[j] *= scale;
        store8(u + i, v);
    }
}

// w -= step u
extern "C" __global__ void muon_apply(float* w, const bf16* u, float step, u64 len) {
    u64 i = 8 * ((u64)blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= len) return;
    Eight x = load8(w + i), d = load8(u + i);
    for (int j = 0; j < 8; j++) x.v[j] -= step * d.v[j];
    store8(w + i, x);
}
