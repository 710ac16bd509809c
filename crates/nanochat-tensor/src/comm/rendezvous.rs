//! How ranks find each other. Rank 0 listens; the others come and prove that they know the secret, without saying it:
//!
//! - rank 0 to whoever connects: MAGIC, a random number;
//! - the other: its number, rank, world size, version, and HMAC-SHA256 of both numbers and all that under the secret;
//! - rank 0: the HMAC of both numbers in the other order, so that it is known too; when all are here, `Welcome`.
//!
//! A stranger is dropped and learns nothing. What follows is not encrypted: the network between ranks must be one
//! that is trusted, as for NCCL. A rank that is not there after the time limit is named.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use super::Place;
use super::wire::{Kind, read_frame, write_frame};

const MAGIC: &[u8; 16] = b"nanochat ranks 1";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// A secret shorter than this is guessed.
const LEAST_SECRET: usize = 16;
/// What a stranger may take to say who it is.
const GREETING: Duration = Duration::from_secs(5);
/// Strangers who are listened to at one time, beside the ranks.
const STRANGERS: usize = 64;
/// A sentence of refusal.
const SENTENCE_BYTES: u64 = 1_024;

/// Why the ranks of a run did not come together.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(
        "rank 0 is at {0}, another machine; set NANOCHAT_SECRET to one long random text for all ranks, such as `openssl rand -hex 32` gives"
    )]
    NoSecret(String),
    #[error("NANOCHAT_SECRET has {0} characters; use at least {LEAST_SECRET}")]
    ShortSecret(usize),
    #[error("rank 0 cannot listen at port {port}: {source}; MASTER_PORT names another")]
    Listen { port: u16, source: io::Error },
    #[error("rank 0 was not reached at {master} within {seconds} s: {why}")]
    NoMaster { master: String, seconds: u64, why: String },
    #[error("what answers at {0} is no rank 0 of nanochat; MASTER_PORT names another port")]
    NotOurs(String),
    #[error("rank 0 at {0} ended the conversation: NANOCHAT_SECRET differs, or it has stopped")]
    Refused(String),
    #[error("{missing} not come within {seconds} s{strangers}")]
    Missing { missing: String, seconds: u64, strangers: String },
    #[error("{0}")]
    Disagreement(String),
    #[error("failed to set up a connection between ranks: {0}")]
    Io(#[from] io::Error),
}

/// The connections of a rank: of rank 0 to every other, of another to rank 0 alone.
pub type Met = BTreeMap<usize, TcpStream>;

