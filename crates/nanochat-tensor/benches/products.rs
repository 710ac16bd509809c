//! The products of training, in f32 and in bf16 on all threads: `cargo bench -p nanochat-tensor`.
//!
//! Items are multiplications with an addition, so 1 Gitem/s is 2 GFLOP/s.

use divan::Bencher;
use divan::counter::ItemsCount;
use nanochat_tensor::Dtype;
use nanochat_tensor::gemm::{Mat, MatMut, Threads};

/// Rows, in, out: of a d4 and a d6 at 8 rows of 512 tokens.
const SHAPES: [[usize; 3]; 4] =
    [[4_096, 256, 256], [4_096, 256, 1_024], [4_096, 1_024, 256], [4_096, 384, 1_536]];

fn main() {
    divan::main();
}

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7_919) % 1_013) as f32 / 500.0 - 1.0).collect()
}

/// c (m, n) = a (m, k) · b (k, n), each factor laid out as the op has it.
fn product(bencher: Bencher, products: Dtype, [m, k, n]: [usize; 3], a_turned: bool, b_turned: bool) {
    let (a, b, mut c) = (values(m * k), values(k * n), vec![0.0; m * n]);
    let a = if a_turned { Mat::new(&a, k, m).t() } else { Mat::new(&a, m, k) };
    let b = if b_turned { Mat::new(&b, n, k).t() } else { Mat::new(&b, k, n) };
    bencher
        .counter(ItemsCount::new(m * k * n))
        .bench_local(|| products.gemm(MatMut::new(&mut c, m, n), 1.0, a, b, 0.0, Threads::All));
}

/// y = x wᵀ
mod forward {
    use super::*;

    #[divan::bench(args = SHAPES)]
    fn f32(bencher: Bencher, [rows, inp, out]: [usize; 3]) {
        product(bencher, Dtype::F32, [rows, inp, out], false, true);
    }

    #[divan::bench(args = SHAPES)]
    fn bf16(bencher: Bencher, [rows, inp, out]: [usize; 3]) {
        product(bencher, Dtype::Bf16, [rows, inp, out], false, true);
    }
}

/// dx = dy w
mod backward_input {
    use super::*;

    #[divan::bench(args = SHAPES)]
    fn f32(bencher: Bencher, [rows, inp, out]: [usize; 3]) {
        product(bencher, Dtype::F32, [rows, out, inp], false, false);
    }

    #[divan::bench(args = SHAPES)]
    fn bf16(bencher: Bencher, [rows, inp, out]: [usize; 3]) {
        product(bencher, Dtype::Bf16, [rows, out, inp], false, false);
    }
}

/// dw = dyᵀ x
mod backward_weight {
    use super::*;

    #[divan::bench(args = SHAPES)]
    fn f32(bencher: Bencher, [rows, inp, out]: [usize; 3]) {
        product(bencher, Dtype::F32, [out, rows, inp], true, false);
    }

    #[divan::bench(args = SHAPES)]
    fn bf16(bencher: Bencher, [rows, inp, out]: [usize; 3]) {
        product(bencher, Dtype::Bf16, [out, rows, inp], true, false);
    }
}
