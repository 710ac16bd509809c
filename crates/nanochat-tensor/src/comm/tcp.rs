//! Ranks in several processes, connected by TCP in a star with rank 0 in the middle. Host values go this way, and on
//! the CPU tensors too.
//!
//! One thread per connection reads all the time, so that a rank that dies is noticed as soon as its socket closes, and
//! a machine that dies by its silence.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::thread;
use std::time::Duration;

use super::rendezvous::Met;
use super::wire::{MessageKind, joined, parts, read_frame, write_frame};
use super::{Channel, Lost, OnLost, Place};

/// The time between two heartbeats of a rank.
const BEAT: Duration = Duration::from_secs(2);
/// The time after which a rank that sends or accepts nothing is lost.
const SILENCE: Duration = Duration::from_secs(20);

pub struct Star {
    rank: usize,
    world_size: usize,
    patience: Duration,
    peers: Vec<Peer>,
    shared: Arc<Shared>,
}

/// A connection, as the working thread sees it.
struct Peer {
    rank: usize,
    inbox: Mutex<Receiver<Vec<u8>>>,
}

/// The state that the working thread shares with the reading threads and the heartbeat thread.
struct Shared {
    rank: usize,
    writers: Vec<Writer>,
    /// Whether this rank has left; it then ignores the loss of other ranks.
    has_left: AtomicBool,
    lost: OnceLock<Lost>,
    on_lost: OnLost,
}

struct Writer {
    rank: usize,
    stream: Mutex<TcpStream>,
}

impl Star {
    pub fn new(met: Met, place: &Place, on_lost: OnLost) -> io::Result<Star> {
        let (mut writers, mut peers, mut readers) = (Vec::new(), Vec::new(), Vec::new());
        for (rank, stream) in met {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(SILENCE))?;
            stream.set_write_timeout(Some(SILENCE))?;
            let (sender, inbox) = channel();
            readers.push((rank, stream.try_clone()?, sender));
            writers.push(Writer { rank, stream: Mutex::new(stream) });
            peers.push(Peer { rank, inbox: Mutex::new(inbox) });
        }
        let (has_left, lost) = (AtomicBool::new(false), OnceLock::new());
        let shared = Arc::new(Shared { rank: place.rank, writers, has_left, lost, on_lost });
        for (rank, stream, sender) in readers {
            let shared = Arc::downgrade(&shared);
            thread::Builder::new()
                .name(format!("rank-{rank}"))
                .spawn(move || listen(rank, stream, &sender, &shared))?;
        }
        let beating = Arc::downgrade(&shared);
        thread::Builder::new().name("beat".into()).spawn(move || beat(&beating))?;
        let Place { rank, world_size, patience, .. } = *place;
        Ok(Star { rank, world_size, patience, peers, shared })
    }

    fn send(&self, writer: &Writer, bytes: &[u8]) -> Result<(), Lost> {
        writer.send(MessageKind::Data, bytes).map_err(|error| self.shared.lose(&gone(writer.rank, &error)))
    }

    /// Waits for the next parts that a rank sends in an exchange.
    fn receive(&self, peer: &Peer) -> Result<Vec<u8>, Lost> {
        peer.inbox.lock().unwrap_or_else(|e| e.into_inner()).recv_timeout(self.patience).map_err(|error| {
            self.shared.lose(&match error {
                RecvTimeoutError::Timeout => {
                    let seconds = self.patience.as_secs();
                    format!("rank {} has kept the others waiting for {seconds} s", peer.rank)
                }
                RecvTimeoutError::Disconnected => format!("rank {} has ended", peer.rank),
            })
        })
    }

    /// Receives the parts of all ranks and sends each rank its own; runs on rank 0.
    fn distribute(&self, mine: &[&[u8]]) -> Result<Vec<Vec<u8>>, Lost> {
        let frames: Vec<Vec<u8>> =
            self.peers.iter().map(|peer| self.receive(peer)).collect::<Result<_, _>>()?;
        let mut all = vec![mine.to_vec()];
        for (peer, frame) in self.peers.iter().zip(&frames) {
            all.push(self.taken_apart(peer, frame)?);
        }
        for writer in &self.shared.writers {
            self.send(writer, &joined(all.iter().map(|parts| parts[writer.rank])))?;
        }
        Ok(all.iter().map(|parts| parts[0].to_vec()).collect())
    }

    fn taken_apart<'a>(&self, peer: &Peer, frame: &'a [u8]) -> Result<Vec<&'a [u8]>, Lost> {
        let strange = || self.shared.lose(&format!("rank {} sent what is no exchange", peer.rank));
        parts(frame, self.world_size).ok_or_else(strange)
    }
}

