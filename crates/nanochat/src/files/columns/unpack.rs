//! Decompresses pages. Each codec writes into a buffer of the size that the page claims, and never past it.

use std::io::{self, Read};

use parquet::basic::Compression;
use parquet::errors::Result;

use super::no;

/// Decompresses `packed` into `unpacked`, which must be filled exactly.
pub fn unpack(codec: Compression, packed: &[u8], unpacked: &mut [u8]) -> Result<()> {
    let size = unpacked.len();
    if size == 0 {
        return Ok(()); // some writers store no bytes for a page without values
    }
    let filled = match codec {
        Compression::UNCOMPRESSED => copy(packed, unpacked),
        Compression::SNAPPY => {
            snap::raw::Decoder::new().decompress(packed, unpacked).map_err(io::Error::other)
        }
        Compression::ZSTD(_) => zstd::bulk::decompress_to_buffer(packed, unpacked),
        Compression::GZIP(_) => fill(flate2::bufread::MultiGzDecoder::new(packed), unpacked),
        Compression::BROTLI(_) => fill(brotli_decompressor::Decompressor::new(packed, 4_096), unpacked),
        Compression::LZ4_RAW => lz4(packed, unpacked),
        Compression::LZ4 => lz4_hadoop(packed, unpacked).map_or_else(|| lz4(packed, unpacked), Ok),
        Compression::LZO => {
            return Err(no("its pages are packed by LZO; write it with zstd, snappy, gzip, brotli or lz4"));
        }
    };
    match filled {
        Ok(filled) if filled == size => Ok(()),
        Ok(filled) => Err(no(format!("a page of {size} bytes unpacks to {filled}"))),
        Err(error) => Err(no(format!("a page of {size} bytes does not unpack ({error})"))),
    }
}

/// Reads until `room` is full or the data ends. Returns the number of bytes, one more than `room` has if there were
/// more.
fn fill(mut reader: impl Read, room: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < room.len() {
        match reader.read(&mut room[filled..])? {
            0 => return Ok(filled),
            n => filled += n,
        }
    }
    Ok(filled + reader.read(&mut [0])?)
}

fn copy(from: &[u8], to: &mut [u8]) -> io::Result<usize> {
    fill(from, to)
}

fn lz4(packed: &[u8], unpacked: &mut [u8]) -> io::Result<usize> {
    lz4_flex::block::decompress_into(packed, unpacked).map_err(io::Error::other)
}

/// Decompresses Hadoop's blocks, each preceded by its two lengths, and returns the bytes written. Returns None if the
/// page is not made of them; early versions of Arrow wrote one bare block under the same codec name.
fn lz4_hadoop(mut packed: &[u8], unpacked: &mut [u8]) -> Option<usize> {
    let mut filled = 0;
    while !packed.is_empty() {
        let (head, rest) = packed.split_at_checked(8)?;
        let length =
            |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("four bytes")) as usize;
        let (block, rest) = rest.split_at_checked(length(4))?;
        let room = unpacked.get_mut(filled..)?.get_mut(..length(0))?;
        if lz4(block, room).ok()? != room.len() {
            return None;
        }
        filled += length(0);
        packed = rest;
    }
    Some(filled)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use parquet::basic::Compression::{GZIP, LZ4, LZ4_RAW, LZO, SNAPPY, UNCOMPRESSED, ZSTD};

    use super::*;

    const TEXT: &[u8] = b"the cat, the cat, the cat, the cat and the dog";

    fn packed_by_each() -> Vec<(Compression, Vec<u8>)> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(TEXT).unwrap();
        let block = lz4_flex::block::compress(TEXT);
        let (of_text, of_block) = ((TEXT.len() as u32).to_be_bytes(), (block.len() as u32).to_be_bytes());
        let hadoop = [&of_text[..], &of_block, &block].concat();
        vec![
            (UNCOMPRESSED, TEXT.to_vec()),
            (SNAPPY, snap::raw::Encoder::new().compress_vec(TEXT).unwrap()),
            (ZSTD(Default::default()), zstd::encode_all(TEXT, 3).unwrap()),
            (GZIP(Default::default()), gzip.finish().unwrap()),
            (LZ4_RAW, block.clone()),
            (LZ4, block),
            (LZ4, hadoop),
        ]
    }

    #[test]
    fn a_page_unpacks_to_what_it_claims_or_not_at_all() {
        for (codec, packed) in packed_by_each() {
            let mut unpacked = vec![0; TEXT.len()];
            unpack(codec, &packed, &mut unpacked).unwrap();
            assert_eq!(unpacked, TEXT, "{codec}");
            for size in [1, TEXT.len() - 1, TEXT.len() + 1, 1_000] {
                let refused = unpack(codec, &packed, &mut vec![0; size]);
                assert!(refused.is_err(), "{codec} as {size} bytes");
            }
            for end in 0..packed.len() - 1 {
                let _ = unpack(codec, &packed[..end], &mut unpacked); // an error or wrong bytes: no page has a checksum
            }
        }
        let error = unpack(LZO, TEXT, &mut [0; 4]).unwrap_err().to_string();
        assert!(error.contains("LZO; write it with zstd"), "{error}");
    }

    #[test]
    fn blocks_of_hadoop_come_one_after_another() {
        let (_, block) = packed_by_each().pop().unwrap();
        let mut unpacked = vec![0; 2 * TEXT.len()];
        unpack(LZ4, &[&block[..], &block].concat(), &mut unpacked).unwrap();
        assert_eq!(unpacked, TEXT.repeat(2));
    }
}
