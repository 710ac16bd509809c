//! The bytes of every token by id, in one allocation.

/// The largest number of ids a file may use: 16 times the largest vocabularies in use. Limits the memory that a hostile
/// file with one huge id can make us allocate.
pub(crate) const MAX_VOCAB: usize = 1 << 22;

/// The bytes of the tokens 0, 1, 2, …; empty for an id without a token.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vocab {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Vocab {
    /// Makes a vocabulary of the 256 bytes, each with its value as id.
    pub fn of_bytes() -> Vocab {
        Vocab { bytes: (0..=255).collect(), ends: (1..=256).collect() }
    }

    /// Adds `bytes` under the next id.
    pub fn push(&mut self, bytes: &[u8]) -> u32 {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(u32::try_from(self.bytes.len()).expect("a vocabulary under 4 GiB"));
        self.ends.len() as u32 - 1
    }

    /// Returns the number of ids, gaps included.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn get(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        let end = *self.ends.get(id)? as usize;
        let start = if id == 0 { 0 } else { self.ends[id - 1] as usize };
        (start < end).then(|| &self.bytes[start..end])
    }

    /// Returns all tokens in id order, without gaps.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &[u8])> {
        (0..self.len() as u32).filter_map(|id| Some((id, self.get(id)?)))
    }
}
