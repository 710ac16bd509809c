//! Tracks which sequences own each page of the cache (PagedAttention, Kwon et al. 2023), and which pages hold a prefix
//! that a later prompt may share. The keys and values themselves are in the backend.
//!
//! A page is *owned* by one or more sequences, *idle* (owned by none, but it holds a known prefix and can be found or
//! overwritten, least recently used first), or free. Only full pages can be found by their tokens. A partial page may
//! also be shared, by samples of one prompt; it is copied when one of them continues.

use std::collections::{BTreeMap, HashMap};

use nanochat_tensor::PAGE;

/// The pages of one sequence.
#[derive(Debug, Default)]
pub struct PagedSequence {
    pages: Vec<u32>,
    len: usize,
    /// The number of leading full pages that can be found, and the id of the prefix that they hold.
    known: usize,
    prefix: PrefixId,
}

impl PagedSequence {
    /// Returns the number of tokens whose keys and values are in the cache or will be written next.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn pages(&self) -> &[u32] {
        &self.pages
    }
}

/// The id of a prefix; 0 is the empty one. Ids are never reused.
type PrefixId = u64;

/// The owner of a sequence. Prefixes are shared only within one owner.
pub type Owner = u64;

/// The key by which a full page is found: its owner, the prefix before it and its own tokens.
type Key = (Owner, PrefixId, [u32; PAGE]);

/// A copy to make: page `to` must become a copy of page `from` before anything is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageCopy {
    pub from: u32,
    pub to: u32,
}

/// The error that there are not enough pages; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

pub struct PageTable {
    capacity: usize,
    /// The number of sequences that own each page handed out so far.
    owners: Vec<u32>,
    free: Vec<u32>,
    known: Option<KnownPages>,
}

/// The full pages by their contents.
#[derive(Default)]
struct KnownPages {
    found_by: HashMap<Key, (PrefixId, u32)>,
    key_of: HashMap<u32, Key>,
    /// The idle pages, least recently used first.
    idle: BTreeMap<u64, u32>,
    idle_since: HashMap<u32, u64>,
    clock: u64,
    names: PrefixId,
}

impl PageTable {
    /// Makes a table of `capacity` pages. `finds_prefixes`: whether pages are kept for later prompts.
    pub fn new(capacity: usize, finds_prefixes: bool) -> PageTable {
        let known = finds_prefixes.then(KnownPages::default);
        PageTable { capacity, owners: Vec::new(), free: Vec::new(), known }
    }

    /// Returns a sequence with the longest prefix of `ids` that `owner` has in the cache, leaving at least one token to
    /// compute.
    pub fn find_prefix(&mut self, owner: Owner, ids: &[u32]) -> PagedSequence {
        let mut sequence = PagedSequence::default();
        let Some(known) = &mut self.known else { return sequence };
        let (full, _) = ids[..ids.len().saturating_sub(1)].as_chunks::<PAGE>();
        for tokens in full {
            let key = (owner, sequence.prefix, *tokens);
            let Some(&(prefix, page)) = known.found_by.get(&key) else { break };
            known.wake(page);
            self.owners[page as usize] += 1;
            sequence.pages.push(page);
            sequence.prefix = prefix;
        }
        sequence.known = sequence.pages.len();
        sequence.len = sequence.known * PAGE;
        sequence
    }

    /// Returns a second sequence with the same tokens; nothing is copied yet.
    pub fn fork(&mut self, sequence: &PagedSequence) -> PagedSequence {
        sequence.pages.iter().for_each(|&page| self.owners[page as usize] += 1);
        PagedSequence { pages: sequence.pages.clone(), ..*sequence }
    }

    pub fn release(&mut self, sequence: PagedSequence) {
        // From the end: a page is useless without those before it, so it must be overwritten first.
        sequence.pages.into_iter().rev().for_each(|page| self.disown(page));
    }

