//! The keys and values of every token that generation has seen, in pages shared by all sequences.
//!
//! Pages are counted: samples of one prompt share its pages, and a page is copied only when one of
//! several owners writes into it.

use nanochat_tensor::{CachedRow, KvPages, PAGE, Tensor};

use crate::config::GptConfig;

pub struct KvCache {
    layers: Vec<KvPages>,
    /// How many sequences hold each page; 0: free.
    owners: Vec<u32>,
    free: Vec<u32>,
}

/// One sequence's part of the cache.
#[derive(Debug)]
pub struct Sequence {
    pages: Vec<u32>,
    len: usize,
}

impl Sequence {
    /// Tokens whose keys and values are in the cache.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl KvCache {
    pub fn new(config: &GptConfig) -> KvCache {
        let layers = (0..config.n_layer).map(|_| KvPages::new(config.kv_dim())).collect();
        KvCache { layers, owners: Vec::new(), free: Vec::new() }
    }

    pub fn start(&self) -> Sequence {
        Sequence { pages: Vec::new(), len: 0 }
    }

    /// A second sequence with the same past; nothing is copied yet.
    pub fn fork(&mut self, sequence: &Sequence) -> Sequence {
        sequence.pages.iter().for_each(|&page| self.owners[page as usize] += 1);
        Sequence { pages: sequence.pages.clone(), len: sequence.len }
    }

    pub fn release(&mut self, sequence: Sequence) {
        sequence.pages.into_iter().for_each(|page| self.disown(page));
    }

    /// Lengthens `sequence` by `tokens`, whose keys and values are then to be written.
    pub fn extend(&mut self, sequence: &mut Sequence, tokens: usize) {
        let last_is_partial = !sequence.len.is_multiple_of(PAGE);
        if let Some(&page) = sequence.pages.last().filter(|_| last_is_partial)
            && self.owners[page as usize] > 1
        {
            let own = self.take_page();
            self.layers.iter_mut().for_each(|layer| layer.copy_page(page, own));
            self.disown(page);
            *sequence.pages.last_mut().expect("just seen") = own;
        }
        sequence.len += tokens;
        while sequence.pages.len() * PAGE < sequence.len {
            sequence.pages.push(self.take_page());
        }
    }

    /// Writes the keys and values (N, KVH·D) of N tokens, each at a position of a sequence.
    pub fn write<'a>(
        &mut self,
        layer: usize,
        at: impl Iterator<Item = (&'a Sequence, usize)>,
        k: &Tensor,
        v: &Tensor,
    ) {
        let width = k.len() / at_least_one(k.shape()[0] * k.shape()[1]);
        let (k, v) = (k.host(), v.host());
        let rows = k.chunks_exact(width).zip(v.chunks_exact(width));
        for ((sequence, position), (k, v)) in at.zip(rows) {
            self.layers[layer].write(&sequence.pages, position, k, v);
        }
    }

    pub fn layer(&self, layer: usize) -> &KvPages {
        &self.layers[layer]
    }

    /// What the last token of `sequence` sees.
    pub fn row<'a>(&self, sequence: &'a Sequence) -> CachedRow<'a> {
        CachedRow { pages: &sequence.pages, len: sequence.len }
    }

    /// Pages that some sequence holds.
    pub fn pages_in_use(&self) -> usize {
        self.owners.len() - self.free.len()
    }

    fn take_page(&mut self) -> u32 {
        let page = self.free.pop().unwrap_or_else(|| {
            let pages = self.owners.len();
            // Growing by half keeps the copies rare without doubling the memory of a long run.
            let more = (pages / 2).max(8);
            self.layers.iter_mut().for_each(|layer| layer.grow(pages + more));
            self.owners.resize(pages + more, 0);
            self.free.extend((pages as u32 + 1..(pages + more) as u32).rev());
            pages as u32
        });
        self.owners[page as usize] = 1;
        page
    }

    fn disown(&mut self, page: u32) {
        let owners = &mut self.owners[page as usize];
        *owners -= 1;
        if *owners == 0 {
            self.free.push(page);
        }
    }
}

fn at_least_one(n: usize) -> usize {
    n.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_shared_until_written_and_freed_once() {
        let config = GptConfig::from_depth(1, 10, 8).unwrap();
        let mut cache = KvCache::new(&config);
        let mut a = cache.start();
        cache.extend(&mut a, PAGE + 3);
        assert_eq!(cache.pages_in_use(), 2);
        let mut b = cache.fork(&a);
        assert_eq!(cache.pages_in_use(), 2);
        cache.extend(&mut b, 1);
        assert_eq!(cache.pages_in_use(), 3, "the partial page was copied, the full one not");
        assert_eq!(a.pages[0], b.pages[0]);
        assert_ne!(a.pages[1], b.pages[1]);
        cache.extend(&mut a, PAGE);
        assert_eq!(cache.pages_in_use(), 4);
        cache.release(a);
        assert_eq!(cache.pages_in_use(), 2);
        cache.release(b);
        assert_eq!(cache.pages_in_use(), 0);
    }
}
