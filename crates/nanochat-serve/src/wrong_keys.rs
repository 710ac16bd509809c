//! Slows down key guessing: the more wrong keys came from an address, the longer its next answers are delayed, up to
//! some seconds.
//!
//! Nobody is locked out. A key that was right from an address before is never delayed there, however many wrong ones
//! come from that address; a right key that is new there is delayed like a wrong one, so that the delay does not tell
//! them apart. A delayed request holds no thread, and its connection's slot can be taken by another.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The number of wrong keys without a delay, for typing mistakes.
const FREE: u32 = 3;
/// The first delay after those. Each further wrong key doubles it.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);
/// The time after which half of an address's wrong keys are forgotten.
const HALF: Duration = Duration::from_secs(60);
/// The most addresses remembered. One more clears them all.
const REMEMBERED: usize = 10_000;

/// The wrong keys that came from each address, and the right ones.
#[derive(Default)]
pub struct WrongKeys(Mutex<HashMap<IpAddr, AddressHistory>>);

struct AddressHistory {
    wrong: u32,
    /// The time when `wrong` was last halved.
    at: Instant,
    /// The numbers of the keys that were right from this address.
    right: Vec<usize>,
}

impl WrongKeys {
    /// Records which key came from `network` (None: a wrong one) and returns the delay of its answer.
    pub fn wait(&self, network: IpAddr, key: Option<usize>) -> Duration {
        let mut guessers = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if guessers.len() >= REMEMBERED && !guessers.contains_key(&network) {
            guessers.clear();
        }
        let fresh = || AddressHistory { wrong: 0, at: Instant::now(), right: Vec::new() };
        let guesser = guessers.entry(network).or_insert_with(fresh);
        if key.is_some_and(|key| guesser.right.contains(&key)) {
            return Duration::ZERO;
        }
        let halves = guesser.at.elapsed().as_secs() / HALF.as_secs();
        if halves > 0 {
            guesser.wrong = guesser.wrong.checked_shr(halves.min(32) as u32).unwrap_or(0);
            guesser.at = Instant::now();
        }
        let wait = match guesser.wrong.checked_sub(FREE) {
            None => Duration::ZERO,
            Some(more) => (FIRST * (1 << more.min(10))).min(LONGEST),
        };
        match key {
            Some(key) => guesser.right.push(key),
            None => guesser.wrong = guesser.wrong.saturating_add(1),
        }
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_keys_wait_longer_and_longer_and_known_ones_never() {
        let (guesses, here, there) = (WrongKeys::default(), [10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        assert_eq!(guesses.wait(here, Some(0)), Duration::ZERO);
        let waits: Vec<u128> = (0..20).map(|_| guesses.wait(here, None).as_millis()).collect();
        assert_eq!(waits[..6], [0, 0, 0, 100, 200, 400]);
        assert!(waits.is_sorted() && waits[19] == 5_000);
        assert_eq!(guesses.wait(here, Some(0)), Duration::ZERO, "it was right from here before");
        assert_eq!(guesses.wait(here, Some(1)), LONGEST, "as late as a wrong one");
        assert_eq!(guesses.wait(here, Some(1)), Duration::ZERO);
        assert_eq!(guesses.wait(there, None), Duration::ZERO);
    }

    #[test]
    fn as_many_addresses_are_remembered_and_no_more() {
        let guesses = WrongKeys::default();
        for number in 0..25_000 {
            guesses.wait(std::net::Ipv4Addr::from_bits(number).into(), None);
        }
        assert!(guesses.0.lock().unwrap().len() <= REMEMBERED);
    }
}