pub fn meet(place: &Place) -> Result<Met, JoinError> {
    let secret = place.secret.as_deref().unwrap_or_default();
    if place.secret.is_some() && secret.len() < LEAST_SECRET {
        return Err(JoinError::ShortSecret(secret.chars().count()));
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    match place.rank {
        0 => receive(place, &key),
        _ => Ok(BTreeMap::from([(0, visit(place, &key)?)])),
    }
}

/// Rank 0: waits until all others have come.
fn receive(place: &Place, key: &hmac::Key) -> Result<Met, JoinError> {
    let listener = listen(place)?;
    listener.set_nonblocking(true)?;
    let (deadline, mut met, mut strangers) = (Instant::now() + place.patience, Met::new(), 0);
    let (sender, visitors) = channel();
    let mut listened_to = 0;
    while met.len() + 1 < place.world_size {
        if Instant::now() >= deadline {
            let error = missing(place, &met, strangers);
            refuse(met.values_mut(), &error.to_string());
            return Err(error);
        }
        while listened_to < place.world_size + STRANGERS
            && let Ok((stream, _)) = listener.accept()
        {
            listened_to += 1;
            let (key, sender, world_size) = (key.clone(), sender.clone(), place.world_size);
            thread::spawn(move || greet(stream, &key, world_size, &sender));
        }
        let Ok(visitor) = visitors.recv_timeout(Duration::from_millis(20)) else { continue };
        listened_to -= 1;
        match visitor {
            None => strangers += 1,
            Some((Ok(rank), stream)) if !met.contains_key(&rank) => drop(met.insert(rank, stream)),
            Some((outcome, stream)) => {
                let why = outcome.map_or_else(|why| why, |rank| format!("there are two ranks {rank}"));
                refuse(met.values_mut().chain([&mut { stream }]), &why);
                return Err(JoinError::Disagreement(why));
            }
        }
    }
    for (rank, stream) in &mut met {
        let gone = |_| JoinError::Disagreement(format!("rank {rank} came and went again"));
        write_frame(stream, Kind::Welcome, &[]).map_err(gone)?;
    }
    Ok(met)
}

/// Without a secret on the loopback addresses alone, else on all.
fn listen(place: &Place) -> Result<TcpListener, JoinError> {
    let port = place.master.1;
    let cannot = |source| JoinError::Listen { port, source };
    if place.secret.is_some() {
        let any: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
        return TcpListener::bind(&any.map(|ip| SocketAddr::new(ip, port))[..]).map_err(cannot);
    }
    let addresses = place.master.to_socket_addrs().map_err(cannot)?.collect::<Vec<_>>();
    only_loopback(place, &addresses)?;
    TcpListener::bind(&addresses[..]).map_err(cannot)
}

fn only_loopback(place: &Place, addresses: &[SocketAddr]) -> Result<(), JoinError> {
    match place.secret.is_some() || addresses.iter().all(|address| address.ip().is_loopback()) {
        true => Ok(()),
        false => Err(JoinError::NoSecret(place.master.0.clone())),
    }
}

/// The rank that a visitor proved to be, or why it cannot be one of this run's.
type Visitor = Option<(Result<usize, String>, TcpStream)>;

/// Asks a visitor who it is. None goes to `sender` for a stranger.
fn greet(stream: TcpStream, key: &hmac::Key, world_size: usize, sender: &Sender<Visitor>) {
    let who = identify(&stream, key, world_size).ok().flatten();
    let _ = sender.send(who.map(|who| (who, stream))); // or rank 0 has given up
}

fn identify(
    mut stream: &TcpStream,
    key: &hmac::Key,
    world_size: usize,
) -> io::Result<Option<Result<usize, String>>> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(GREETING))?;
    stream.set_write_timeout(Some(GREETING))?;
    let ours = random();
    stream.write_all(MAGIC)?;
    stream.write_all(&ours)?;
    let mut said = [0; Claim::BYTES];
    stream.read_exact(&mut said)?;
    let mut tag = [0; 32];
    stream.read_exact(&mut tag)?;
    if hmac::verify(key, &[&ours, &said[..]].concat(), &tag).is_err() {
        return Ok(None);
    }
    let claim = Claim::read(&said);
    stream.write_all(hmac::sign(key, &[&claim.number, &ours[..]].concat()).as_ref())?;
    Ok(Some(claim.check(world_size)))
}

