//! Visitors: connections to rank 0 that have not proved yet who they are. One thread polls all of them without
//! blocking, so that a rank is heard at once, however many strangers are silent or send a byte now and then.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use ring::hmac;

use super::claim::{Claim, random};

pub const MAGIC: &[u8; 16] = b"nanochat ranks 1";
/// The time that a visitor has in all to prove who it is. A rank needs one round trip.
pub const GREETING: Duration = Duration::from_secs(5);
/// The most visitors at a time, beside the ranks: half the files that a process may have open. One more replaces the
/// oldest, which is a stranger: a rank would have proved itself long before.
const MOST: usize = 512;
const TAG: usize = 32;

/// All visitors, and the key that tells ranks from strangers.
pub struct Visitors<'a> {
    key: &'a hmac::Key,
    world_size: usize,
    /// The visitors, oldest first.
    here: VecDeque<Visitor>,
    strangers: usize,
}

struct Visitor {
    stream: TcpStream,
    came: Instant,
    /// The random number that its proof must cover.
    ours: [u8; 32],
    said: [u8; Claim::BYTES + TAG],
    len: usize,
}

/// The rank that a visitor proved to be, or why it cannot be one of this run's, and its connection.
pub type Proven = (Result<usize, String>, TcpStream);

impl<'a> Visitors<'a> {
    pub fn new(key: &'a hmac::Key, world_size: usize) -> Visitors<'a> {
        Visitors { key, world_size, here: VecDeque::new(), strangers: 0 }
    }

    /// Returns the number of visitors so far that were not ranks.
    pub fn strangers(&self) -> usize {
        self.strangers
    }

    /// Accepts and greets all connections that wait at `listener`, which must be nonblocking.
    pub fn let_in(&mut self, listener: &TcpListener) {
        // Accepts at most `MOST` per call, so that a flood of connections does not keep this thread here.
        for _ in 0..MOST {
            let Ok((stream, _)) = listener.accept() else { return };
            match Visitor::greet(stream) {
                Ok(visitor) => self.here.push_back(visitor),
                Err(_) => self.strangers += 1,
            }
            if self.here.len() > MOST + self.world_size {
                self.here.pop_front();
                self.strangers += 1;
            }
        }
    }

    /// Reads from every visitor and returns those that proved to be ranks. Drops strangers and visitors that take too
    /// long.
    pub fn listen(&mut self) -> Vec<Proven> {
        let mut proven = Vec::new();
        for mut visitor in std::mem::take(&mut self.here) {
            match visitor.hear(self.key, self.world_size) {
                Ok(Some(outcome)) => proven.push((outcome, visitor.stream)),
                Ok(None) if visitor.came.elapsed() < GREETING => self.here.push_back(visitor),
                _ => self.strangers += 1,
            }
        }
        proven
    }
}

impl Visitor {
    fn greet(mut stream: TcpStream) -> io::Result<Visitor> {
        stream.set_nonblocking(true)?;
        let ours = random();
        stream.write_all(&[&MAGIC[..], &ours].concat())?; // fits into the buffer of a new socket
        Ok(Visitor { stream, came: Instant::now(), ours, said: [0; Claim::BYTES + TAG], len: 0 })
    }

    /// Reads the bytes that have arrived. Returns None if the claim is not complete, an error if the visitor is a
    /// stranger.
    fn hear(&mut self, key: &hmac::Key, world_size: usize) -> io::Result<Option<Result<usize, String>>> {
        while self.len < self.said.len() {
            match self.stream.read(&mut self.said[self.len..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.len += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let (said, tag) = self.said.split_first_chunk().expect("a claim is in front of the tag");
        hmac::verify(key, &[&self.ours, &said[..]].concat(), tag)
            .map_err(|_| io::Error::from(io::ErrorKind::PermissionDenied))?;
        let claim = Claim::read(said);
        self.stream.write_all(hmac::sign(key, &[&claim.number, &self.ours[..]].concat()).as_ref())?;
        self.stream.set_nonblocking(false)?;
        self.stream.set_write_timeout(Some(GREETING))?;
        Ok(Some(claim.check(world_size)))
    }
}
