//! The search for a shape's fastest algorithm. The library proposes several, and its first proposal is 5 to 20 % slower
//! than its best (measured on an H200 at the shapes of d12 and d20), so each shape's candidates are timed once.
//!
//! A card in training runs at its power limit, far below its clock rate at rest, and the algorithm that uses the least
//! energy is then the fastest. So the search keeps the card as busy as training does, and alternates between the
//! candidates.

use std::mem::MaybeUninit;

use cudarc::cublaslt::result::{self as lt, CublasError};
use cudarc::cublaslt::sys;

use super::plan::ProductPlan;
use super::{Cuda, WORKSPACE_BYTES};
use crate::gpu::{GpuBackend, Output, Product, Slice};

const CANDIDATES: usize = 16;
/// The number of timed turns of each candidate; one takes `TURN_MS`.
const TURNS: usize = 7;
const TURN_MS: f32 = 4.0;

impl Cuda {
    /// Returns the library's proposals for a shape, the first proposal first; at least one. Fails if there is none.
    pub(super) fn candidates(
        &self,
        plan: &ProductPlan,
    ) -> Result<Vec<sys::cublasLtMatmulAlgo_t>, CublasError> {
        let preference = lt::create_matmul_pref()?;
        let mut found: [MaybeUninit<sys::cublasLtMatmulHeuristicResult_t>; CANDIDATES] =
            [const { MaybeUninit::uninit() }; CANDIDATES];
        let mut count = 0;
        // SAFETY: all descriptors are alive; at most CANDIDATES results are written, `count` of them.
        let results = unsafe {
            lt::set_matmul_pref_attribute(
                preference,
                sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const WORKSPACE_BYTES).cast(),
                size_of::<usize>(),
            )?;
            let asked = sys::cublasLtMatmulAlgoGetHeuristic(
                self.matmul.handle,
                plan.desc,
                plan.a,
                plan.b,
                plan.out,
                plan.out,
                preference,
                CANDIDATES as i32,
                found.as_mut_ptr().cast(),
                &mut count,
            );
            lt::destroy_matmul_pref(preference)?;
            asked.result()?;
            found[..count as usize].iter().map(|result| result.assume_init())
        };
        let usable = results.filter(|result| result.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS);
        let algorithms: Vec<_> = usable.map(|result| result.algo).collect();
        match algorithms.is_empty() {
            false => Ok(algorithms),
            true => Err(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)),
        }
    }

    /// Returns the candidate with the lowest median time.
    pub(super) fn fastest(
        &self,
        plan: &ProductPlan,
        p: &Product,
        candidates: &[sys::cublasLtMatmulAlgo_t],
    ) -> sys::cublasLtMatmulAlgo_t {
        // Writes to a buffer of its own: with beta 1 the runs would add to the real one.
        let (len, dtype) = (p.batch * ((p.m - 1) * p.out.ld + p.n), p.out.values.dtype());
        let memory = self.alloc(len * dtype.bytes());
        let scratch = Slice::at(memory, len, dtype);
        let p = Product { out: Output::new(scratch, p.out.ld), added: scratch, ..*p };
        let time = |algorithm: &sys::cublasLtMatmulAlgo_t, runs: usize| {
            let mut outcome = Ok(());
            // SAFETY: the scratch buffer has the shape of the output.
            let run = || unsafe { self.multiply(plan, algorithm, &p) };
            let time = self.time(&mut || outcome = (0..runs).try_for_each(|_| run()));
            outcome.ok().map(|()| time / runs as f32)
        };
        // The first run loads code and is not counted.
        let warm = candidates.iter().filter(|&candidate| time(candidate, 1).is_some());
        let mut timed: Vec<_> = warm.map(|&candidate| (candidate, Vec::with_capacity(TURNS))).collect();
        for _ in 0..TURNS {
            for (candidate, times) in &mut timed {
                let first = times.first().copied().or_else(|| time(candidate, 1)).unwrap_or(TURN_MS);
                times.extend(time(candidate, (TURN_MS / first).clamp(1.0, 100.0) as usize));
            }
        }
        let median = |times: &mut Vec<f32>| {
            times.sort_by(f32::total_cmp);
            times.get(times.len() / 2).copied().unwrap_or(f32::INFINITY)
        };
        self.free(memory);
        let timed = timed.into_iter().map(|(candidate, mut times)| (candidate, median(&mut times)));
        timed.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(candidates[0], |(fastest, _)| fastest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::Dtype;
    use crate::gpu::{Gpu, Operand};
    use crate::testing::gpu;

    /// Proposals must repeat, so that the next process finds a cached choice among its candidates.
    #[test]
    fn the_library_proposes_the_same_algorithms_each_time() {
        let Some(Device::Gpu(first)) = gpu() else { return };
        let Device::Gpu(second) = Device::cuda(0).unwrap() else { unreachable!() };
        for (dtype, beta) in [(Dtype::Bf16, 0.0), (Dtype::F32, 1.0)] {
            let out = Output::new(Slice::at(256, 8_192 * 3_072, dtype), 3_072);
            let factor = Operand::new(Slice::at(256, 8_192 * 768, Dtype::Bf16), 768);
            let product = Product::new([8_192, 3_072, 768], factor, factor.t(), out, beta);
            let propose = |gpu: &Gpu| {
                let plan = ProductPlan::new(&product).unwrap();
                Cuda::of(gpu)
                    .candidates(&plan)
                    .unwrap()
                    .into_iter()
                    .map(|algorithm| algorithm.data)
                    .collect::<Vec<_>>()
            };
            let proposed = propose(&first);
            assert!(proposed.len() > 1);
            assert_eq!(proposed, propose(&second));
        }
    }
}
