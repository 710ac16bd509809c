//! Ranks that are threads of one process, for tests of sharded work.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::{Channel, Comm, Lost};

/// One rank, with a channel to and from every rank.
struct Thread {
    rank: usize,
    to: Vec<Sender<Vec<u8>>>,
    from: Vec<Mutex<Receiver<Vec<u8>>>>,
}

/// Makes the ranks of one run, one for each thread. A thread that ends drops its channels, which the others notice.
pub fn in_process(world_size: usize) -> Vec<Comm> {
    assert!(world_size > 0, "there is at least one rank");
    let mut threads: Vec<Thread> =
        (0..world_size).map(|rank| Thread { rank, to: Vec::new(), from: Vec::new() }).collect();
    for from in 0..world_size {
        for to in 0..world_size {
            let (sender, receiver) = channel();
            threads[from].to.push(sender);
            threads[to].from.push(Mutex::new(receiver));
        }
    }
    threads.into_iter().map(Comm::over).collect()
}

impl Channel for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.to.len()
    }

    fn exchange(&self, parts: &[&[u8]]) -> Result<Vec<Vec<u8>>, Lost> {
        let gone = |rank: usize| Lost(format!("rank {rank} has ended"));
        for (rank, (to, part)) in self.to.iter().zip(parts).enumerate() {
            to.send(part.to_vec()).map_err(|_| gone(rank))?;
        }
        let receive = |(rank, from): (usize, &Mutex<Receiver<Vec<u8>>>)| {
            from.lock().unwrap_or_else(|e| e.into_inner()).recv().map_err(|_| gone(rank))
        };
        self.from.iter().enumerate().map(receive).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;

    use super::*;
    use crate::Tensor;
    use crate::comm::lost;

    /// Runs `work` on all ranks in parallel; returns the results in rank order.
    fn on_ranks<T: Send>(world_size: usize, work: impl Fn(Comm) -> T + Sync) -> Vec<T> {
        thread::scope(|scope| {
            let start = |comm| scope.spawn(|| work(comm));
            let threads: Vec<_> = in_process(world_size).into_iter().map(start).collect();
            threads.into_iter().map(|thread| thread.join().expect("a rank failed")).collect()
        })
    }

    /// Returns a rank's values: whole numbers, so that sums are exact in any order.
    fn values(rank: usize, len: usize) -> Vec<f32> {
        (0..len).map(|i| (100 * rank + i) as f32).collect()
    }

    #[test]
    fn tensors_are_summed_and_put_together_in_the_order_of_ranks() {
        for world in [1, 2, 3, 8] {
            let len = 5 * world;
            let done = on_ranks(world, |comm| {
                let full = Tensor::new(values(comm.rank(), len), &[len]);
                let part = comm.reduce_scatter(full.clone()).wait();
                let all = comm.all_gather(part.clone()).wait();
                [part, all, comm.all_reduce(full).wait()].map(|tensor| tensor.data().to_vec())
            });
            let sum: Vec<f32> = (0..len).map(|i| (0..world).map(|rank| values(rank, len)[i]).sum()).collect();
            for (rank, [part, gathered, reduced]) in done.iter().enumerate() {
                assert_eq!(part, &sum[5 * rank..][..5], "rank {rank} of {world}");
                assert_eq!([gathered, reduced], [&sum, &sum], "rank {rank} of {world}");
            }
        }
    }

    #[test]
    fn values_of_the_host_reach_every_rank() {
        let done = on_ranks(3, |comm| {
            let rank = comm.rank();
            let mut sums = [rank as f64, 0.5];
            comm.sum_f64(&mut sums);
            comm.barrier();
            let all = comm.gather_bytes(&vec![rank as u8; rank]);
            (sums, all, comm.broadcast_bytes(2, vec![rank as u8; 4]))
        });
        for (sums, all, root) in done {
            assert_eq!((sums, root), ([3.0, 1.5], vec![2; 4]));
            assert_eq!(all, [vec![], vec![1], vec![2, 2]]);
        }
    }

    #[test]
    fn a_rank_that_ends_is_named_by_the_others() {
        let sentences = on_ranks(3, |comm| {
            let work = || {
                if comm.rank() != 1 {
                    comm.barrier()
                }
            };
            let panic = catch_unwind(AssertUnwindSafe(work)).err()?;
            drop(comm);
            lost(&*panic).map(Lost::to_string)
        });
        assert_eq!(sentences[1], None);
        assert!(sentences.iter().flatten().any(|sentence| sentence.contains("rank 1")), "{sentences:?}");
    }
}
