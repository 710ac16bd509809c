// The better of two candidates: the higher value, of equal ones the earlier column.
__device__ inline void take_better(float& value, u32& column, float other, u32 other_column) {
    if (other > value || (other == value && other_column < column)) {
        value = other;
        column = other_column;
    }
}

__device__ inline void best_of_warp(float& value, u32& column) {
    for (int offset = WARP / 2; offset > 0; offset /= 2)
        take_better(value, column, __shfl_xor_sync(ALL_LANES, value, offset),
                    __shfl_xor_sync(ALL_LANES, column, offset));
}

// One block a row.
extern "C" __global__ void argmax(u32* columns, const float* x, u32 cols) {
    x += (u64)blockIdx.x * cols;
    float value = -INFINITY_F;
    u32 column = cols;
    for (u32 c = threadIdx.x; c < cols; c += blockDim.x) take_better(value, column, x[c], c);
    best_of_warp(value, column);
    __shared__ float values[WARP];
    __shared__ u32 found[WARP];
    u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (lane == 0) values[warp] = value, found[warp] = column;
    __syncthreads();
    if (warp > 0) return;
    bool is_there = lane < blockDim.x / WARP;
    value = is_there ? values[lane] : -INFINITY_F;
    column = is_there ? found[lane] : cols;
    best_of_warp(value, column);
    if (lane == 0) columns[blockIdx.x] = column < cols ? column : 0;
}
