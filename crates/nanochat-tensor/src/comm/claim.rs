//! The claim that a rank sends to rank 0 when it connects, and its bytes.

use ring::rand::{SecureRandom, SystemRandom};

use super::Place;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A rank's random number, rank, world size and version.
pub struct Claim {
    pub number: [u8; 32],
    rank: u32,
    world_size: u32,
    /// The version of nanochat, padded with zeros.
    version: [u8; 16],
}

impl Claim {
    pub const BYTES: usize = 32 + 4 + 4 + 16;

    pub fn of(place: &Place) -> Claim {
        let mut version = [0; 16];
        version[..VERSION.len()].copy_from_slice(VERSION.as_bytes());
        Claim { number: random(), rank: place.rank as u32, world_size: place.world_size as u32, version }
    }

    pub fn bytes(&self) -> [u8; Claim::BYTES] {
        let mut bytes = [0; Claim::BYTES];
        bytes[..32].copy_from_slice(&self.number);
        bytes[32..36].copy_from_slice(&self.rank.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.world_size.to_le_bytes());
        bytes[40..].copy_from_slice(&self.version);
        bytes
    }

    pub fn read(bytes: &[u8; Claim::BYTES]) -> Claim {
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let part = |from: usize, to: usize| &bytes[from..to];
        Claim {
            number: part(0, 32).try_into().expect("32 bytes"),
            rank: number(32),
            world_size: number(36),
            version: part(40, 56).try_into().expect("16 bytes"),
        }
    }

    /// Returns the rank if it can be one of `world_size`, else a sentence that says why not.
    pub fn check(&self, world_size: usize) -> Result<usize, String> {
        let Claim { rank, world_size: theirs, version, .. } = self;
        let version = String::from_utf8_lossy(version);
        let version = version.trim_end_matches('\0');
        if version != VERSION {
            return Err(format!("rank {rank} is nanochat {version}, rank 0 is {VERSION}"));
        }
        if *theirs as usize != world_size {
            return Err(format!(
                "rank {rank} was started as one of {theirs} ranks, rank 0 as one of {world_size}"
            ));
        }
        match (1..world_size).contains(&(*rank as usize)) {
            true => Ok(*rank as usize),
            false => Err(format!("there is no rank {rank} among {world_size} ranks besides rank 0")),
        }
    }
}

pub fn random() -> [u8; 32] {
    let mut number = [0; 32];
    SystemRandom::new().fill(&mut number).expect("the system gives random numbers");
    number
}