    /// Extends `sequence` by `tokens`, whose keys and values are written next. If its partial last page is shared, the
    /// sequence gets a new page instead, and the copy to make is returned.
    pub fn extend(&mut self, sequence: &mut PagedSequence, tokens: usize) -> Result<Option<PageCopy>, Full> {
        let partial = !sequence.len.is_multiple_of(PAGE);
        let shared = sequence.pages.last().copied().filter(|&page| partial && self.owners[page as usize] > 1);
        let new = (sequence.len + tokens).div_ceil(PAGE) - sequence.pages.len();
        if new + usize::from(shared.is_some()) > self.available() {
            return Err(Full);
        }
        let copy = shared.map(|from| {
            let to = self.take();
            self.disown(from);
            *sequence.pages.last_mut().expect("just seen") = to;
            PageCopy { from, to }
        });
        sequence.pages.extend((0..new).map(|_| self.take()));
        sequence.len += tokens;
        Ok(copy)
    }

    /// Makes the full pages of `sequence`, which holds `ids` and has been written, findable by `owner`.
    pub fn remember(&mut self, owner: Owner, sequence: &mut PagedSequence, ids: &[u32]) {
        let Some(known) = &mut self.known else { return };
        let (full, _) = ids[..sequence.len].as_chunks::<PAGE>();
        for (tokens, &page) in full.iter().zip(&sequence.pages).skip(sequence.known) {
            // If another page already holds the same, that one is found and this one stays private.
            sequence.prefix = known.add((owner, sequence.prefix, *tokens), page);
            sequence.known += 1;
        }
    }

    /// Returns the number of pages that any sequence owns.
    pub fn in_use(&self) -> usize {
        self.owners.len() - self.free.len() - self.idle()
    }

    /// Returns the number of pages that nobody owns but a prompt may find.
    pub fn idle(&self) -> usize {
        self.known.as_ref().map_or(0, |known| known.idle.len())
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns the number of pages that can be allocated: never used, free, or idle.
    pub fn available(&self) -> usize {
        self.capacity - self.in_use()
    }

    /// Returns one more than the largest page number handed out so far.
    pub fn touched(&self) -> usize {
        self.owners.len()
    }

    fn take(&mut self) -> u32 {
        let page = self.free.pop().unwrap_or_else(|| {
            if self.owners.len() < self.capacity {
                self.owners.push(0);
                return self.owners.len() as u32 - 1;
            }
            self.known.as_mut().and_then(KnownPages::forget_oldest).expect("the caller asked `available`")
        });
        self.owners[page as usize] = 1;
        page
    }

    fn disown(&mut self, page: u32) {
        let owners = &mut self.owners[page as usize];
        *owners -= 1;
        if *owners == 0 {
            match &mut self.known {
                Some(known) if known.key_of.contains_key(&page) => known.rest(page),
                _ => self.free.push(page),
            }
        }
    }
}

impl KnownPages {
    fn add(&mut self, key: Key, page: u32) -> PrefixId {
        if let Some(&(prefix, _)) = self.found_by.get(&key) {
            return prefix;
        }
        self.names += 1;
        self.found_by.insert(key, (self.names, page));
        self.key_of.insert(page, key);
        self.names
    }

    fn rest(&mut self, page: u32) {
        self.clock += 1;
        self.idle.insert(self.clock, page);
        self.idle_since.insert(page, self.clock);
    }

    fn wake(&mut self, page: u32) {
        if let Some(since) = self.idle_since.remove(&page) {
            self.idle.remove(&since);
        }
    }

