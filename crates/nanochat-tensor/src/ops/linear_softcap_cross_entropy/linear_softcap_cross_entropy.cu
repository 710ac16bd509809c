// One block a row of logits (V, rows `stride` apart). |c| <= cap, so e^(c - cap) can neither overflow nor
// underflow: one pass for the sum, without a maximum. The second pass finds the row in the L2 cache.
//
// The special function unit bounds both passes, two instructions a logit in each. The hardware's tanh errs by
// 2^-11 of its value, less than a logit in bf16 does.


// Turns logits z into dz = weight (softmax(c) - onehot) (1 - (c / cap)^2) where `gradients`; nll[row] either way.
extern "C" __global__ void softcap_cross_entropy(bf16* logits, float* nll, const u32* targets, const float* weights,
                                                 u32 v, u32 stride, float cap, u32 gradients) {
    bf16* row = logits + (u64)blockIdx.x * stride;
    float weight = weights[blockIdx.x];
    u32 target = targets[blockIdx.x];
    float inverse = 1.0f / cap, cap2 = cap * LOG2E;
    if (weight == 0.0f) {
        if (threadIdx.x == 0) nll[blockIdx.x] = 0.0f;
        if (gradients)
            for (u32 i = threadIdx.x * 8; i < stride; i += blockDim.x * 8) store8(row + i, Eight{});
        return;
    }
    float at_target = cap * tanh_fast(to_float(row[target]) * inverse), sum = 0.0f;
    for (u32 i = threadIdx.x * 8; i < v; i += blockDim.x * 8) {
        Eight z = load8(row + i);
        for (int j = 0; j < 8; j++)
            if (i + j < v) sum += exp2_fast(tanh_fast(z.v[j] * inverse) * cap2 - cap2);
    }
    float lse = cap + logf(sum_block(sum)), lse2 = lse * LOG2E;
    if (threadIdx.x == 0) nll[blockIdx.x] = lse - at_target;
    if (!gradients) return;
    for (u32 i = threadIdx.x * 8; i < stride; i += blockDim.x * 8) {
        Eight z = load8(row + i);
        for (int j = 0; j < 8; j++) {
            float t = tanh_fast(z.v[j] * inverse);
            float p = exp2_fast(t * cap2 - lse2) - (i + j == target ? 1.0f : 0.0f);
            z.v[j] = i + j < v ? weight * p * (1.0f - t * t) : 0.0f;
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

// z -> cap tanh(z / cap) where it lies. Tokens are chosen from these, so tanh is exact to the last bits here.
extern "C" __global__ void softcap(float* logits, float cap, u64 len) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < len; i += (u64)gridDim.x * blockDim.x)
        logits[i] = cap * tanhf(logits[i] / cap);
}
