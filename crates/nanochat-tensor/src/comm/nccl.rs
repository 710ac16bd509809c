//! Collectives between GPUs: NCCL, on a stream beside the compute stream. A collective starts when all work queued on
//! the compute stream before it is done, and work queued there after `wait` starts after the collective.

use std::collections::VecDeque;
use std::ptr::null_mut;
use std::rc::Rc;
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use cudarc::driver::{CudaEvent, CudaStream};

use super::{Lost, OnLost};
use crate::Tensor;
use crate::cuda::nccl::{BFLOAT16, Code, Communicator, FLOAT32, Library, SUM, UniqueId, library};
use crate::cuda::{Cuda, DeviceError};
use crate::gpu::{Gpu, fail};
use crate::profile;

/// The time between two checks for NCCL errors and for collectives that do not end.
const WATCH: Duration = Duration::from_secs(1);

/// The result of a collective that may still be running.
#[must_use = "the values are there after wait()"]
pub struct Pending {
    values: Tensor,
    under_way: Option<UnderWay>,
}

struct UnderWay {
    name: &'static str,
    done: Arc<CudaEvent>,
    /// The input; its memory belongs to the compute stream and must not be freed there before `done`.
    _given: Tensor,
}

impl Pending {
    pub(super) fn ready(values: Tensor) -> Pending {
        Pending { values, under_way: None }
    }

    /// Returns the finished tensor. On a GPU the CPU does not wait; the work that it launches next starts after the
    /// collective.
    pub fn wait(mut self) -> Tensor {
        self.finish();
        self.values.clone()
    }

    fn finish(&mut self) {
        let Some(UnderWay { name, done, .. }) = self.under_way.take() else { return };
        let gpu = self.values.buffer().gpu();
        profile::wait(|| format!("wait for {name}"), || Cuda::of(gpu).come_after(&done));
    }
}

/// Finishes a collective that nobody waited for, so that its memory is kept until it is done.
impl Drop for Pending {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.finish();
        }
    }
}

/// Makes the id of a communicator on rank 0, which sends it to the other ranks.
pub fn new_id() -> Result<Vec<u8>, DeviceError> {
    let (library, mut id) = (library()?, UniqueId([0; 128]));
    // SAFETY: the call writes the 128 bytes.
    let code = unsafe { (library.get_unique_id)(&mut id) };
    library.opened(code)?;
    Ok(id.0.to_vec())
}

/// One rank's handle on a communicator.
pub struct Nccl {
    gpu: Gpu,
    library: &'static Library,
    communicator: Communicator,
    stream: Arc<CudaStream>,
    /// The collectives that are not known to be done, oldest first.
    begun: Mutex<VecDeque<(&'static str, Instant, Arc<CudaEvent>)>>,
}

// SAFETY: NCCL allows calls from any thread. Those of one communicator come from the computing thread, except for the
// error check, which NCCL allows in parallel.
unsafe impl Send for Nccl {}
// SAFETY: as above.
unsafe impl Sync for Nccl {}

impl Library {
    fn opened(&self, code: Code) -> Result<(), DeviceError> {
        match code {
            0 => Ok(()),
            _ => Err(DeviceError::Nccl(self.describe(code, null_mut()))),
        }
    }
}

impl Nccl {
    /// Joins the communicator `id`; returns when every rank has called it.
    pub fn new(
        gpu: &Gpu,
        id: &[u8],
        [rank, world_size]: [usize; 2],
        patience: Duration,
        on_lost: OnLost,
    ) -> Result<Arc<Nccl>, DeviceError> {
        let library = library()?;
        let id = UniqueId(id.try_into().map_err(|_| DeviceError::Nccl("rank 0 gave no id".into()))?);
        let stream = Cuda::of(gpu).stream_beside();
        let mut communicator = null_mut();
        // SAFETY: the GPU's context is bound to this thread, and the call writes one pointer.
        let code = unsafe { (library.init_rank)(&mut communicator, world_size as i32, id, rank as i32) };
        library.opened(code)?;
        let nccl = Nccl { gpu: gpu.clone(), library, communicator, stream, begun: Mutex::default() };
        let nccl = Arc::new(nccl);
        let watched = Arc::downgrade(&nccl);
        let watch = move || watch(&watched, rank, patience, &on_lost);
        thread::Builder::new().name("nccl-watch".into()).spawn(watch).expect("a thread to watch NCCL");
        Ok(nccl)
    }

    pub fn reduce_scatter(&self, full: Tensor, len: usize) -> Pending {
        let reduce = self.library.reduce_scatter;
        self.begin("reduce_scatter", full, &[len], |from, to, dtype| {
            // SAFETY: `from` holds world · len values, `to` len; both live until the event of `begin`.
            unsafe { reduce(from, to, len, dtype, SUM, self.communicator, self.raw_stream()) }
        })
    }

    pub fn all_gather(&self, part: Tensor, world_size: usize) -> Pending {
        let (len, gather) = (part.len(), self.library.all_gather);
        self.begin("all_gather", part, &[world_size * len], |from, to, dtype| {
            // SAFETY: `from` holds len values, `to` world · len; both live until the event of `begin`.
            unsafe { gather(from, to, len, dtype, self.communicator, self.raw_stream()) }
        })
    }

    pub fn all_reduce(&self, full: Tensor) -> Pending {
        let (len, shape, reduce) = (full.len(), full.shape().to_vec(), self.library.all_reduce);
        self.begin("all_reduce", full, &shape, |from, to, dtype| {
            // SAFETY: both hold len values and live until the event of `begin`.
            unsafe { reduce(from, to, len, dtype, SUM, self.communicator, self.raw_stream()) }
        })
    }