    fn forget_oldest(&mut self) -> Option<u32> {
        let (_, page) = self.idle.pop_first()?;
        self.idle_since.remove(&page);
        let key = self.key_of.remove(&page).expect("idle pages are known");
        self.found_by.remove(&key);
        Some(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(from: u32, n: usize) -> Vec<u32> {
        (from..).take(n).collect()
    }

    #[test]
    fn pages_are_shared_until_written_and_freed_once() {
        let mut pages = PageTable::new(10, false);
        let mut a = PagedSequence::default();
        assert_eq!(pages.extend(&mut a, PAGE + 3), Ok(None));
        let mut b = pages.fork(&a);
        assert_eq!(pages.in_use(), 2);
        let copy = pages.extend(&mut b, 1).unwrap().unwrap();
        assert_eq!((copy.from, copy.to), (a.pages[1], b.pages[1]), "the partial page is copied");
        assert_eq!(a.pages[0], b.pages[0], "the full one is not");
        assert_eq!(pages.extend(&mut a, PAGE), Ok(None), "its last owner writes into it");
        assert_eq!(pages.in_use(), 4);
        pages.release(a);
        assert_eq!(pages.in_use(), 2);
        pages.release(b);
        assert_eq!((pages.in_use(), pages.available()), (0, 10));
    }

    #[test]
    fn a_full_cache_changes_nothing() {
        let mut pages = PageTable::new(2, false);
        let (mut a, mut b) = (PagedSequence::default(), PagedSequence::default());
        pages.extend(&mut a, 2 * PAGE - 1).unwrap();
        assert_eq!(pages.extend(&mut b, 1), Err(Full));
        assert_eq!(pages.extend(&mut a, 2), Err(Full));
        assert_eq!((a.len(), b.len(), pages.in_use()), (2 * PAGE - 1, 0, 2));
        let mut c = pages.fork(&a);
        assert_eq!(pages.extend(&mut c, 1), Err(Full), "no page for the copy");
        pages.release(a);
        assert_eq!(pages.extend(&mut c, 1), Ok(None));
    }

    #[test]
    fn a_prefix_is_found_page_by_page_and_leaves_a_token() {
        let mut pages = PageTable::new(8, true);
        let ids = tokens(0, 3 * PAGE);
        let mut a = PagedSequence::default();
        pages.extend(&mut a, ids.len()).unwrap();
        pages.remember(0, &mut a, &ids);
        let owned = a.pages.clone();
        pages.release(a);
        assert_eq!((pages.in_use(), pages.idle(), pages.available()), (0, 3, 8));
        let found = pages.find_prefix(0, &ids);
        assert_eq!((found.len(), found.pages()), (2 * PAGE, &owned[..2]), "the last token is computed");
        assert_eq!(pages.find_prefix(0, &tokens(0, 3 * PAGE + 1)).pages(), &owned[..]);
        let other = [tokens(0, PAGE), tokens(9, 2 * PAGE)].concat();
        assert_eq!(pages.find_prefix(0, &other).pages(), &owned[..1]);
        assert!(pages.find_prefix(0, &tokens(PAGE as u32, 3 * PAGE)).is_empty(), "the same tokens elsewhere");
    }

    #[test]
    fn nobody_finds_the_pages_of_another() {
        let mut pages = PageTable::new(8, true);
        let ids = tokens(0, 2 * PAGE + 1);
        for owner in [1, 2] {
            let mut sequence = pages.find_prefix(owner, &ids);
            assert!(sequence.is_empty(), "owner {owner}");
            pages.extend(&mut sequence, ids.len()).unwrap();
            pages.remember(owner, &mut sequence, &ids);
            pages.release(sequence);
        }
        let [one, two] = [1, 2].map(|owner| pages.find_prefix(owner, &ids));
        assert_eq!((one.len(), two.len()), (2 * PAGE, 2 * PAGE));
        assert!(one.pages().iter().all(|page| !two.pages().contains(page)));
    }

    #[test]
    fn the_longest_unused_end_is_overwritten_first() {
        let mut pages = PageTable::new(4, true);
        let write = |pages: &mut PageTable, ids: &[u32]| {
            let mut sequence = pages.find_prefix(0, ids);
            let missing = ids.len() - sequence.len();
            pages.extend(&mut sequence, missing).unwrap();
            pages.remember(0, &mut sequence, ids);
            pages.release(sequence);
        };
        let (a, b) = (tokens(0, 2 * PAGE), tokens(500, 2 * PAGE));
        write(&mut pages, &a);
        write(&mut pages, &b);
        write(&mut pages, &tokens(900, PAGE));
        let found = |pages: &mut PageTable, ids: &[u32]| {
            let sequence = pages.find_prefix(0, &[ids, &[0]].concat());
            let len = sequence.len();
            pages.release(sequence);
            len / PAGE
        };
        assert_eq!((found(&mut pages, &a), found(&mut pages, &b)), (1, 2));
        assert_eq!(pages.idle(), 4);
    }
}
