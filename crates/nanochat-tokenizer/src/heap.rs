//! Encodes by merging, for vocabularies whose order of merges `backtrack.rs` does not support: tokens are a linked list
//! over the positions of their first bytes, and merges a heap of (rank, position).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use hashbrown::HashMap;

use crate::merge::joined;

/// The value for no merge, above every real (rank, id).
const NO_MERGE: u64 = u64::MAX;

/// A map from (left, right) in one number to (rank, merged id) in one number, whose minimum is the next merge.
pub(crate) type Ranks = HashMap<u64, u64>;

/// Appends the tokens of a piece to `out`; `ids` are those of its single bytes.
pub(crate) fn encode(ranks: &Ranks, mut ids: Vec<u32>, out: &mut Vec<u32>) {
    let find = |left: u32, right: u32| ranks.get(&joined(left, right)).copied().unwrap_or(NO_MERGE);
    let n = ids.len();
    let mut merges: Vec<u64> = ids.windows(2).map(|pair| find(pair[0], pair[1])).collect();
    merges.push(NO_MERGE);
    let mut next: Vec<u32> = (1..=n as u32).collect();
    let mut prev: Vec<u32> = (0..n as u32).map(|i| i.saturating_sub(1)).collect();
    let entry = |at: usize, merge: u64| (merge & !0xFFFF_FFFF) | at as u64;
    let known = merges.iter().enumerate().filter(|(_, merge)| **merge != NO_MERGE);
    let mut heap: BinaryHeap<Reverse<u64>> =
        known.map(|(at, merge)| Reverse(entry(at, *merge))).collect::<Vec<_>>().into();
    while let Some(Reverse(popped)) = heap.pop() {
        let at = popped as u32 as usize;
        // An entry is stale if its position has another merge by now.
        if merges[at] == NO_MERGE || entry(at, merges[at]) != popped {
            continue;
        }
        let right = next[at] as usize;
        ids[at] = merges[at] as u32;
        merges[right] = NO_MERGE;
        next[at] = next[right];
        if let Some(back) = prev.get_mut(next[at] as usize) {
            *back = at as u32;
        }
        let neighbours = if at > 0 { [prev[at] as usize, at] } else { [at, at] };
        for left in neighbours {
            merges[left] = match ids.get(next[left] as usize) {
                Some(right) => find(ids[left], *right),
                None => NO_MERGE,
            };
            if merges[left] != NO_MERGE {
                heap.push(Reverse(entry(left, merges[left])));
            }
        }
    }
    let mut at = 0;
    while at < n {
        out.push(ids[at]);
        at = next[at] as usize;
    }
}
