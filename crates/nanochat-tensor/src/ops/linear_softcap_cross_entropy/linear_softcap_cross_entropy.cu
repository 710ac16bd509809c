// One block a row of logits (V, rows `stride` apart). |c| <= cap, so e^(c - cap) can neither overflow nor
// underflow: one pass for the sum, without a maximum. The second pass finds the row in the L2 cache.

__device__ inline float softcap(float z, float cap) { return cap * (1.0f - 2.0f / (__expf(z * (2.0f / cap)) + 1.0f)); }

// Turns logits z into dz = weight (softmax(c) - onehot) (1 - (c / cap)^2) where `gradients`; nll[row] either way.
extern "C" __global__ void softcap_cross_entropy(bf16* logits, float* nll, const u32* targets, const float* weights,
                                                 u32 v, u32 stride, float cap, u32 gradients) {
    bf16* row = logits + (u64)blockIdx.x * stride;
    float weight = weights[blockIdx.x];
    u32 target = targets[blockIdx.x];
    if (weight == 0.0f) {
        if (threadIdx.x == 0) nll[blockIdx.x] = 0.0f;
        if (gradients)
            for (u32 i = threadIdx.x * 8; i < stride; i += blockDim.x * 8) store8(row + i, Eight{});
        return;
    }
    float at_target = softcap(to_float(row[target]), cap), sum = 0.0f;
    for (u32 i = threadIdx.x * 8; i < v; i += blockDim.x * 8) {
        Eight z = load8(row + i);
        for (int j = 0; j < 8; j++)
            if (i + j < v) sum += __expf(softcap(z.v[j], cap) - cap);
    }
    float lse = cap + __logf(sum_block(sum));
    if (threadIdx.x == 0) nll[blockIdx.x] = lse - at_target;
    if (!gradients) return;
    for (u32 i = threadIdx.x * 8; i < stride; i += blockDim.x * 8) {
        Eight z = load8(row + i);
        for (int j = 0; j < 8; j++) {
            float c = softcap(z.v[j], cap), slope = 1.0f - (c / cap) * (c / cap);
            float p = __expf(c - lse) - (i + j == target ? 1.0f : 0.0f);
            z.v[j] = i + j < v ? weight * p * slope : 0.0f;
        }
        store8(row + i, z);
    }
}

// loss = sum of weight * nll; one block.
extern "C" __global__ void weighted_sum(float* loss, const float* nll, const float* weights, u32 n) {
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) sum += nll[i] * weights[i];
    sum = sum_block(sum);
    if (threadIdx.x == 0) *loss = sum;
}
