//! A parser for the part of Thrift's compact protocol that is needed to check the claims of a parquet file. All
//! functions return None for invalid bytes.

/// The maximum nesting of structs; the parquet format has six levels.
const MAX_DEPTH: usize = 16;

/// The protocol's numbers for types of values.
pub const I32: u8 = 5;
pub const LIST: u8 = 9;
pub const STRUCT: u8 = 12;

/// The unread rest of a message.
pub struct Thrift<'a>(pub &'a [u8]);

impl<'a> Thrift<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    pub fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// Reads a signed number of any width.
    pub fn int(&mut self) -> Option<i64> {
        let zigzag = self.varint()?;
        Some((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    /// Moves past the next `n` bytes and returns them.
    pub fn pass(&mut self, n: u64) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(usize::try_from(n).ok()?)?;
        self.0 = rest;
        Some(bytes)
    }

    /// Reads the head of a list and returns the type and the number of its items, which follow.
    pub fn list(&mut self) -> Option<(u8, u64)> {
        let head = self.byte()?;
        let n = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
        Some((head & 15, n))
    }

    /// Reads a struct. For each field, `known` gets its number, its type and the message, and returns whether it has
    /// read the value; other values are skipped.
    pub fn fields(&mut self, mut known: impl FnMut(i64, u8, &mut Self) -> Option<bool>) -> Option<()> {
        self.fields_at(0, &mut known)
    }

    fn fields_at(
        &mut self,
        depth: usize,
        known: &mut dyn FnMut(i64, u8, &mut Self) -> Option<bool>,
    ) -> Option<()> {
        let mut id = 0;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Some(());
            }
            id = if head >> 4 == 0 { self.int()? } else { id.wrapping_add(i64::from(head >> 4)) };
            let kind = head & 15;
            // A flag's value is its type, so nothing follows.
            if !known(id, kind, self)? && !matches!(kind, 1 | 2) {
                self.skip(kind, depth)?;
            }
        }
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        if depth == MAX_DEPTH {
            return None;
        }
        match kind {
            1..=3 => self.pass(1).map(drop),
            4..=6 => self.varint().map(drop),
            7 => self.pass(8).map(drop),
            8 => self.varint().and_then(|n| self.pass(n)).map(drop),
            LIST | 10 => {
                let (kind, n) = self.list()?;
                (0..n).try_for_each(|_| self.skip(kind, depth + 1))
            }
            STRUCT => self.fields_at(depth + 1, &mut |_, _, _| Some(false)),
            _ => None, // maps are not in the format
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_are_read_and_what_is_unknown_is_passed_over() {
        // 1: -3; 2: "ab"; 3: [1, 2]; 5: true; 6: {1: 7}; 30: 9
        let message =
            [0x15, 5, 0x18, 2, b'a', b'b', 0x19, 0x25, 2, 4, 0x21, 0x1c, 0x15, 14, 0, 0x05, 60, 18, 0, 77];
        let (mut thrift, mut found) = (Thrift(&message), Vec::new());
        let read = thrift.fields(|id, kind, thrift| {
            if kind == I32 {
                found.push((id, thrift.int()?));
            }
            Some(kind == I32)
        });
        assert_eq!((read, found, thrift.0), (Some(()), vec![(1, -3), (30, 9)], &[77u8][..]));
        for end in 0..message.len() - 1 {
            assert!(Thrift(&message[..end]).fields(|_, _, _| Some(false)).is_none(), "cut at {end}");
        }
    }

    #[test]
    fn the_number_after_the_largest_is_the_smallest() {
        // field 2^63 - 1: true; the next one: true
        let message = [0x01, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x11, 0];
        let mut found = Vec::new();
        let read = Thrift(&message).fields(|id, _, _| {
            found.push(id);
            Some(false)
        });
        assert_eq!((read, found), (Some(()), vec![i64::MAX, i64::MIN]));
    }

    #[test]
    fn what_is_made_to_last_or_to_nest_for_ever_is_no_message() {
        for message in [
            [0x1c; 100_000].as_slice(),                                    // structs in structs
            &[0x19; 100_000],                                              // lists in lists
            &[0x19, 0xf5, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],       // a list of 2^49 numbers
            &[0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], // a text of 2^63 bytes
            &[0xff; 100],
        ] {
            assert!(Thrift(message).fields(|_, _, _| Some(false)).is_none());
        }
    }
}
