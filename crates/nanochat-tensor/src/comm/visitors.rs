//! Visitors have come to rank 0 and have not said yet who they are. One thread looks at all of them in turn and waits for
//! none, so that however many strangers are silent or send a byte now and then, a rank is heard as soon as it speaks.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use ring::hmac;

use super::claim::{Claim, random};

pub const MAGIC: &[u8; 16] = b"nanochat ranks 1";
/// The time that a visitor has in all to say who it is. A rank takes one round trip.
pub const GREETING: Duration = Duration::from_secs(5);
/// The most visitors who are listened to at one time, beside the ranks: half the files that a process may have open. One
/// more takes the place of the one who came first, which is a stranger: a rank has spoken long before.
const MOST: usize = 512;
const TAG: usize = 32;

/// All visitors, and the key by which ranks are told from strangers.
pub struct Visitors<'a> {
    key: &'a hmac::Key,
    world_size: usize,
    /// The visitors, in the order in which they came.
    here: VecDeque<Visitor>,
    strangers: usize,
}

struct Visitor {
    stream: TcpStream,
    came: Instant,
    /// The number that its proof must be about.
    ours: [u8; 32],
    said: [u8; Claim::BYTES + TAG],
    len: usize,
}

/// The rank that a visitor proved to be, or why it cannot be one of this run's.
pub type Proven = (Result<usize, String>, TcpStream);

impl<'a> Visitors<'a> {
    pub fn new(key: &'a hmac::Key, world_size: usize) -> Visitors<'a> {
        Visitors { key, world_size, here: VecDeque::new(), strangers: 0 }
    }

    /// The number of visitors so far that were no ranks.
    pub fn strangers(&self) -> usize {
        self.strangers
    }

    /// Greets all who wait at `listener`, which must be set not to block.
    pub fn let_in(&mut self, listener: &TcpListener) {
        // As many at a time as there are places: whoever comes faster than that does not keep this thread here.
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

    /// Hears what each visitor has said meanwhile, and returns those that proved to be ranks. It drops strangers and
    /// whoever takes too long.
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
        stream.write_all(&[&MAGIC[..], &ours].concat())?; // a new socket has room for it
        Ok(Visitor { stream, came: Instant::now(), ours, said: [0; Claim::BYTES + TAG], len: 0 })
    }

    /// Reads what has come. None: there is more to come. An error: it is a stranger.
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