    fn begin(
        &self,
        name: &'static str,
        given: Tensor,
        shape: &[usize],
        call: impl FnOnce(u64, u64, i32) -> Code,
    ) -> Pending {
        let values = Tensor::unwritten(&self.gpu, given.dtype(), shape);
        let dtype = if given.is_bf16() { BFLOAT16 } else { FLOAT32 };
        Cuda::of(&self.gpu).send_after(&self.stream);
        let code = profile::collective(
            name,
            || Rc::new(Cuda::of(&self.gpu).event_of(&self.stream)),
            || call(given.slice().address(), values.slice().address(), dtype),
        );
        if code != 0 {
            fail(format!("NCCL's {name} failed: {}", self.library.describe(code, self.communicator)));
        }
        let done = Arc::new(Cuda::of(&self.gpu).event_of(&self.stream));
        let mut begun = self.begun.lock().unwrap_or_else(|e| e.into_inner());
        begun.push_back((name, Instant::now(), done.clone()));
        Pending { values, under_way: Some(UnderWay { name, done, _given: given }) }
    }

    fn raw_stream(&self) -> *mut std::ffi::c_void {
        self.stream.cu_stream().cast()
    }

    /// Returns the reason why the ranks cannot go on, if there is one.
    fn trouble(&self, patience: Duration) -> Option<String> {
        let mut code = 0;
        // SAFETY: the communicator is alive, and the call writes one number.
        let asked = unsafe { (self.library.get_async_error)(self.communicator, &mut code) };
        if let Some(code) = [asked, code].into_iter().find(|code| ![0, 7].contains(code)) {
            return Some(format!("NCCL failed: {}", self.library.describe(code, self.communicator)));
        }
        let mut begun = self.begun.lock().unwrap_or_else(|e| e.into_inner());
        while begun.front().is_some_and(|(_, _, done)| done.is_complete()) {
            begun.pop_front();
        }
        let (name, _, _) = begun.front().filter(|(_, since, _)| since.elapsed() > patience)?;
        Some(format!("a {name} has not ended in {} s: another rank has stopped", patience.as_secs()))
    }
}

/// Checks the communicator until it is dropped or has failed.
fn watch(nccl: &Weak<Nccl>, rank: usize, patience: Duration, on_lost: &OnLost) {
    while let Some(nccl) = nccl.upgrade() {
        Cuda::of(&nccl.gpu).bind();
        if let Some(trouble) = nccl.trouble(patience) {
            return on_lost(&Lost(format!("rank {rank} cannot go on: {trouble}")));
        }
        drop(nccl);
        thread::sleep(WATCH);
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        // Aborts the communicator, since destroying it would wait for the other ranks. Errors cannot be handled here.
        let _ = self.stream.synchronize();
        // SAFETY: the last use of the communicator.
        let _ = unsafe { (self.library.abort)(self.communicator) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::comm::{Comm, Place};
    use crate::testing::{gpu, randn, skip};
    use crate::{Device, Tensor};

    /// Makes a communicator of one rank, through which every call goes.
    fn one_rank() -> Option<(Device, Comm)> {
        let device = gpu()?;
        if let Err(error) = super::library() {
            skip(&error.to_string(), "NANOCHAT_REQUIRE_NCCL");
            return None;
        }
        let place = Place {
            rank: 0,
            world_size: 1,
            master: (String::new(), 0),
            secret: None,
            patience: std::time::Duration::from_secs(60),
        };
        let comm = Comm::join(&place, Arc::new(|lost| panic!("{lost}"))).unwrap();
        Some((device.clone(), comm.with_nccl(&device).unwrap()))
    }

    #[test]
    fn one_rank_gets_back_what_it_gave() {
        let Some((device, comm)) = one_rank() else { return };
        for len in [1, 1_000, 1 << 20] {
            let given = randn(&[len], 3).to_device(&device);
            let rounded = given.to_activation();
            let got = |tensor: Tensor| tensor.host().into_owned();
            assert_eq!(got(comm.reduce_scatter(given.clone()).wait()), *given.host());
            assert_eq!(got(comm.all_reduce(given.clone()).wait()), *given.host());
            assert_eq!(got(comm.all_gather(given.clone()).wait()), *given.host());
            assert_eq!(got(comm.all_gather(rounded.clone()).wait()), *rounded.host());
        }
    }

    /// Frees, reuses and overwrites buffers on the compute stream while collectives run.
    #[test]
    fn streams_come_one_after_the_other_where_they_must() {
        let Some((device, comm)) = one_rank() else { return };
        let len = 1 << 22;
        let pending: Vec<_> = (0..50)
            .map(|i| {
                let given = Tensor::new(vec![i as f32; len], &[len]).to_device(&device);
                let pending = comm.reduce_scatter(given);
                let overwritten = Tensor::new(vec![-1.0; len], &[len]).to_device(&device);
                (pending, overwritten)
            })
            .collect();
        for (i, (pending, _)) in pending.into_iter().enumerate() {
            let sum = pending.wait();
            assert!(sum.host().iter().all(|&value| value == i as f32), "collective {i}");
        }
        for i in 0..50 {
            // Nobody waits for it; still nothing may be freed too early.
            drop(comm.all_gather(Tensor::new(vec![i as f32; len], &[len]).to_device(&device)));
        }
        device.synchronize();
    }
}
