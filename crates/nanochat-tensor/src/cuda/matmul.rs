//! Matrix products by cuBLASLt. The library offers several algorithms for a shape, and its first proposal is 5 to
//! 20 % slower than its best (measured on an H200 at the shapes of d12 and d20): each shape's candidates are timed
//! once, and the choice is kept on disk by card and library version. A card in training runs at its power limit, far
//! below the clock it has at rest, and what is fastest then is what spends least: so the search keeps the card as busy
//! as training does, and takes the candidates in turns.

use std::collections::HashMap;
use std::ffi::c_void;
use std::fs;
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use cudarc::cublaslt::result::{self as lt, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver::{CudaStream, result as driver};

use super::buffer::Dtype;
use super::{Buffer, Cuda, fail, kernels};
use crate::profile;

/// 32 MiB is what cuBLAS takes on Hopper; split products want it.
static WORKSPACE_BYTES: usize = 32 << 20;
const CANDIDATES: usize = 16;
/// Products smaller than this take the first proposal: the search would cost more than it ever gives back.
const SEARCH_FROM_FLOPS: f64 = 1e9;
/// Turns of each candidate, and how long one takes.
const TURNS: usize = 7;
const TURN_MS: f32 = 4.0;

/// A row-major bf16 matrix: element (i, j) is at `i * ld + j`, or at `j * ld + i` where it is transposed.
#[derive(Clone, Copy)]
pub(crate) struct Operand {
    pub ptr: u64,
    pub ld: usize,
    pub transposed: bool,
}

impl Operand {
    pub fn new(ptr: u64, ld: usize) -> Operand {
        Operand { ptr, ld, transposed: false }
    }

    pub fn t(self) -> Operand {
        Operand { transposed: !self.transposed, ..self }
    }
}

/// A row-major matrix to write.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    pub ptr: u64,
    pub ld: usize,
    pub dtype: Dtype,
}

/// out (m, n) = alpha · a (m, k) · b (k, n) + beta · added, for each matrix of a batch. The matrices of a batch lie
/// one after another; `added` has the layout of `out` and may be it.
#[derive(Clone, Copy)]
pub(crate) struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Operand,
    pub b: Operand,
    pub out: Output,
    pub added: u64,
    pub alpha: f32,
    pub beta: f32,
    pub batch: usize,
    /// Whether the shape comes often enough for its algorithms to be timed.
    pub search: bool,
}

impl Product {
    /// out = a b + beta · out
    pub fn new([m, n, k]: [usize; 3], a: Operand, b: Operand, out: Output, beta: f32) -> Product {
        Product { m, n, k, a, b, out, added: out.ptr, alpha: 1.0, beta, batch: 1, search: true }
    }

    /// All that the choice of an algorithm depends on.
    fn key(&self) -> String {
        let side = |o: Operand| format!("{}{}", if o.transposed { "t" } else { "n" }, o.ld);
        let Product { m, n, k, batch, .. } = self;
        let (a, b, out) = (side(self.a), side(self.b), self.out);
        let kind = format!("{:?}{}", out.dtype, if self.beta != 0.0 { "+" } else { "" });
        format!("{m}x{n}x{k}x{batch}-{a}-{b}-{kind}-{}", out.ld)
    }
}

/// The handle, a workspace and the plans made so far.
pub(super) struct Matmul {
    handle: sys::cublasLtHandle_t,
    workspace: u64,
    plans: Mutex<HashMap<String, Arc<Plan>>>,
    chosen: Mutex<HashMap<String, [u64; 8]>>,
    file: Option<PathBuf>,
}

// SAFETY: cuBLASLt's handle may be used from several threads; everything else is plain data or locked.
unsafe impl Send for Matmul {}
// SAFETY: as above.
unsafe impl Sync for Matmul {}

