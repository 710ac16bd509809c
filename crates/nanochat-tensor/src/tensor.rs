//! A contiguous, row-major array of f32. There are no strides: an op that wants another layout is
//! another op.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Names a tensor for its gradient. Clones and reshapes of a tensor share its id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct TensorId(u64);

#[derive(Clone)]
pub struct Tensor {
    id: TensorId,
    shape: Vec<usize>,
    storage: Arc<Vec<f32>>,
}

impl Tensor {
    #[track_caller]
    pub fn new(data: Vec<f32>, shape: &[usize]) -> Tensor {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        assert_eq!(data.len(), shape.iter().product::<usize>(), "data does not fill shape {shape:?}");
        let id = TensorId(NEXT.fetch_add(1, Ordering::Relaxed));
        Tensor { id, shape: shape.to_vec(), storage: Arc::new(data) }
    }

    pub fn zeros(shape: &[usize]) -> Tensor {
        Tensor::new(vec![0.0; shape.iter().product()], shape)
    }

    pub(crate) fn id(&self) -> TensorId {
        self.id
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn len(&self) -> usize {
        self.storage.len()
    }

    pub fn is_empty(&self) -> bool {
        self.storage.is_empty()
    }

    /// The last dimension; everything before it counts as rows.
    pub fn cols(&self) -> usize {
        *self.shape.last().expect("tensor has no dimensions")
    }

    pub fn rows(&self) -> usize {
        self.len() / self.cols().max(1)
    }

    pub fn data(&self) -> &[f32] {
        &self.storage
    }

    /// Write access for the optimizer. A live tape shares every tensor that its backward needs, so
    /// this panics rather than change a weight under a forward pass.
    pub fn data_mut(&mut self) -> &mut [f32] {
        Arc::get_mut(&mut self.storage).expect("tensor is still shared with a tape")
    }

    /// Write access where nobody else holds the values, else a copy of them first.
    pub(crate) fn make_mut(&mut self) -> &mut [f32] {
        Arc::make_mut(&mut self.storage).as_mut_slice()
    }

    /// The same values and the same gradient under another shape.
    #[track_caller]
    pub fn reshape(&self, shape: &[usize]) -> Tensor {
        let len = shape.iter().product::<usize>();
        assert_eq!(self.len(), len, "cannot view {:?} as {shape:?}", self.shape);
        Tensor { id: self.id, shape: shape.to_vec(), storage: self.storage.clone() }
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor{:?}{:?}", self.shape, &self.data()[..self.len().min(8)])
    }
}
