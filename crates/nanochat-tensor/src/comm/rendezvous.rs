//! Rendezvous: how ranks connect at the start. Rank 0 listens; the others connect and prove that they know the secret,
//! without sending it:
//!
//! - rank 0 to whoever connects: MAGIC and a random number;
//! - the other: its own random number, rank, world size and version, and the HMAC-SHA256 of rank 0's number and all
//!   that under the secret;
//! - rank 0: the HMAC of both numbers in the other order, which proves rank 0 too; when all have joined, `Welcome`.
//!
//! A stranger is dropped, learns nothing, and keeps no rank waiting ([`super::visitors`]). Later traffic is not
//! encrypted: the network between ranks must be trusted, as for NCCL. The error names the ranks that did not join in
//! time.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use ring::hmac;

use super::Place;
use super::claim::Claim;
use super::visitors::{GREETING, MAGIC, Visitors};
use super::wire::{MessageKind, read_frame, write_frame};

/// The minimum length of a secret in bytes; a shorter one can be guessed.
const LEAST_SECRET: usize = 16;
/// The time between two checks for new connections.
const PAUSE: Duration = Duration::from_millis(10);
/// The maximum length of a refusal in bytes.
const SENTENCE_BYTES: u64 = 1_024;

/// The reason why the ranks of a run could not connect.
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

/// A rank's connections by rank: rank 0 has one to every other rank, the others have one to rank 0.
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

/// Waits on rank 0 until all other ranks have joined.
fn receive(place: &Place, key: &hmac::Key) -> Result<Met, JoinError> {
    let listener = listen(place)?;
    listener.set_nonblocking(true)?;
    let (deadline, mut met) = (Instant::now() + place.patience, Met::new());
    let mut visitors = Visitors::new(key, place.world_size);
    while met.len() + 1 < place.world_size {
        if Instant::now() >= deadline {
            let error = missing(place, &met, visitors.strangers());
            refuse(met.values_mut(), &error.to_string());
            return Err(error);
        }
        visitors.let_in(&listener);
        for (outcome, mut stream) in visitors.listen() {
            match outcome {
                Ok(rank) if !met.contains_key(&rank) => drop(met.insert(rank, stream)),
                outcome => {
                    let why = outcome.map_or_else(|why| why, |rank| format!("there are two ranks {rank}"));
                    refuse(met.values_mut().chain([&mut stream]), &why);
                    return Err(JoinError::Disagreement(why));
                }
            }
        }
        thread::sleep(PAUSE);
    }
    for (rank, stream) in &mut met {
        let gone = |_| JoinError::Disagreement(format!("rank {rank} came and went again"));
        write_frame(stream, MessageKind::Welcome, &[]).map_err(gone)?;
    }
    Ok(met)
}

/// Listens on all addresses, or without a secret on the loopback addresses only.
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

/// Connects to rank 0 from another rank, with retries until rank 0 is there or `patience` has passed.
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
    // Rank 0 waits equally long and says so when it gives up; it may have started a little later.
    let left = deadline.saturating_duration_since(Instant::now()) + 4 * GREETING;
    stream.set_read_timeout(Some(left))?;
    match read_frame(&mut stream, SENTENCE_BYTES).map_err(refused)? {
        (MessageKind::Welcome, _) => Ok(stream),
        (_, sentence) => Err(JoinError::Disagreement(String::from_utf8_lossy(&sentence).into())),
    }
}

fn refuse<'a>(streams: impl Iterator<Item = &'a mut TcpStream>, why: &str) {
    for stream in streams {
        let _ = write_frame(stream, MessageKind::Lost, why.as_bytes()); // it may be gone
    }
}

/// Makes the error that names the missing ranks: `rank 2 has`, `ranks 1, 2 and 5 have`.
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
