//! The memory budget for the pages of a row group, shared by its columns.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parquet::errors::Result;

use super::no;

/// The maximum bytes of packed pages, unpacked pages and dictionaries. With the rows read from them (16 MiB and one of
/// 64 MiB) and what a command holds besides, memory stays under a GiB. Writers cut pages at one MB or, some, after
/// 1,024 rows.
pub const MAX_HELD: usize = 640 << 20;

#[derive(Clone, Debug, Default)]
pub struct Budget(Arc<Account>);

#[derive(Debug, Default)]
struct Account {
    held: AtomicUsize,
    row: AtomicUsize,
}

/// Bytes taken from a budget, returned to it when dropped.
#[derive(Debug)]
pub struct Held {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    pub fn take(&self, bytes: usize) -> Result<Held> {
        let mut held = Held { budget: self.clone(), bytes: 0 };
        held.grow(bytes)?;
        Ok(held)
    }

    /// Returns the number of the row being read. Memory for its lists is held until the next row.
    pub fn row(&self) -> usize {
        self.0.row.load(Relaxed)
    }

    pub fn next_row(&self) {
        self.0.row.fetch_add(1, Relaxed);
    }
}

impl Held {
    pub fn grow(&mut self, bytes: usize) -> Result<()> {
        let account = &self.budget.0;
        let all = account.held.load(Relaxed).saturating_add(bytes);
        if all > MAX_HELD {
            let (all, most) = (all >> 20, MAX_HELD >> 20);
            return Err(no(format!(
                "its pages take {all} MiB of memory at once, more than {most}; write it with smaller pages"
            )));
        }
        account.held.fetch_add(bytes, Relaxed);
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.0.held.fetch_sub(self.bytes, Relaxed);
    }
}
