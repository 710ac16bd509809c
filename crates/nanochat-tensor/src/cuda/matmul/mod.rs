//! Matrix products with cuBLASLt.

mod choices;
mod plan;
mod search;

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

use cudarc::cublaslt::result::{self as lt, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver::{CudaStream, result as driver};

use self::choices::Choices;
use self::plan::ProductPlan;
use super::{Cuda, cache};
use crate::gpu::{Operand, Product, fail};
use crate::profile;

/// The workspace: 32 MiB, as cuBLAS uses on Hopper; products that are split over k need it.
static WORKSPACE_BYTES: usize = 32 << 20;
/// Smaller products use the first proposal: a search would cost more time than it saves.
const SEARCH_FROM_FLOPS: f64 = 1e9;

/// The cuBLASLt handle, its workspace, the plans made so far and the algorithms chosen by this and earlier processes.
pub(super) struct Matmul {
    handle: sys::cublasLtHandle_t,
    stream: Arc<CudaStream>,
    workspace: u64,
    plans: Mutex<HashMap<String, Arc<ProductPlan>>>,
    choices: Mutex<Choices>,
}

// SAFETY: cuBLASLt's handle may be used from several threads; everything else is plain data or locked.
unsafe impl Send for Matmul {}
// SAFETY: as above.
unsafe impl Sync for Matmul {}

impl Matmul {
    pub fn new(card: &str, stream: &Arc<CudaStream>) -> Result<Matmul, String> {
        let handle = lt::create_handle().map_err(|e| e.to_string())?;
        // SAFETY: the stream is alive; `drop` frees the workspace on it.
        let workspace = unsafe { driver::malloc_async(stream.cu_stream(), WORKSPACE_BYTES) };
        let workspace = workspace.map_err(|e| e.to_string())?;
        // SAFETY: takes no arguments and only reads a number.
        let version = unsafe { sys::cublasLtGetVersion() };
        let name =
            format!("matmul-{}-{version}.txt", card.replace(|c: char| !c.is_ascii_alphanumeric(), "_"));
        let choices = Mutex::new(Choices::read(cache::folder().map(|folder| folder.join(name))));
        Ok(Matmul { handle, stream: stream.clone(), workspace, plans: Mutex::default(), choices })
    }
}

impl Drop for Matmul {
    /// Frees the workspace and the handle. Errors are ignored: a broken context has freed everything already.
    fn drop(&mut self) {
        let _ = self.stream.context().bind_to_thread();
        let _ = self.stream.synchronize();
        // SAFETY: both were made in `new`, are freed once, and no product that uses them runs any more.
        unsafe {
            let _ = driver::free_async(self.workspace, self.stream.cu_stream());
            let _ = lt::destroy_handle(self.handle);
        }
    }
}

impl Cuda {
    pub(super) fn matmul(&self, product: &Product) {
        self.bind();
        let key = key_of(product);
        let plan = self.matmul.plans.lock().unwrap_or_else(|e| e.into_inner()).get(&key).cloned();
        let plan = plan.unwrap_or_else(|| {
            let plan = self.plan(&key, product).unwrap_or_else(|e| {
                fail(format!("cuBLASLt has no way to compute a product of shape {key}: {e}"));
            });
            let plan = Arc::new(plan);
            self.matmul.plans.lock().unwrap_or_else(|e| e.into_inner()).insert(key, plan.clone());
            plan
        });
        // SAFETY: the plan was made for this shape.
        let multiply = || unsafe { self.multiply(&plan, &plan.algorithm, product) };
        let Product { m, n, k, .. } = *product;
        let done = profile::kernel(|| format!("product {m} x {n} x {k}"), multiply);
        done.unwrap_or_else(|e| fail(format!("cuBLASLt failed at {}: {e}", key_of(product))));
    }

    /// # Safety
    /// `plan` must be for the product's shape, and the product's pointers must be of matrices of that shape.
    unsafe fn multiply(
        &self,
        plan: &ProductPlan,
        algorithm: &sys::cublasLtMatmulAlgo_t,
        p: &Product,
    ) -> Result<(), CublasError> {
        // cuBLAS is column-major: the row-major product is the product of the transposes, with b first.
        // SAFETY: the caller's promise; the workspace is as large as the algorithms were told.
        unsafe {
            lt::matmul(
                self.matmul.handle,
                plan.desc,
                (&raw const p.alpha).cast(),
                (&raw const p.beta).cast(),
                p.b.values.address() as *const c_void,
                plan.a,
                p.a.values.address() as *const c_void,
                plan.b,
                p.added.address() as *const c_void,
                plan.out,
                p.out.values.address() as *mut c_void,
                plan.out,
                algorithm,
                self.matmul.workspace as *mut c_void,
                WORKSPACE_BYTES,
                self.stream.cu_stream().cast(),
            )
        }
    }

    fn plan(&self, key: &str, p: &Product) -> Result<ProductPlan, CublasError> {
        let mut plan = ProductPlan::new(p)?;
        let candidates = self.candidates(&plan)?;
        plan.algorithm = candidates[0];
        let flops = 2.0 * p.m as f64 * p.n as f64 * p.k as f64 * p.batch as f64;
        if flops < SEARCH_FROM_FLOPS || !p.search || candidates.len() == 1 {
            return Ok(plan);
        }
        let choices = || self.matmul.choices.lock().unwrap_or_else(|e| e.into_inner());
        // A choice from the file is used only if the library proposes it today; other words are never run.
        let kept = choices().get(key);
        if let Some(kept) = candidates.iter().find(|candidate| Some(candidate.data) == kept) {
            plan.algorithm = *kept;
            return Ok(plan);
        }
        plan.algorithm = self.fastest(&plan, p, &candidates);
        choices().insert(key, plan.algorithm.data);
        Ok(plan)
    }
}

/// Returns a key made of all that the choice of an algorithm depends on.
fn key_of(product: &Product) -> String {
    let side = |o: Operand| format!("{}{}", if o.transposed { "t" } else { "n" }, o.ld);
    let Product { m, n, k, batch, .. } = product;
    let (a, b, out) = (side(product.a), side(product.b), product.out);
    let kind = format!("{:?}{}", out.values.dtype(), if product.beta != 0.0 { "+" } else { "" });
    format!("{m}x{n}x{k}x{batch}-{a}-{b}-{kind}-{}", out.ld)
}
