//! GPT-2's byte alphabet, in which `tokenizer.json` writes tokens: one printable character for each byte. Printable
//! Latin-1 bytes stand for themselves, the other 68 for the code points from U+0100 on.

use std::collections::HashMap;
use std::sync::LazyLock;

/// The character that stands for each byte.
static ALPHABET: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut shifted = 0x100..;
    std::array::from_fn(|byte| match byte {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => byte as u8 as char,
        _ => shifted.next().and_then(char::from_u32).expect("68 code points from U+0100 on"),
    })
});

static BYTES: LazyLock<HashMap<char, u8>> =
    LazyLock::new(|| ALPHABET.iter().zip(0..=255).map(|(c, byte)| (*c, byte)).collect());

/// Writes bytes in the alphabet.
pub(crate) fn spell(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| ALPHABET[usize::from(*byte)]).collect()
}

/// Reads text in the alphabet; None if it contains another character.
pub(crate) fn bytes_of(token: &str) -> Option<Vec<u8>> {
    token.chars().map(|c| BYTES.get(&c).copied()).collect()
}
