//! Ranks: processes that train one model together, each on its own GPU or share of the CPU (threads, in tests).
//!
//! A [`Comm`] gives them two things. Small values of the host, such as a sum of losses, go from host to host and
//! are there when the call returns. Tensors are begun at once and finished by [`Pending::wait`], so that what lies between
//! the two runs meanwhile. All ranks make the same calls in the same order. Sums are taken in the order of
//! ranks, so that a run repeats itself, and alone a rank gets back what it gave.

mod in_process;

use std::any::Any;
use std::sync::Arc;

use crate::Tensor;

pub use in_process::in_process;

/// The ranks of a run, as one of them sees them. Cheap to clone.
#[derive(Clone)]
pub struct Comm(Arc<dyn Channel>);

/// How bytes come from rank to rank.
trait Channel: Send + Sync {
    fn rank(&self) -> usize;

    fn world_size(&self) -> usize;

    /// Gives `parts[r]` to rank r; returns what each rank had for this one, in the order of ranks.
    fn exchange(&self, parts: &[&[u8]]) -> Result<Vec<Vec<u8>>, Lost>;
}

/// The ranks cannot work together any more: one sentence that names the rank which is gone. A call that fails unwinds with it, without
/// a message on stderr, since nothing can go on; the program's edge catches it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Lost(pub String);

/// The sentence inside a caught panic, if it was a lost rank's.
pub fn lost(panic: &(dyn Any + Send)) -> Option<&Lost> {
    panic.downcast_ref()
}

/// A tensor that other ranks are still giving to.
#[must_use = "the values are there after wait()"]
pub struct Pending(Tensor);

impl Pending {
    /// The finished tensor. On a GPU the CPU goes on at once, and what it launches next comes after it.
    pub fn wait(self) -> Tensor {
        self.0
    }
}

impl Comm {
    /// One rank, which talks to nobody.
    pub fn alone() -> Comm {
        Comm(Arc::new(Alone))
    }

    pub fn rank(&self) -> usize {
        self.0.rank()
    }

    pub fn world_size(&self) -> usize {
        self.0.world_size()
    }

    /// Whether this rank is the one that writes files and speaks to the user.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Replaces each value by its sum over all ranks.
    pub fn sum_f64(&self, values: &mut [f64]) {
        let all = self.gather_bytes(bytemuck::cast_slice(values));
        for (i, value) in values.iter_mut().enumerate() {
            *value = all.iter().map(|from| bytemuck::pod_read_unaligned::<f64>(&from[8 * i..][..8])).sum();
        }
    }

    /// What each rank gave, in the order of ranks; of any length.
    pub fn gather_bytes(&self, mine: &[u8]) -> Vec<Vec<u8>> {
        self.exchange(&vec![mine; self.world_size()])
    }

    /// The bytes of rank `root`; those that the others give are not looked at.
    pub fn broadcast_bytes(&self, root: usize, bytes: Vec<u8>) -> Vec<u8> {
        let mine: &[u8] = if self.rank() == root { &bytes } else { &[] };
        self.gather_bytes(mine).swap_remove(root)
    }

    /// Returns when every rank has come here.
    pub fn barrier(&self) {
        self.gather_bytes(&[]);
    }

    /// full (world · n), float32 -> (n): the sum of every rank's part number `rank`.
    #[track_caller]
    pub fn reduce_scatter(&self, full: Tensor) -> Pending {
        let (world, len) = (self.world_size(), full.len());
        assert!(len.is_multiple_of(world), "reduce_scatter: {len} values do not divide by {world} ranks");
        if world == 1 {
            return Pending(full);
        }
        let values = full.host();
        let parts: Vec<&[u8]> = values.chunks(len / world).map(bytemuck::cast_slice).collect();
        let mut sum = vec![0.0; len / world];
        for from in self.exchange(&parts) {
            sum.iter_mut().zip(from_bytes(&from)).for_each(|(sum, value)| *sum += value);
        }
        Pending(like(sum, &full))
    }

    /// part (n) -> (world · n): every rank's part, in the order of ranks.
    pub fn all_gather(&self, part: Tensor) -> Pending {
        if self.world_size() == 1 {
            return Pending(part);
        }
        let all = self.gather_bytes(bytemuck::cast_slice(&part.host()));
        Pending(like(all.iter().flat_map(|from| from_bytes(from)).collect(), &part))
    }

    /// full, float32 -> the sum of every rank's, of the same shape.
    pub fn all_reduce(&self, full: Tensor) -> Pending {
        if self.world_size() == 1 {
            return Pending(full);
        }
        let mut sum = vec![0.0; full.len()];
        for from in self.gather_bytes(bytemuck::cast_slice(&full.host())) {
            sum.iter_mut().zip(from_bytes(&from)).for_each(|(sum, value)| *sum += value);
        }
        Pending(like(sum, &full).reshape(full.shape()))
    }

    fn exchange(&self, parts: &[&[u8]]) -> Vec<Vec<u8>> {
        self.0.exchange(parts).unwrap_or_else(|lost| std::panic::resume_unwind(Box::new(lost)))
    }
}

fn from_bytes(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned)
}

/// `values` where `model` is, in its type.
fn like(values: Vec<f32>, model: &Tensor) -> Tensor {
    let len = values.len();
    let moved = Tensor::new(values, &[len]).to_device(&model.device());
    if model.is_bf16() { moved.to_activation() } else { moved }
}

struct Alone;

impl Channel for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        1
    }

    fn exchange(&self, parts: &[&[u8]]) -> Result<Vec<Vec<u8>>, Lost> {
        Ok(parts.iter().map(|part| part.to_vec()).collect())
    }
}
