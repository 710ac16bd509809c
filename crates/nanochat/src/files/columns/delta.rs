//! Checks streams of DELTA_BINARY_PACKED before the parquet crate allocates memory for the numbers that they claim:
//!
//! ```text
//! varint block size, varint miniblocks a block, varint count, zigzag first
//! a block: zigzag least difference, a byte for the width of each miniblock, miniblocks of (difference − least)
//! ```

use super::thrift::Thrift;

/// The maximum numbers in a block; writers use 128.
const MAX_BLOCK: u64 = 1 << 20;

/// Totals over the numbers of a stream; negative ones count as 0.
#[derive(Debug, Default, PartialEq)]
pub struct Numbers {
    pub count: u64,
    pub sum: u64,
    pub largest: u64,
}

/// Returns how many numbers the stream at the start of `bytes` claims, or None if it is no valid stream.
pub fn count(bytes: &[u8]) -> Option<u64> {
    Some(DeltaHead::read(&mut Thrift(bytes))?.count)
}

/// Reads all numbers, 32 bits each, of a stream of up to `most` and moves `bytes` past it. Returns None if the stream
/// is invalid or claims more.
pub fn numbers(bytes: &mut &[u8], most: u64) -> Option<Numbers> {
    let mut rest = Thrift(bytes);
    let head = DeltaHead::read(&mut rest).filter(|head| head.count <= most)?;
    let mut numbers = Numbers::default();
    let mut last = head.first;
    if head.count > 0 {
        numbers.add(last);
    }
    while numbers.count < head.count {
        let least = rest.int()?;
        let widths = rest.pass(head.miniblocks)?;
        for &width in widths {
            if numbers.count == head.count {
                break; // the rest of the block is not stored
            }
            let packed = rest.pass(u64::from(width) * head.in_miniblock / 8).filter(|_| width <= 32)?;
            for i in 0..head.in_miniblock.min(head.count - numbers.count) {
                last = last.wrapping_add(least).wrapping_add(bits(packed, i * u64::from(width), width));
                numbers.add(i64::from(last as i32));
            }
        }
    }
    *bytes = rest.0;
    Some(numbers)
}

struct DeltaHead {
    miniblocks: u64,
    in_miniblock: u64,
    count: u64,
    first: i64,
}

impl DeltaHead {
    fn read(bytes: &mut Thrift) -> Option<DeltaHead> {
        let (block, miniblocks) = (bytes.varint()?, bytes.varint()?);
        let is_right = block <= MAX_BLOCK && miniblocks > 0 && block % miniblocks == 0;
        let in_miniblock = is_right.then(|| block / miniblocks).filter(|n| *n > 0 && n % 32 == 0)?;
        Some(DeltaHead { miniblocks, in_miniblock, count: bytes.varint()?, first: bytes.int()? })
    }
}

impl Numbers {
    fn add(&mut self, number: i64) {
        let number = number.max(0) as u64;
        self.count += 1;
        self.sum = self.sum.saturating_add(number);
        self.largest = self.largest.max(number);
    }
}

/// Returns `width` bits, up to 32, starting at bit `at`; the lowest bit of a byte is its first.
fn bits(packed: &[u8], at: u64, width: u8) -> i64 {
    let (byte, shift) = ((at / 8) as usize, at % 8);
    let mut word = [0; 8];
    let there = packed.len().min(byte + 8) - byte.min(packed.len());
    word[..there].copy_from_slice(&packed[byte..byte + there]);
    ((u64::from_le_bytes(word) >> shift) & ((1 << width) - 1)) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_counted_and_summed_to_the_end_of_their_stream() {
        // 7, 5, 3, 1, 2, 3, 4, 5: the example of the format's specification, one block of four miniblocks of 32.
        let stream = [128, 1, 4, 8, 14, 3, 2, 0, 0, 0, 0xc0, 0x3f, 0, 0, 0, 0, 0, 0];
        let mut bytes = &[&stream[..], b"after"].concat()[..];
        assert_eq!(count(bytes), Some(8));
        let numbers = numbers(&mut bytes, 8).unwrap();
        assert_eq!(numbers, Numbers { count: 8, sum: 30, largest: 7 });
        assert_eq!(bytes, b"after");
        for end in 0..stream.len() {
            assert!(super::numbers(&mut &stream[..end], 8).is_none(), "cut at {end}");
        }
        assert!(super::numbers(&mut &stream[..], 7).is_none(), "more than there may be");
    }

    #[test]
    fn widths_from_0_to_32_bits_are_read() {
        let packed: Vec<u8> = (0..32).map(|i| 37 * i as u8 + 11).collect();
        for width in 0..=32u8 {
            for i in 0..packed.len() as u64 * 8 / 33 {
                let at = i * u64::from(width);
                let bit = |n: u64| i64::from(packed[(n / 8) as usize] >> (n % 8) & 1);
                let slowly: i64 = (0..u64::from(width)).map(|b| bit(at + b) << b).sum();
                assert_eq!(bits(&packed, at, width), slowly, "{width} bits at {at}");
            }
        }
    }

    #[test]
    fn what_claims_more_than_it_has_is_no_stream() {
        let forever = [128, 1, 4, 128, 128, 128, 128, 128, 32, 0];
        assert_eq!(count(&forever), Some(1 << 40));
        assert!(numbers(&mut &forever[..], 1 << 24).is_none());
        let wide = [128, 128, 128, 128, 16, 1, 2, 0, 0, 0]; // a block of 2^32
        assert_eq!((count(&wide), count(&[128, 1, 0, 8, 0]), count(&[])), (None, None, None));
    }
}
