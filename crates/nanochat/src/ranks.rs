//! Distributes work among ranks: by number, where item i belongs to rank i mod world, or by size. The result of an item
//! must not depend on the rank, so that any number of ranks gives the result of one.

use nanochat_tensor::Comm;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Returns the numbers below `n` that belong to this rank.
pub fn mine(comm: &Comm, n: usize) -> impl Iterator<Item = usize> + Clone + use<> {
    (comm.rank()..n).step_by(comm.world_size())
}

/// Returns the items of an iterator that belong to this rank. The whole iterator is consumed, so that every rank ends
/// at the same position.
pub fn mine_of<T, E>(
    comm: &Comm,
    items: impl Iterator<Item = Result<T, E>>,
) -> impl Iterator<Item = Result<T, E>> {
    let (rank, world) = (comm.rank(), comm.world_size());
    let is_mine = move |(i, item): &(usize, Result<T, E>)| i % world == rank || item.is_err();
    items.enumerate().filter(is_mine).map(|(_, item)| item)
}

/// Gathers the results of all ranks for items distributed by number. Every rank gets all of them in the order of the
/// items.
pub fn gather<T: Serialize + DeserializeOwned>(comm: &Comm, mine: Vec<T>) -> Vec<T> {
    let by_rank = gather_by_rank(comm, mine);
    let (world, n) = (by_rank.len(), by_rank.iter().map(Vec::len).sum());
    in_order(by_rank, (0..n).map(|i| i % world))
}

/// A distribution of items by size, since all ranks wait for the one with the most work.
pub struct Shares {
    /// The rank of each item.
    ranks: Vec<usize>,
    rank: usize,
}

impl Shares {
    /// Deals out items from the largest to the smallest, with the order of the ranks alternating, so that ranks get
    /// equally many items and nearly equal total sizes.
    pub fn by_size(comm: &Comm, sizes: impl IntoIterator<Item = usize>) -> Shares {
        let sizes: Vec<usize> = sizes.into_iter().collect();
        let mut largest_first: Vec<usize> = (0..sizes.len()).collect();
        largest_first.sort_by_key(|&i| std::cmp::Reverse(sizes[i]));
        let (world, mut ranks) = (comm.world_size(), vec![0; sizes.len()]);
        for (round, items) in largest_first.chunks(world).enumerate() {
            for (place, &i) in items.iter().enumerate() {
                ranks[i] = if round.is_multiple_of(2) { place } else { world - 1 - place };
            }
        }
        Shares { ranks, rank: comm.rank() }
    }

    /// Returns the items of this rank, in order.
    pub fn mine(&self) -> impl Iterator<Item = usize> + '_ {
        self.ranks.iter().enumerate().filter(|(_, rank)| **rank == self.rank).map(|(i, _)| i)
    }

    /// Gathers the results of all ranks. Every rank gets all of them in the order of the items.
    pub fn gather<T: Serialize + DeserializeOwned>(&self, comm: &Comm, mine: Vec<T>) -> Vec<T> {
        in_order(gather_by_rank(comm, mine), self.ranks.iter().copied())
    }
}

fn gather_by_rank<T: Serialize + DeserializeOwned>(comm: &Comm, mine: Vec<T>) -> Vec<Vec<T>> {
    if comm.world_size() == 1 {
        return vec![mine];
    }
    let bytes = postcard::to_stdvec(&mine).expect("plain values always serialize");
    let read = |bytes: Vec<u8>| postcard::from_bytes(&bytes).expect("written by the same program");
    comm.gather_bytes(&bytes).into_iter().map(read).collect()
}

fn in_order<T>(by_rank: Vec<Vec<T>>, ranks: impl Iterator<Item = usize>) -> Vec<T> {
    let mut by_rank: Vec<_> = by_rank.into_iter().map(Vec::into_iter).collect();
    ranks.map(|rank| by_rank[rank].next().expect("each rank did its items")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::on_ranks;

    #[test]
    fn items_come_back_in_their_order() {
        for (world, n) in [(1, 3), (2, 5), (3, 2), (4, 0)] {
            let gathered = on_ranks(world, |comm| {
                let made: Vec<(usize, f64)> = mine(&comm, n).map(|i| (i, 1.0 / i as f64)).collect();
                gather(&comm, made)
            });
            let want: Vec<_> = (0..n).map(|i| (i, 1.0 / i as f64)).collect();
            assert_eq!(gathered, vec![want; world]);
        }
    }

    #[test]
    fn shares_by_size_are_of_one_size_and_come_back_in_order() {
        let mut rng = nanochat_tensor::Rng::new(&[1]);
        let sizes: Vec<usize> = (0..501).map(|_| 10 + rng.below(3_000)).collect();
        for world in [1, 2, 3, 8] {
            let shares = on_ranks(world, |comm| {
                let shares = Shares::by_size(&comm, sizes.iter().copied());
                let mine: Vec<usize> = shares.mine().collect();
                assert!(mine.is_sorted());
                assert_eq!(shares.gather(&comm, mine.clone()), (0..sizes.len()).collect::<Vec<_>>());
                (mine.len(), mine.iter().map(|&i| sizes[i]).sum::<usize>())
            });
            let [fewest, most] = [shares.iter().min(), shares.iter().max()].map(|share| share.unwrap().0);
            assert!(most - fewest <= 1, "{shares:?}");
            let (total, most) =
                (sizes.iter().sum::<usize>(), shares.iter().map(|share| share.1).max().unwrap());
            assert!(most <= total / world + 3_000, "{shares:?}");
        }
    }
}
