//! Which page of the cache belongs to whom (PagedAttention, Kwon et al. 2023), and which pages hold a beginning that
//! a later prompt may share. Numbers only: the keys and values lie with the backend.
//!
//! A page is *owned* by one or more sequences, or *idle* (nobody's, but it holds a known beginning and waits
//! to be found or overwritten, the longest unused first), or free. Only full pages are found by
//! their tokens. A partial page may be shared too, by samples of one prompt; it is copied when one of them goes on.

use std::collections::{BTreeMap, HashMap};

use nanochat_tensor::PAGE;

/// One sequence's part of the cache.
#[derive(Debug, Default)]
pub struct Sequence {
    pages: Vec<u32>,
    len: usize,
    /// Full pages that can be found, and the name of what they hold together.
    known: usize,
    beginning: Beginning,
}

impl Sequence {
    /// Tokens whose keys and values are in the cache, or are about to be written.
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

/// Names some tokens from the start of a sequence; 0 is the empty beginning. Names are never used again.
type Beginning = u64;

/// Whose a sequence is. Nobody finds what another's sequences hold.
pub type Owner = u64;

/// What a full page is found by: whose it is, the beginning before it and its own tokens.
type Key = (Owner, Beginning, [u32; PAGE]);

/// Page `to` must become a copy of page `from` before anything is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageCopy {
    pub from: u32,
    pub to: u32,
}

/// There are not enough pages; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

pub struct Pages {
    capacity: usize,
    /// Sequences that own each page handed out so far.
    owners: Vec<u32>,
    free: Vec<u32>,
    known: Option<KnownPages>,
}

/// Full pages by what they hold.
#[derive(Default)]
struct KnownPages {
    found_by: HashMap<Key, (Beginning, u32)>,
    key_of: HashMap<u32, Key>,
    /// Idle pages, the longest unused first.
    idle: BTreeMap<u64, u32>,
    idle_since: HashMap<u32, u64>,
    clock: u64,
    names: Beginning,
}

impl Pages {
    /// `capacity` pages in all. `finds_prefixes`: whether pages are kept for later prompts.
    pub fn new(capacity: usize, finds_prefixes: bool) -> Pages {
        let known = finds_prefixes.then(KnownPages::default);
        Pages { capacity, owners: Vec::new(), free: Vec::new(), known }
    }

    /// A sequence of the longest beginning of `ids` that `owner` has in the cache and that leaves at least one token to
    /// be computed.
    pub fn find_prefix(&mut self, owner: Owner, ids: &[u32]) -> Sequence {
        let mut sequence = Sequence::default();
        let Some(known) = &mut self.known else { return sequence };
        let (full, _) = ids[..ids.len().saturating_sub(1)].as_chunks::<PAGE>();
        for tokens in full {
            let key = (owner, sequence.beginning, *tokens);
            let Some(&(beginning, page)) = known.found_by.get(&key) else { break };
            known.wake(page);
            self.owners[page as usize] += 1;
            sequence.pages.push(page);
            sequence.beginning = beginning;
        }
        sequence.known = sequence.pages.len();
        sequence.len = sequence.known * PAGE;
        sequence
    }

    /// A second sequence with the same past; nothing is copied yet.
    pub fn fork(&mut self, sequence: &Sequence) -> Sequence {
        sequence.pages.iter().for_each(|&page| self.owners[page as usize] += 1);
        Sequence { pages: sequence.pages.clone(), ..*sequence }
    }

    pub fn release(&mut self, sequence: Sequence) {
        // From the end: a page is of no use without those before it, so it must be overwritten first.
        sequence.pages.into_iter().rev().for_each(|page| self.disown(page));
    }

    /// Lengthens `sequence` by `tokens`, whose keys and values are then to be written.
    pub fn extend(&mut self, sequence: &mut Sequence, tokens: usize) -> Result<Option<PageCopy>, Full> {
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

    /// Makes the full pages of `sequence`, which holds `ids` and has been written, known to `owner`.
    pub fn remember(&mut self, owner: Owner, sequence: &mut Sequence, ids: &[u32]) {
        let Some(known) = &mut self.known else { return };
        let (full, _) = ids[..sequence.len].as_chunks::<PAGE>();
        for (tokens, &page) in full.iter().zip(&sequence.pages).skip(sequence.known) {
            // Where another page already holds the same, that one is found and this one stays private.
            sequence.beginning = known.add((owner, sequence.beginning, *tokens), page);
            sequence.known += 1;
        }
    }

    /// Pages that some sequence owns.
    pub fn in_use(&self) -> usize {
        self.owners.len() - self.free.len() - self.idle()
    }

    /// Pages that nobody owns but a prompt may find.
    pub fn idle(&self) -> usize {
        self.known.as_ref().map_or(0, |known| known.idle.len())
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Pages that can be had: never used, free, or idle.
    pub fn available(&self) -> usize {
        self.capacity - self.in_use()
    }

    /// One more than the largest page handed out so far.
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
    fn add(&mut self, key: Key, page: u32) -> Beginning {
        if let Some(&(beginning, _)) = self.found_by.get(&key) {
            return beginning;
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
        let mut pages = Pages::new(10, false);
        let mut a = Sequence::default();
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
        let mut pages = Pages::new(2, false);
        let (mut a, mut b) = (Sequence::default(), Sequence::default());
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
    fn a_beginning_is_found_page_by_page_and_leaves_a_token() {
        let mut pages = Pages::new(8, true);
        let ids = tokens(0, 3 * PAGE);
        let mut a = Sequence::default();
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
        let mut pages = Pages::new(8, true);
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
        let mut pages = Pages::new(4, true);
        let write = |pages: &mut Pages, ids: &[u32]| {
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
        let found = |pages: &mut Pages, ids: &[u32]| {
            let sequence = pages.find_prefix(0, &[ids, &[0]].concat());
            let len = sequence.len();
            pages.release(sequence);
            len / PAGE
        };
        assert_eq!((found(&mut pages, &a), found(&mut pages, &b)), (1, 2));
        assert_eq!(pages.idle(), 4);
    }
}
