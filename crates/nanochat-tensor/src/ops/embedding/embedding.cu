// A table of float, activations of bf16; one block a row.

extern "C" __global__ void embedding_forward(bf16* y, const float* wte, const u32* ids, u32 cols) {
    const float* from = wte + (u64)ids[blockIdx.x] * cols;
    bf16* to = y + (u64)blockIdx.x * cols;
    for (u32 c = threadIdx.x * 8; c < cols; c += blockDim.x * 8) store8(to + c, load8(from + c));
}

// order: token positions sorted by their id; group g is order[starts[g] .. starts[g + 1]], all of one id.
// One block a group adds its rows in order, so that the sum is always the same.
extern "C" __global__ void embedding_backward(float* dwte, const bf16* dy, const u32* ids, const u32* order,
                                              const u32* starts, u32 cols) {
    u32 first = starts[blockIdx.x], end = starts[blockIdx.x + 1];
    float* to = dwte + (u64)ids[order[first]] * cols;
    for (u32 c = threadIdx.x * 8; c < cols; c += blockDim.x * 8) {
        Eight sum = load8(to + c);
#pragma unroll 4
        for (u32 n = first; n < end; n++) {
            Eight row = load8(dy + (u64)order[n] * cols + c);
            for (int j = 0; j < 8; j++) sum.v[j] += row.v[j];
        }
        store8(to + c, sum);
    }
}