/// Descriptors of one shape, kept for the life of the process, with the algorithm chosen.
struct Plan {
    desc: sys::cublasLtMatmulDesc_t,
    a: sys::cublasLtMatrixLayout_t,
    b: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

// SAFETY: descriptors are never changed once a plan is made.
unsafe impl Send for Plan {}
// SAFETY: as above.
unsafe impl Sync for Plan {}

impl Matmul {
    pub fn new(card: &str, stream: &Arc<CudaStream>) -> Result<Matmul, String> {
        let handle = lt::create_handle().map_err(|e| e.to_string())?;
        // SAFETY: the stream is alive; the workspace lives as long as the process.
        let workspace = unsafe { driver::malloc_async(stream.cu_stream(), WORKSPACE_BYTES) };
        let workspace = workspace.map_err(|e| e.to_string())?;
        // SAFETY: takes no arguments and only reads a number.
        let version = unsafe { sys::cublasLtGetVersion() };
        let name =
            format!("matmul-{}-{version}.txt", card.replace(|c: char| !c.is_ascii_alphanumeric(), "_"));
        let file = kernels::cache_dir().map(|dir| dir.join(name));
        let text = file.as_ref().and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        let chosen = text.lines().filter_map(parse_choice).collect();
        Ok(Matmul { handle, workspace, plans: Mutex::default(), chosen: Mutex::new(chosen), file })
    }
}

/// `key word word …`, eight hexadecimal words of an algorithm.
fn parse_choice(line: &str) -> Option<(String, [u64; 8])> {
    let (key, words) = line.split_once(' ')?;
    let words: Vec<u64> = words.split(' ').map_while(|word| u64::from_str_radix(word, 16).ok()).collect();
    Some((key.to_string(), words.try_into().ok()?))
}

fn choice_line(key: &str, words: &[u64; 8]) -> String {
    words.iter().fold(key.to_string(), |line, word| format!("{line} {word:x}")) + "\n"
}

impl Cuda {
    pub(crate) fn matmul(self: &Arc<Cuda>, product: Product) {
        if product.m == 0 || product.n == 0 {
            return;
        }
        self.bind();
        let key = product.key();
        let plan = self.matmul.plans.lock().unwrap_or_else(|e| e.into_inner()).get(&key).cloned();
        let plan = plan.unwrap_or_else(|| {
            let plan = self.plan(&key, &product).unwrap_or_else(|e| {
                fail(format!("cuBLASLt has no way to compute a product of shape {key}: {e}"));
            });
            let plan = Arc::new(plan);
            self.matmul.plans.lock().unwrap_or_else(|e| e.into_inner()).insert(key, plan.clone());
            plan
        });
        // SAFETY: the plan was made for this shape.
        let multiply = || unsafe { self.multiply(&plan, &plan.algorithm, &product) };
        let Product { m, n, k, .. } = product;
        let done = profile::kernel(|| format!("product {m} x {n} x {k}"), multiply);
        done.unwrap_or_else(|e| fail(format!("cuBLASLt failed at {}: {e}", product.key())));
    }

    /// # Safety
    /// `plan` must be of the product's shape, and its pointers of matrices of that shape.
    unsafe fn multiply(
        &self,
        plan: &Plan,
        algorithm: &sys::cublasLtMatmulAlgo_t,
        p: &Product,
    ) -> Result<(), CublasError> {
        // cuBLAS counts by columns: a row-major product is the product of the transposes, b first.
        // SAFETY: the caller's promise; the workspace is as large as the algorithms were told.
        unsafe {
            lt::matmul(
                self.matmul.handle,
                plan.desc,
                (&raw const p.alpha).cast(),
                (&raw const p.beta).cast(),
                p.b.ptr as *const c_void,
                plan.a,
                p.a.ptr as *const c_void,
                plan.b,
                p.added as *const c_void,
                plan.out,
                p.out.ptr as *mut c_void,
                plan.out,
                algorithm,
                self.matmul.workspace as *mut c_void,
                WORKSPACE_BYTES,
                self.stream.cu_stream().cast(),
            )
        }
    }

    fn plan(self: &Arc<Cuda>, key: &str, p: &Product) -> Result<Plan, CublasError> {
        let mut plan = describe(p)?;
        let known = self.matmul.chosen.lock().unwrap_or_else(|e| e.into_inner()).get(key).copied();
        if let Some(data) = known {
            plan.algorithm = sys::cublasLtMatmulAlgo_t { data };
            return Ok(plan);
        }
        let candidates = self.candidates(&plan)?;
        let flops = 2.0 * p.m as f64 * p.n as f64 * p.k as f64 * p.batch as f64;
        if flops < SEARCH_FROM_FLOPS || !p.search || candidates.len() == 1 {
            plan.algorithm = candidates[0];
            return Ok(plan);
        }
        // Timed into a buffer of its own: with beta 1 the real one would be added to.
        let scratch = self.alloc(p.batch * ((p.m - 1) * p.out.ld + p.n), p.out.dtype);
        plan.algorithm = self.fastest(&plan, p, &scratch, &candidates);
        self.remember(key, plan.algorithm.data);
        Ok(plan)
    }

