//! Ranks: processes that train one model together, each on its own GPU or share of the CPU (threads, in tests).
//!
//! A [`Comm`] gives them two things. Small values of the host, such as a sum of losses, go from host to host and
//! are there when the call returns. Tensors are begun at once and finished by [`Pending::wait`], so that what lies
//! between the two runs meanwhile: on GPUs through NCCL on a stream of its own. All ranks make the same calls in
//! the same order. Sums of the host are taken in the order of ranks, so that a run repeats itself.

mod claim;
mod in_process;
mod nccl;
mod rendezvous;
mod tcp;
#[cfg(test)]
mod tests;
mod visitors;
mod wire;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use crate::cuda::DeviceError;
use crate::{Device, Tensor};

pub use in_process::in_process;
pub use nccl::Pending;
pub use rendezvous::JoinError;

/// The ranks of a run, as one of them sees them. Cheap to clone.
#[derive(Clone)]
pub struct Comm {
    channel: Arc<dyn Channel>,
    nccl: Option<Arc<nccl::Nccl>>,
    /// How long a rank may keep the others waiting.
    patience: Duration,
    on_lost: OnLost,
}

/// How bytes come from rank to rank.
trait Channel: Send + Sync {
    fn rank(&self) -> usize;

    fn world_size(&self) -> usize;

    /// Gives `parts[r]` to rank r; returns what each rank had for this one, in the order of ranks.
    fn exchange(&self, parts: &[&[u8]]) -> Result<Vec<Vec<u8>>, Lost>;

    /// Tells the others that this rank ends, and why if it should not have.
    fn leave(&self, _failure: Option<&str>) {}
}

/// The ranks cannot go on together: one sentence that names the rank which is gone. A collective that fails
/// unwinds with it, without a message on stderr; the program's edge catches it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Lost(pub String);

/// What is done when a rank is lost while this one is at work elsewhere, from a thread that watches. A program ends
/// there: the thread at work may wait for its GPU, which waits for the lost rank.
pub type OnLost = Arc<dyn Fn(&Lost) + Send + Sync>;

/// The sentence inside a caught panic, if it was a lost rank's.
pub fn lost(panic: &(dyn Any + Send)) -> Option<&Lost> {
    panic.downcast_ref()
}

/// As which rank a process joins a run, and where the ranks meet.
#[derive(Clone, Debug)]
pub struct Place {
    pub rank: usize,
    pub world_size: usize,
    /// Where rank 0 listens: a name or address, and a port.
    pub master: (String, u16),
    /// Known to all ranks and to nobody else. Without one they meet on one machine only.
    pub secret: Option<String>,
    /// How long ranks wait for each other, to begin with and in a step.
    pub patience: Duration,
}

impl Comm {
    /// One rank, which talks to nobody.
    pub fn alone() -> Comm {
        Comm::over(Alone)
    }

    /// Meets the other ranks of `place`. Returns when all have come.
    pub fn join(place: &Place, on_lost: OnLost) -> Result<Comm, JoinError> {
        let comm = match place.world_size {
            1 => Comm::alone(),
            _ => Comm::over(tcp::Star::new(rendezvous::meet(place)?, place, on_lost.clone())?),
        };
        Ok(Comm { patience: place.patience, on_lost, ..comm })
    }

    fn over(channel: impl Channel + 'static) -> Comm {
        Comm {
            channel: Arc::new(channel),
            nccl: None,
            patience: Duration::from_secs(600),
            on_lost: Arc::new(|_| ()),
        }
    }

    /// The same ranks, which give each other the tensors of their GPUs through NCCL; all call this together.
    pub fn with_nccl(self, device: &Device) -> Result<Comm, DeviceError> {
        let Device::Gpu(gpu) = device else { return Ok(self) };
        let id = match self.is_first() {
            true => nccl::new_id()?,
            false => Vec::new(),
        };
        let id = self.broadcast_bytes(0, id);
        let place = [self.rank(), self.world_size()];
        let nccl = nccl::Nccl::new(gpu, &id, place, self.patience, self.on_lost.clone())?;
        Ok(Comm { nccl: Some(nccl), ..self })
    }

    pub fn rank(&self) -> usize {
        self.channel.rank()
    }

    pub fn world_size(&self) -> usize {
        self.channel.world_size()
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
        if let Some(nccl) = self.nccl_for(&full) {
            return nccl.reduce_scatter(full, len / world);
        }
        if world == 1 {
            return Pending::ready(full.reshape(&[len]));
        }
        let values = full.host();
        let parts: Vec<&[u8]> = values.chunks((len / world).max(1)).map(bytemuck::cast_slice).collect();
        let parts = if len == 0 { vec![&[][..]; world] } else { parts };
        Pending::ready(like(sum(&self.exchange(&parts), len / world), &full))
    }

    /// part (n) -> (world · n): every rank's part, in the order of ranks.
    pub fn all_gather(&self, part: Tensor) -> Pending {
        if let Some(nccl) = self.nccl_for(&part) {
            return nccl.all_gather(part, self.world_size());
        }
        if self.world_size() == 1 {
            let len = part.len();
            return Pending::ready(part.reshape(&[len]));
        }
        let all = self.gather_bytes(bytemuck::cast_slice(&part.host()));
        Pending::ready(like(all.iter().flat_map(|from| from_bytes(from)).collect(), &part))
    }

    /// full, float32 -> the sum of every rank's, of the same shape.
    pub fn all_reduce(&self, full: Tensor) -> Pending {
        if let Some(nccl) = self.nccl_for(&full) {
            return nccl.all_reduce(full);
        }
        if self.world_size() == 1 {
            return Pending::ready(full);
        }
        let all = self.gather_bytes(bytemuck::cast_slice(&full.host()));
        Pending::ready(like(sum(&all, full.len()), &full).reshape(full.shape()))
    }

    /// The last call: this rank ends, because of `failure` if there was one, and the others need not look for it.
    pub fn leave(&self, failure: Option<&str>) {
        self.channel.leave(failure);
    }

    fn nccl_for(&self, tensor: &Tensor) -> Option<&nccl::Nccl> {
        self.nccl.as_deref().filter(|_| tensor.gpu().is_some() && !tensor.is_empty())
    }

    fn exchange(&self, parts: &[&[u8]]) -> Vec<Vec<u8>> {
        self.channel.exchange(parts).unwrap_or_else(|lost| std::panic::resume_unwind(Box::new(lost)))
    }
}

fn from_bytes(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned)
}

fn sum(all: &[Vec<u8>], len: usize) -> Vec<f32> {
    let mut sum = vec![0.0; len];
    for from in all {
        assert_eq!(from.len(), 4 * len, "ranks give each other tensors of different lengths");
        sum.iter_mut().zip(from_bytes(from)).for_each(|(sum, value)| *sum += value);
    }
    sum
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
