//! The checksums that servers publish for their files.

use std::fs::File;
use std::io::{self, Read, Seek};

use ring::digest;

/// The expected checksum of a download, in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checksum {
    Sha256(String),
    /// SHA-1 of `blob <size>\0` and the content, the id of the file in git.
    GitBlob(String),
}

impl Checksum {
    pub fn expected(&self) -> &str {
        match self {
            Checksum::Sha256(expected) | Checksum::GitBlob(expected) => expected,
        }
    }

    /// Computes the checksum of a file of `len` bytes, read from its start.
    pub fn found(&self, file: &mut File, len: u64) -> io::Result<String> {
        file.rewind()?;
        let (algorithm, prefix) = match self {
            Checksum::Sha256(_) => (&digest::SHA256, String::new()),
            Checksum::GitBlob(_) => (&digest::SHA1_FOR_LEGACY_USE_ONLY, format!("blob {len}\0")),
        };
        let mut context = digest::Context::new(algorithm);
        context.update(prefix.as_bytes());
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                n => context.update(&buffer[..n]),
            }
        }
        Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}
