// Eight values to a thread.

extern "C" __global__ void relu_squared_forward(bf16* y, const bf16* x, u64 len) {
    u64 i = 8 * ((u64)blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= len) return;
    Eight v = load8(x + i);
    for (int j = 0; j < 8; j++) v.v[j] = v.v[j] > 0.0f ? v.v[j] * v.v[j] : 0.0f;
    store8(y + i, v);
}

// dx = 2 max(x, 0) dy from y = max(x, 0)^2, whose root is max(x, 0); dy becomes dx where it lies.
extern "C" __global__ void relu_squared_backward(bf16* dy, const bf16* y, u64 len) {
    u64 i = 8 * ((u64)blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= len) return;
    Eight square = load8(y + i), g = load8(dy + i);
    for (int j = 0; j < 8; j++) g.v[j] *= 2.0f * sqrtf(square.v[j]);
    store8(dy + i, g);
}