impl Channel for Star {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn exchange(&self, mine: &[&[u8]]) -> Result<Vec<Vec<u8>>, Lost> {
        if self.rank == 0 {
            return self.distribute(mine);
        }
        self.send(&self.shared.writers[0], &joined(mine.iter().copied()))?;
        let frame = self.receive(&self.peers[0])?;
        let all = self.taken_apart(&self.peers[0], &frame)?;
        Ok(all.into_iter().map(<[u8]>::to_vec).collect())
    }

    fn leave(&self, failure: Option<&str>) {
        if self.shared.has_left.swap(true, Ordering::SeqCst) || self.shared.lost.get().is_some() {
            return;
        }
        match failure {
            Some(why) => {
                self.shared.tell(MessageKind::Lost, &format!("rank {} has failed: {why}", self.rank))
            }
            None => self.shared.tell(MessageKind::Bye, ""),
        }
    }
}

impl Drop for Star {
    /// Closes all connections, which ends the reading threads and shows ranks that were not told that this one is gone.
    fn drop(&mut self) {
        self.shared.has_left.store(true, Ordering::SeqCst);
        for writer in &self.shared.writers {
            let _ = writer.lock().shutdown(Shutdown::Both);
        }
    }
}

impl Writer {
    fn lock(&self) -> MutexGuard<'_, TcpStream> {
        self.stream.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn send(&self, kind: MessageKind, bytes: &[u8]) -> io::Result<()> {
        write_frame(&mut *self.lock(), kind, bytes)
    }
}

impl Shared {
    /// Records the first loss and returns it. Rank 0 tells the other ranks, and `on_lost` is called. Later losses
    /// follow from the first and change nothing.
    fn lose(&self, sentence: &str) -> Lost {
        let lost = Lost(sentence.into());
        if self.lost.set(lost.clone()).is_ok() && !self.has_left.load(Ordering::SeqCst) {
            if self.rank == 0 {
                self.tell(MessageKind::Lost, sentence);
            }
            let (on_lost, lost) = (self.on_lost.clone(), lost.clone());
            thread::spawn(move || on_lost(&lost));
        }
        self.lost.get().cloned().unwrap_or(lost)
    }

    fn tell(&self, kind: MessageKind, sentence: &str) {
        for writer in &self.writers {
            let _ = writer.send(kind, sentence.as_bytes()); // it may be the lost one
        }
    }
}

fn gone(rank: usize, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("rank {rank} has not been heard of for {} s", SILENCE.as_secs())
        }
        _ => format!("rank {rank} is gone: its connection is closed"),
    }
}

/// Reads the messages of a rank until it leaves or is lost.
fn listen(rank: usize, mut stream: TcpStream, inbox: &Sender<Vec<u8>>, shared: &Weak<Shared>) {
    loop {
        let frame = read_frame(&mut stream, u64::MAX);
        let Some(shared) = shared.upgrade() else { return };
        match frame {
            Ok((MessageKind::Beat | MessageKind::Welcome, _)) => {}
            Ok((MessageKind::Data, bytes)) => drop(inbox.send(bytes)), // fails only while this rank is ending
            Ok((MessageKind::Bye, _)) => return,
            Ok((MessageKind::Lost, sentence)) => {
                return drop(shared.lose(&String::from_utf8_lossy(&sentence)));
            }
            Err(error) => return drop(shared.lose(&gone(rank, &error))),
        }
    }
}

/// Sends heartbeats until the star is dropped. A connection that is sending data needs none.
fn beat(shared: &Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        for writer in &shared.writers {
            if let Ok(mut stream) = writer.stream.try_lock() {
                let _ = write_frame(&mut *stream, MessageKind::Beat, &[]); // the reading thread notices errors
            }
        }
        drop(shared);
        thread::sleep(BEAT);
    }
}