    fn candidates(&self, plan: &Plan) -> Result<Vec<sys::cublasLtMatmulAlgo_t>, CublasError> {
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

    fn fastest(
        self: &Arc<Cuda>,
        plan: &Plan,
        p: &Product,
        scratch: &Buffer,
        candidates: &[sys::cublasLtMatmulAlgo_t],
    ) -> sys::cublasLtMatmulAlgo_t {
        let p = Product { out: Output { ptr: scratch.ptr(), ..p.out }, added: scratch.ptr(), ..*p };
        let time = |algorithm: &sys::cublasLtMatmulAlgo_t, runs: usize| {
            let mut outcome = Ok(());
            // SAFETY: the scratch buffer has the shape of the output.
            let run = || unsafe { self.multiply(plan, algorithm, &p) };
            let time = self.time(|| outcome = (0..runs).try_for_each(|_| run()));
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
        let timed = timed.into_iter().map(|(candidate, mut times)| (candidate, median(&mut times)));
        timed.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(candidates[0], |(fastest, _)| fastest)
    }

    /// A new choice, also into the file (rewritten whole: choices are few and made once a shape).
    fn remember(&self, key: &str, algorithm: [u64; 8]) {
        let mut chosen = self.matmul.chosen.lock().unwrap_or_else(|e| e.into_inner());
        chosen.insert(key.to_string(), algorithm);
        if let Some(file) = &self.matmul.file {
            let lines: String = chosen.iter().map(|(key, words)| choice_line(key, words)).collect();
            kernels::write_cache(file, lines.as_bytes());
        }
    }
}

/// Descriptors of a product. By columns, the first operand is `b` and the result is (n, m).
fn describe(p: &Product) -> Result<Plan, CublasError> {
    const BF16: sys::cudaDataType = sys::cudaDataType::CUDA_R_16BF;
    const F32: sys::cudaDataType = sys::cudaDataType::CUDA_R_32F;
    let desc = lt::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, F32)?;
    let transpose = |attribute, transposed: bool| {
        let value = i32::from(transposed);
        // SAFETY: both attributes are 32-bit numbers.
        unsafe { lt::set_matmul_desc_attribute(desc, attribute, (&raw const value).cast(), size_of::<i32>()) }
    };
    transpose(sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA, p.b.transposed)?;
    transpose(sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSB, p.a.transposed)?;
    let layout = |dtype, rows: usize, cols: usize, ld: usize, transposed: bool| {
        let (rows, cols) = if transposed { (cols, rows) } else { (rows, cols) };
        let layout = lt::create_matrix_layout(dtype, rows as u64, cols as u64, ld as i64)?;
        if p.batch > 1 {
            let (count, stride) = (p.batch as i32, (ld * cols) as i64);
            use sys::cublasLtMatrixLayoutAttribute_t as Attribute;
            // SAFETY: the first attribute is a 32-bit number, the second one of 64 bits.
            unsafe {
                let count = (&raw const count).cast();
                let stride = (&raw const stride).cast();
                lt::set_matrix_layout_attribute(
                    layout,
                    Attribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                    count,
                    4,
                )?;
                lt::set_matrix_layout_attribute(
                    layout,
                    Attribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                    stride,
                    8,
                )?;
            }
        }
        Ok(layout)
    };
    let dtype = if p.out.dtype == Dtype::F32 { F32 } else { BF16 };
    Ok(Plan {
        desc,
        a: layout(BF16, p.n, p.k, p.b.ld, p.b.transposed)?,
        b: layout(BF16, p.k, p.m, p.a.ld, p.a.transposed)?,
        out: layout(dtype, p.n, p.m, p.out.ld, false)?,
        algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_as_they_were_written() {
        let words = [0, 1, u64::MAX, 3, 4, 5, 6, 0xabc];
        let line = choice_line("8x8x8x1-n8-t8-F32+-8", &words);
        assert_eq!(parse_choice(line.trim_end()), Some(("8x8x8x1-n8-t8-F32+-8".into(), words)));
        for broken in ["", "key", "key 1 2", "key 1 2 3 4 5 6 7 x"] {
            assert_eq!(parse_choice(broken), None, "{broken}");
        }
    }
}
