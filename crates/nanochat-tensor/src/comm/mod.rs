//! Ranks: processes that train one model together, each on its own GPU or share of the CPU (threads, in tests).
//!
//! A [`Comm`] offers two kinds of collectives. Those on small host values, such as a sum of losses, are complete when
//! the call returns. Those on tensors are started by the call and finished by [`Pending::wait`], so that other work
//! runs meanwhile: GPUs use NCCL on a stream of its own. All ranks must make the same calls in the same order. Host
//! values are summed in rank order, so that a run is reproducible.

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

/// One rank's handle on all ranks of a run. Cheap to clone.
#[derive(Clone)]
pub struct Comm {
    channel: Arc<dyn Channel>,
    nccl: Option<Arc<nccl::Nccl>>,
    /// The longest time that this rank waits for another.
    patience: Duration,
    on_lost: OnLost,
}

/// A transport of bytes between ranks.
trait Channel: Send + Sync {
    fn rank(&self) -> usize;

    fn world_size(&self) -> usize;

    /// Sends `parts[r]` to rank r; returns the part that each rank sent to this one, in rank order.
    fn exchange(&self, parts: &[&[u8]]) -> Result<Vec<Vec<u8>>, Lost>;

    /// Tells the other ranks that this one ends, and why if `failure` is given.
    fn leave(&self, _failure: Option<&str>) {}
}

/// The error when a rank is lost: one sentence that names it. A collective that fails unwinds with it, without a
/// message on stderr; the program's edge catches it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Lost(pub String);

/// The callback for a lost rank, called from a watching thread while this rank works elsewhere. A program exits in it:
/// the working thread may wait for its GPU, which waits for the lost rank.
pub type OnLost = Arc<dyn Fn(&Lost) + Send + Sync>;

/// Returns the error inside a caught panic, if a lost rank caused it.
pub fn lost(panic: &(dyn Any + Send)) -> Option<&Lost> {
    panic.downcast_ref()
}

/// The rank of this process in a run, and the address at which the ranks meet.
#[derive(Clone, Debug)]
pub struct Place {
    pub rank: usize,
    pub world_size: usize,
    /// Rank 0's host name or address, and its port.
    pub master: (String, u16),
    /// A secret that all ranks share and nobody else knows. Without one, all ranks must be on one machine.
    pub secret: Option<String>,
    /// The longest wait for another rank, both to join and in a step.
    pub patience: Duration,
}

impl Comm {
    /// Makes the only rank of a run, which communicates with nobody.
    pub fn alone() -> Comm {
        Comm::over(Alone)
    }

    /// Connects to the other ranks of `place`; returns when all have joined.
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

    /// Switches the collectives of GPU tensors to NCCL; on the CPU nothing changes. All ranks must call this together.
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

    /// Whether this is rank 0, which writes files and reports to the user.
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

    /// Returns every rank's bytes in rank order; the lengths may differ.
    pub fn gather_bytes(&self, mine: &[u8]) -> Vec<Vec<u8>> {
        self.exchange(&vec![mine; self.world_size()])
    }

    /// Returns the bytes of rank `root`; those that the other ranks pass are ignored.
    pub fn broadcast_bytes(&self, root: usize, bytes: Vec<u8>) -> Vec<u8> {
        let mine: &[u8] = if self.rank() == root { &bytes } else { &[] };
        self.gather_bytes(mine).swap_remove(root)
    }

    /// Returns when every rank has called it.
    pub fn barrier(&self) {
        self.gather_bytes(&[]);
    }

    /// Sums `full` (world · n), float32, over all ranks; returns part number `rank` (n) of the sum.
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

    /// Returns every rank's `part` (n) in rank order, as one tensor (world · n).
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

    /// Returns the sum of `full`, float32, over all ranks, in the same shape.
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

    /// Tells the other ranks that this one ends, and why if `failure` is given. This must be the last call.
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

/// Returns `values` on the device of `model` and in its type.
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
