//! A trie over bytes as a double array (Aoe 1989): a step is one look at one node.

/// No value; also the parent of a free node.
const NONE: u32 = u32::MAX;

/// The parent of the root, which is no real node.
const NOBODY: u32 = u32::MAX - 1;

/// Nodes are in blocks of 256, so that `base ^ byte` stays within the block of `base`.
const BLOCK: usize = 256;

/// The number of blocks with room that are tried for the children of a node. More make blocks fuller and building
/// slower.
const OPEN_BLOCKS: usize = 8;

/// A node. Its child by `byte` is the node `base ^ byte`, if that one names it as its parent.
#[derive(Clone, Copy, Debug)]
struct TrieNode {
    base: u32,
    parent: u32,
    value: u32,
}

const FREE: TrieNode = TrieNode { base: 0, parent: NONE, value: NONE };

/// A map from byte strings to numbers.
#[derive(Clone, Debug)]
pub(crate) struct Trie {
    nodes: Vec<TrieNode>,
}

impl Trie {
    /// Makes the trie of `entries`, which must be sorted by their bytes, not empty and distinct.
    pub fn new(entries: &[(&[u8], u32)]) -> Trie {
        let mut trie = Trie { nodes: vec![FREE; BLOCK] };
        trie.nodes[0].parent = NOBODY;
        // The first nodes of blocks that may have room.
        let mut room = vec![0];
        let mut open = vec![(0, 0, entries)];
        while let Some((node, depth, below)) = open.pop() {
            let (own, below) = match below {
                [(bytes, value), rest @ ..] if bytes.len() == depth => (*value, rest),
                _ => (NONE, below),
            };
            trie.nodes[node].value = own;
            let children: Vec<&[(&[u8], u32)]> = below.chunk_by(|a, b| a.0[depth] == b.0[depth]).collect();
            if children.is_empty() {
                continue;
            }
            let bytes: Vec<u8> = children.iter().map(|child| child[0].0[depth]).collect();
            let base = trie.place(&bytes, &mut room);
            trie.nodes[node].base = base as u32;
            for (byte, child) in bytes.iter().zip(children) {
                let at = base ^ usize::from(*byte);
                trie.nodes[at].parent = node as u32;
                open.push((at, depth + 1, child));
            }
        }
        trie
    }

    /// Returns a base whose nodes for all of `bytes` are free.
    fn place(&mut self, bytes: &[u8], room: &mut Vec<usize>) -> usize {
        for i in (0..room.len()).rev() {
            let block = room[i];
            let free = |at: usize| self.nodes[at].parent == NONE;
            let first = usize::from(bytes[0]);
            let mut bases = (block..block + BLOCK).filter(|at| free(*at)).map(|at| at ^ first);
            if let Some(base) = bases.find(|base| bytes.iter().all(|byte| free(base ^ usize::from(*byte)))) {
                return base;
            }
            if bytes.len() == 1 {
                room.remove(i); // the block is full
            }
        }
        let block = self.nodes.len();
        self.nodes.resize(block + BLOCK, FREE);
        if room.len() == OPEN_BLOCKS {
            room.remove(0);
        }
        room.push(block);
        block
    }

    /// Returns the value and length of the longest entry that is a prefix of `text`.
    #[inline]
    pub fn longest(&self, text: &[u8]) -> Option<(u32, usize)> {
        let (mut node, mut found, mut len) = (0, NONE, 0);
        for (i, byte) in text.iter().enumerate() {
            let child = self.nodes[node].base as usize ^ usize::from(*byte);
            let TrieNode { parent, value, .. } = self.nodes[child];
            if parent as usize != node {
                break;
            }
            if value != NONE {
                (found, len) = (value, i + 1);
            }
            node = child;
        }
        (found != NONE).then_some((found, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn finds_the_longest_entry(
            entries in proptest::collection::btree_map("[a-c\u{0}\u{ff}]{1,6}", any::<u16>(), 0..60),
            text in "[a-d\u{0}\u{ff}]{0,12}",
        ) {
            let entries: BTreeMap<&[u8], u32> =
                entries.iter().map(|(entry, value)| (entry.as_bytes(), u32::from(*value))).collect();
            let sorted: Vec<(&[u8], u32)> = entries.iter().map(|(entry, value)| (*entry, *value)).collect();
            let longest = (1..=text.len()).rev().find_map(|len| Some((*entries.get(&text.as_bytes()[..len])?, len)));
            prop_assert_eq!(Trie::new(&sorted).longest(text.as_bytes()), longest);
        }
    }

    #[test]
    fn many_entries_share_blocks() {
        let words: Vec<Vec<u8>> =
            (0..20_000u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[..3].to_vec()).collect();
        let mut words: Vec<(&[u8], u32)> = words.iter().zip(0..).map(|(word, i)| (&word[..], i)).collect();
        words.sort();
        words.dedup_by_key(|(word, _)| *word);
        let trie = Trie::new(&words);
        assert!(words.iter().all(|(word, value)| trie.longest(word) == Some((*value, 3))));
        let used = trie.nodes.iter().filter(|node| node.parent != NONE).count();
        assert!(used * 2 > trie.nodes.len(), "{used} of {}", trie.nodes.len());
    }
}