/// Another rank: goes to rank 0, again and again until it is there.
fn visit(place: &Place, key: &hmac::Key) -> Result<TcpStream, JoinError> {
    let (name, port) = &place.master;
    let (master, deadline) = (format!("{name}:{port}"), Instant::now() + place.patience);
    let connect = || -> Result<Option<TcpStream>, io::Error> {
        let addresses = place.master.to_socket_addrs()?.collect::<Vec<_>>();
        match only_loopback(place, &addresses) {
            Ok(()) => TcpStream::connect(&addresses[..]).map(Some),
            Err(_) => Ok(None),
        }
    };
    loop {
        match connect() {
            Ok(Some(stream)) => return introduce(place, &master, stream, key, deadline),
            Ok(None) => return Err(JoinError::NoSecret(name.clone())),
            Err(error) if Instant::now() >= deadline => {
                let seconds = place.patience.as_secs();
                return Err(JoinError::NoMaster { master, seconds, why: error.to_string() });
            }
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn introduce(
    place: &Place,
    master: &str,
    mut stream: TcpStream,
    key: &hmac::Key,
    deadline: Instant,
) -> Result<TcpStream, JoinError> {
    let not_ours = |_| JoinError::NotOurs(master.into());
    let refused = |_| JoinError::Refused(master.into());
    stream.set_read_timeout(Some(2 * GREETING))?;
    let (mut magic, mut theirs) = ([0; 16], [0; 32]);
    stream.read_exact(&mut magic).map_err(not_ours)?;
    if magic != *MAGIC {
        return Err(JoinError::NotOurs(master.into()));
    }
    stream.read_exact(&mut theirs).map_err(not_ours)?;
    let claim = Claim::of(place);
    let said = claim.bytes();
    stream.write_all(&said)?;
    stream.write_all(hmac::sign(key, &[&theirs, &said[..]].concat()).as_ref())?;
    let mut tag = [0; 32];
    stream.read_exact(&mut tag).map_err(refused)?;
    hmac::verify(key, &[&claim.number, &theirs[..]].concat(), &tag)
        .map_err(|_| JoinError::NotOurs(master.into()))?;
    // Rank 0 has the same patience, and says so when it ends; it may have begun a little later.
    let left = deadline.saturating_duration_since(Instant::now()) + 4 * GREETING;
    stream.set_read_timeout(Some(left))?;
    match read_frame(&mut stream, SENTENCE_BYTES).map_err(refused)? {
        (Kind::Welcome, _) => Ok(stream),
        (_, sentence) => Err(JoinError::Disagreement(String::from_utf8_lossy(&sentence).into())),
    }
}

/// What a rank says of itself.
struct Claim {
    number: [u8; 32],
    rank: u32,
    world_size: u32,
    /// Filled up with zeros
    version: [u8; 16],
}

impl Claim {
    const BYTES: usize = 32 + 4 + 4 + 16;

    fn of(place: &Place) -> Claim {
        let mut version = [0; 16];
        version[..VERSION.len()].copy_from_slice(VERSION.as_bytes());
        Claim { number: random(), rank: place.rank as u32, world_size: place.world_size as u32, version }
    }

    fn bytes(&self) -> [u8; Claim::BYTES] {
        let mut bytes = [0; Claim::BYTES];
        bytes[..32].copy_from_slice(&self.number);
        bytes[32..36].copy_from_slice(&self.rank.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.world_size.to_le_bytes());
        bytes[40..].copy_from_slice(&self.version);
        bytes
    }

    fn read(bytes: &[u8; Claim::BYTES]) -> Claim {
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let part = |from: usize, to: usize| &bytes[from..to];
        Claim {
            number: part(0, 32).try_into().expect("32 bytes"),
            rank: number(32),
            world_size: number(36),
            version: part(40, 56).try_into().expect("16 bytes"),
        }
    }

    /// Its rank, if it can be one of `world_size`.
    fn check(&self, world_size: usize) -> Result<usize, String> {
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

fn refuse<'a>(streams: impl Iterator<Item = &'a mut TcpStream>, why: &str) {
    for stream in streams {
        let _ = write_frame(stream, Kind::Lost, why.as_bytes()); // it may be gone
    }
}

/// `rank 2 has`, `ranks 1, 2 and 5 have`: who is missing.
fn missing(place: &Place, met: &Met, strangers: usize) -> JoinError {
    let missing: Vec<String> =
        (1..place.world_size).filter(|rank| !met.contains_key(rank)).map(|rank| rank.to_string()).collect();
    let missing = match &missing[..] {
        [one] => format!("rank {one} has"),
        [rest @ .., last] => format!("ranks {} and {last} have", rest.join(", ")),
        [] => unreachable!("called when one is missing"),
    };
    let strangers = match strangers {
        0 => String::new(),
        1 => " (a stranger, or a rank with another NANOCHAT_SECRET, was refused)".into(),
        n => format!(" ({n} strangers, or ranks with another NANOCHAT_SECRET, were refused)"),
    };
    JoinError::Missing { missing, seconds: place.patience.as_secs(), strangers }
}

fn random() -> [u8; 32] {
    let mut number = [0; 32];
    SystemRandom::new().fill(&mut number).expect("the system gives random numbers");
    number
}
