// y[n] = x[rows[n]]; a row is `vectors` times 16 bytes, y `len` times.
extern "C" __global__ void take_rows(uint4* y, const uint4* x, const u32* rows, u32 vectors, u64 len) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < len) y[i] = x[(u64)rows[i / vectors] * vectors + i % vectors];
}
