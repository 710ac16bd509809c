//! The description of a product that cuBLASLt needs before it runs.

use cudarc::cublaslt::result::{self as lt, CublasError};
use cudarc::cublaslt::sys;

use crate::Dtype;
use crate::gpu::Product;

const BF16: sys::cudaDataType = sys::cudaDataType::CUDA_R_16BF;
const F32: sys::cudaDataType = sys::cudaDataType::CUDA_R_32F;

/// The descriptors of one shape, with the chosen algorithm. In cuBLAS's column-major order the first operand is the
/// product's `b`, and the result is (n, m).
pub(super) struct ProductPlan {
    pub desc: sys::cublasLtMatmulDesc_t,
    pub a: sys::cublasLtMatrixLayout_t,
    pub b: sys::cublasLtMatrixLayout_t,
    pub out: sys::cublasLtMatrixLayout_t,
    pub algorithm: sys::cublasLtMatmulAlgo_t,
}

// SAFETY: descriptors are never changed once a plan is made.
unsafe impl Send for ProductPlan {}
// SAFETY: as above.
unsafe impl Sync for ProductPlan {}

impl ProductPlan {
    /// Makes all but the algorithm.
    pub fn new(p: &Product) -> Result<ProductPlan, CublasError> {
        let dtype = match p.out.values.dtype() {
            Dtype::F32 => F32,
            Dtype::Bf16 => BF16,
            other @ (Dtype::Int8 | Dtype::U32) => other.has_no("product of matrices on CUDA"),
        };
        // The plan owns each descriptor as soon as it is made, so that an error frees the earlier ones.
        let mut plan = ProductPlan {
            desc: std::ptr::null_mut(),
            a: std::ptr::null_mut(),
            b: std::ptr::null_mut(),
            out: std::ptr::null_mut(),
            algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
        };
        plan.desc = lt::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, F32)?;
        plan.transpose(sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA, p.b.transposed)?;
        plan.transpose(sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSB, p.a.transposed)?;
        layout(&mut plan.a, BF16, [p.n, p.k], p.b.ld, p.b.transposed, p.batch)?;
        layout(&mut plan.b, BF16, [p.k, p.m], p.a.ld, p.a.transposed, p.batch)?;
        layout(&mut plan.out, dtype, [p.n, p.m], p.out.ld, false, p.batch)?;
        Ok(plan)
    }

    fn transpose(
        &self,
        side: sys::cublasLtMatmulDescAttributes_t,
        transposed: bool,
    ) -> Result<(), CublasError> {
        let value = i32::from(transposed);
        // SAFETY: the attributes of both sides are 32-bit numbers.
        unsafe { lt::set_matmul_desc_attribute(self.desc, side, (&raw const value).cast(), size_of::<i32>()) }
    }
}

/// Makes the column-major layout of a matrix (rows, cols), or of a batch of contiguous ones.
fn layout(
    into: &mut sys::cublasLtMatrixLayout_t,
    dtype: sys::cudaDataType,
    [rows, cols]: [usize; 2],
    ld: usize,
    transposed: bool,
    batch: usize,
) -> Result<(), CublasError> {
    use sys::cublasLtMatrixLayoutAttribute_t::{
        CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT as COUNT, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET as STRIDE,
    };
    let (rows, cols) = if transposed { (cols, rows) } else { (rows, cols) };
    *into = lt::create_matrix_layout(dtype, rows as u64, cols as u64, ld as i64)?;
    if batch > 1 {
        let (count, stride) = (batch as i32, (ld * cols) as i64);
        // SAFETY: the first attribute is a 32-bit number, the second one has 64 bits.
        unsafe {
            lt::set_matrix_layout_attribute(*into, COUNT, (&raw const count).cast(), size_of::<i32>())?;
            lt::set_matrix_layout_attribute(*into, STRIDE, (&raw const stride).cast(), size_of::<i64>())?;
        }
    }
    Ok(())
}

impl Drop for ProductPlan {
    fn drop(&mut self) {
        // SAFETY: each was made by `new` and is destroyed once; a null one was not made.
        unsafe {
            for layout in [self.a, self.b, self.out].into_iter().filter(|layout| !layout.is_null()) {
                let _ = lt::destroy_matrix_layout(layout);
            }
            if !self.desc.is_null() {
                let _ = lt::destroy_matmul_desc(self.desc);
            }
        }
    }
}
