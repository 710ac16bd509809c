//! The tokens beside the occurrences of the pair being merged, on one side: a count and positions for each token, in a
//! table by id, so that pairs are looked up once per neighbour and not once per occurrence.

/// How often a pair occurs, and where it did when it was entered, in ascending order: some positions may
/// be stale.
#[derive(Default)]
pub(crate) struct Occurrences {
    pub count: u64,
    pub positions: Vec<u32>,
}

#[derive(Default)]
pub(crate) struct Neighbours {
    /// The occurrences by token id; zero for all but `ids`.
    counts: Vec<Occurrences>,
    ids: Vec<u32>,
    /// The id and position of each sighting, in order.
    sights: Vec<(u32, u32)>,
}

impl Neighbours {
    /// Records that the token `id` is beside an occurrence with count `count`; the pair of both is at `at`.
    #[inline]
    pub fn see(&mut self, id: u32, at: u32, count: u64) {
        if self.counts.len() <= id as usize {
            self.counts.resize_with(id as usize + 1, Occurrences::default);
        }
        let known = &mut self.counts[id as usize].count;
        if *known == 0 {
            self.ids.push(id);
        }
        *known += count;
        self.sights.push((id, at));
    }

    /// Returns all neighbours, with positions for those seen at least `floor` times; clears the table.
    pub fn take(&mut self, floor: u64) -> Vec<(u32, Occurrences)> {
        for (id, at) in self.sights.drain(..) {
            let known = &mut self.counts[id as usize];
            if known.count >= floor {
                known.positions.push(at);
            }
        }
        let counts = &mut self.counts;
        self.ids.drain(..).map(|id| (id, std::mem::take(&mut counts[id as usize]))).collect()
    }
}
