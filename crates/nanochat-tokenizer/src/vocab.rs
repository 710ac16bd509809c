//! The bytes of every token by id, in one allocation.

/// Largest number of ids a file may use: 16 times the largest vocabularies in use. Bounds what a hostile
/// file with one huge id can make us allocate.
pub(crate) const MAX_VOCAB: usize = 1 << 22;

/// Bytes of the tokens 0, 1, 2, …; an id that no token has holds no bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vocab {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Vocab {
    /// The 256 bytes, each under its own value.
    pub fn of_bytes() -> Vocab {
        Vocab { bytes: (0..=255).collect(), ends: (1..=256).collect() }
    }

    /// Gives `bytes` the next id.
    pub fn push(&mut self, bytes: &[u8]) -> u32 {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(u32::try_from(self.bytes.len()).expect("a vocabulary under 4 GiB"));
        self.ends.len() as u32 - 1
    }

    /// Ids in use, holes included.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn get(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        let end = *self.ends.get(id)? as usize;
        let start = if id == 0 { 0 } else { self.ends[id - 1] as usize };
        (start < end).then(|| &self.bytes[start..end])
    }

    /// All tokens in id order, without holes.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &[u8])> {
        (0..self.len() as u32).filter_map(|id| Some((id, self.get(id)?)))
    }
}
