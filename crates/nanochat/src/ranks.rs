//! Work shared out among ranks by number: item i is rank i mod world's. What becomes of an item must not depend on the
//! rank, so that any number of ranks finds what one would.

use nanochat_tensor::Comm;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The numbers below `n` that are this rank's.
pub fn mine(comm: &Comm, n: usize) -> impl Iterator<Item = usize> + Clone + use<> {
    (comm.rank()..n).step_by(comm.world_size())
}

/// Those of a sequence that are this rank's. All of it is gone through, so that every rank comes to the same place.
pub fn mine_of<T, E>(
    comm: &Comm,
    items: impl Iterator<Item = Result<T, E>>,
) -> impl Iterator<Item = Result<T, E>> {
    let (rank, world) = (comm.rank(), comm.world_size());
    let is_mine = move |(i, item): &(usize, Result<T, E>)| i % world == rank || item.is_err();
    items.enumerate().filter(is_mine).map(|(_, item)| item)
}

/// What every rank made of its items, in the order of the items, on every rank.
pub fn gather<T: Serialize + DeserializeOwned>(comm: &Comm, mine: Vec<T>) -> Vec<T> {
    if comm.world_size() == 1 {
        return mine;
    }
    let bytes = postcard::to_stdvec(&mine).expect("plain values always serialize");
    let read = |bytes: Vec<u8>| postcard::from_bytes::<Vec<T>>(&bytes).expect("written by the same program");
    let mut of_ranks: Vec<_> =
        comm.gather_bytes(&bytes).into_iter().map(|bytes| read(bytes).into_iter()).collect();
    let n: usize = of_ranks.iter().map(ExactSizeIterator::len).sum();
    let world = of_ranks.len();
    (0..n).map(|i| of_ranks[i % world].next().expect("each rank did its items")).collect()
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
}
