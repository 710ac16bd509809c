//! A merge of byte-pair encoding, and the numbers that stand for pairs.

/// A merge: the tokens `left` and `right` become the token `merged`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Merge {
    pub left: u32,
    pub right: u32,
    pub merged: u32,
}

/// Two numbers as one, ordered by the first.
pub(crate) fn joined(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}
