//! The messages between ranks over a socket: frames of a kind (1 byte), a length (8 bytes) and content, all
//! little-endian.

use std::io::{self, Read, Write};

/// The largest frame that is read: the gradients of a model of 2 billion parameters, far more than ranks send over
/// sockets. Whoever announces more is not a rank.
const MOST_BYTES: u64 = 8 << 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// A heartbeat
    Beat,
    /// A rank's parts in an exchange
    Data,
    /// All ranks have joined
    Welcome,
    /// This rank ends as planned
    Bye,
    /// A rank is lost or refused; the content is a sentence
    Lost,
}

const KINDS: [MessageKind; 5] =
    [MessageKind::Beat, MessageKind::Data, MessageKind::Welcome, MessageKind::Bye, MessageKind::Lost];

pub fn write_frame(to: &mut impl Write, kind: MessageKind, bytes: &[u8]) -> io::Result<()> {
    let mut head = [kind as u8; 9];
    head[1..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    to.write_all(&head)?;
    to.write_all(bytes)
}

/// Reads a frame of at most `most_bytes`. Memory is allocated as bytes arrive, so that an announced length costs
/// nothing. The error is `InvalidData` for an unknown kind or too large a length.
pub fn read_frame(from: &mut impl Read, most_bytes: u64) -> io::Result<(MessageKind, Vec<u8>)> {
    let mut head = [0; 9];
    from.read_exact(&mut head)?;
    let len = u64::from_le_bytes(head[1..].try_into().expect("eight bytes"));
    let kind = KINDS.get(usize::from(head[0])).filter(|_| len <= most_bytes.min(MOST_BYTES));
    let Some(&kind) = kind else { return Err(strange()) };
    let mut bytes = Vec::new();
    from.take(len).read_to_end(&mut bytes)?;
    if (bytes.len() as u64) < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((kind, bytes))
}

fn strange() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no message of a nanochat rank")
}

/// Joins several parts into the content of one frame, each after its length.
pub fn joined<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend((part.len() as u64).to_le_bytes());
        bytes.extend(part);
    }
    bytes
}

/// Splits the output of `joined`; None if there are not exactly `count` parts.
pub fn parts(mut bytes: &[u8], count: usize) -> Option<Vec<&[u8]>> {
    let mut parts = Vec::new();
    for _ in 0..count {
        let (len, rest) = bytes.split_first_chunk::<8>()?;
        let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
        let (part, rest) = rest.split_at_checked(len)?;
        parts.push(part);
        bytes = rest;
    }
    bytes.is_empty().then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_come_back_as_they_were_written() {
        let mut bytes = Vec::new();
        for (n, kind) in KINDS.into_iter().enumerate() {
            write_frame(&mut bytes, kind, &vec![n as u8; 100 * n]).unwrap();
        }
        let mut from = &bytes[..];
        for (n, kind) in KINDS.into_iter().enumerate() {
            assert_eq!(read_frame(&mut from, 1_000).unwrap(), (kind, vec![n as u8; 100 * n]));
        }
        assert!(from.is_empty());
    }

    #[test]
    fn lengths_beyond_the_bound_are_refused_before_memory_is_taken() {
        for len in [65, u64::MAX] {
            let head = [&[MessageKind::Data as u8][..], &len.to_le_bytes()].concat();
            let error = read_frame(&mut &head[..], 64).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_frame_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read_frame(&mut &bytes[..], 1 << 20);
            let _ = parts(&bytes, 3);
        }

        #[test]
        fn parts_come_back(given in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..6)) {
            let bytes = joined(given.iter().map(Vec::as_slice));
            prop_assert_eq!(parts(&bytes, given.len()).unwrap(), given.iter().map(Vec::as_slice).collect::<Vec<_>>());
            prop_assert_eq!(parts(&bytes, given.len() + 1), None);
        }
    }
}
