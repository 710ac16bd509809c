//! Connection slots: a limited number in all and for each address. When none is free, the connection that has waited
//! longest for its client is closed: an idle one, one whose request has half arrived, or one whose client does not
//! read. So nobody can occupy slots by doing nothing, and an active client is always served.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use tokio::task::AbortHandle;

/// The most concurrent connections. Many systems allow a process only 1,024 open files, which is reached first.
const MOST: usize = 2_048;

/// Returns the network by which an address is counted: the address itself or, for IPv6, its /64, since a customer has
/// at least that many addresses.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

/// A connection's record of when it began to wait for its client; it decides which connection is closed first.
#[derive(Default)]
pub struct Activity(Mutex<Waits>);

#[derive(Default)]
struct Waits {
    /// The time since which there is no request.
    idle: Option<Instant>,
    /// The time since which the client has neither sent more of its body nor read.
    blocked: Option<Instant>,
}

impl Activity {
    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Records that a request has arrived: the server is at work.
    pub fn asked(&self) {
        *self.waits() = Waits::default();
    }

    /// Records that the response is complete: the server waits for the next request.
    pub fn answered(&self) {
        self.waits().idle = Some(Instant::now());
    }

    /// Records whether the connection waits for its client to send or read.
    pub fn set_blocked(&self, blocked: bool) {
        let waits = &mut self.waits().blocked;
        *waits = blocked.then(|| waits.unwrap_or_else(Instant::now));
    }

    /// Returns the time since which the connection waits for its client; None while the server is at work.
    fn since(&self) -> Option<Instant> {
        let Waits { idle, blocked } = *self.waits();
        idle.into_iter().chain(blocked).min()
    }
}

/// The limit that a refused connection has met; all connections that count towards it are at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSlot {
    /// The limit of the whole server.
    InServer,
    /// The limit of the client's address.
    ForAddress,
}

/// The slots of a server, and the connections that hold them.
pub struct Slots {
    /// The most connections of one network, 0 meaning no limit. None means no limit for this machine itself and
    /// `most_of_others` for all other networks.
    most_of_each: Option<usize>,
    most_of_others: usize,
    held: Mutex<OpenConnections>,
}

#[derive(Default)]
struct OpenConnections {
    next: u64,
    connections: HashMap<u64, Connection>,
    of_each: HashMap<IpAddr, usize>,
}

struct Connection {
    network: IpAddr,
    activity: Arc<Activity>,
    task: Option<AbortHandle>,
}

/// A connection's slot, freed when dropped.
pub struct Slot {
    slots: Arc<Slots>,
    number: u64,
    pub activity: Arc<Activity>,
}

impl Slots {
    /// Makes slots of which one network may hold `most_of_each`, 0 meaning no limit; None means no limit for this
    /// machine itself and `most_of_others` for all other networks.
    pub fn new(most_of_each: Option<usize>, most_of_others: usize) -> Slots {
        Slots { most_of_each, most_of_others, held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, OpenConnections> {
        self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn most_of(&self, address: IpAddr) -> usize {
        let unsaid = if address.is_loopback() { 0 } else { self.most_of_others };
        match self.most_of_each.unwrap_or(unsaid) {
            0 => MOST,
            most => most,
        }
    }

    /// Gives a slot to a connection from `address`. If none is free, closes a waiting connection first.
    pub fn take(self: &Arc<Slots>, address: IpAddr) -> Result<Slot, NoSlot> {
        let (network, most) = (network(address), self.most_of(address));
        let mut held = self.held();
        if held.of_each.get(&network).is_some_and(|count| *count >= most)
            && !held.close_one(|of| *of == network)
        {
            return Err(NoSlot::ForAddress);
        }
        if held.connections.len() >= MOST && !held.close_one(|_| true) {
            return Err(NoSlot::InServer);
        }
        let number = held.next;
        held.next += 1;
        let activity = Arc::<Activity>::default();
        activity.answered();
        held.connections.insert(number, Connection { network, activity: activity.clone(), task: None });
        *held.of_each.entry(network).or_default() += 1;
        Ok(Slot { slots: self.clone(), number, activity })
    }

    /// Closes the connection that has waited longest for its client. Returns false if none waits.
    pub fn close_one(&self) -> bool {
        self.held().close_one(|_| true)
    }

    /// Sets the task to abort when the connection `number` is closed.
    pub fn runs(&self, number: u64, task: AbortHandle) {
        if let Some(connection) = self.held().connections.get_mut(&number) {
            connection.task = Some(task);
        }
    }
}

impl OpenConnections {
    /// Closes the longest-waiting connection of the network with the most connections, among the networks that `may`
    /// lose one: a network that opens many connections closes only its own. Returns false if none waits.
    fn close_one(&mut self, may: impl Fn(&IpAddr) -> bool) -> bool {
        let waiting = self.connections.iter().filter_map(|(number, connection)| {
            let since = connection.activity.since().filter(|_| may(&connection.network))?;
            connection.task.as_ref()?;
            Some((self.of_each[&connection.network], std::cmp::Reverse(since), *number))
        });
        let Some((_, _, number)) = waiting.max() else { return false };
        if let Some(task) = self.forget(number).and_then(|connection| connection.task) {
            task.abort();
        }
        true
    }

    fn forget(&mut self, number: u64) -> Option<Connection> {
        let connection = self.connections.remove(&number)?;
        let count = self.of_each.get_mut(&connection.network).expect("each connection was counted");
        *count -= 1;
        if *count == 0 {
            self.of_each.remove(&connection.network);
        }
        Some(connection)
    }
}

impl Slot {
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.held().forget(self.number); // does nothing if it was closed for another connection
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_counted_with_their_network() {
        for (of, with) in [
            ("10.1.2.3", "10.1.2.3"),
            ("::ffff:10.1.2.3", "10.1.2.3"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ] {
            assert_eq!(network(address(of)), address(with));
        }
    }

    #[tokio::test]
    async fn whoever_waits_longest_for_its_client_gives_way() {
        let slots = Arc::new(Slots::new(None, 2));
        let take = |from: &str| {
            let slot = slots.take(address(from))?;
            let task = tokio::spawn(std::future::pending::<()>());
            slots.runs(slot.number(), task.abort_handle());
            Ok((slot, task))
        };
        let (first, first_task) = take("10.0.0.1").unwrap();
        let (second, second_task) = take("10.0.0.1").unwrap();
        first.activity.asked();
        let (third, _) = take("10.0.0.1").unwrap();
        assert!(second_task.await.unwrap_err().is_cancelled(), "the first is being answered");
        assert!(!first_task.is_finished());
        third.activity.asked();
        assert_eq!(take("10.0.0.1").err(), Some(NoSlot::ForAddress));
        first.activity.set_blocked(true);
        assert!(take("10.0.0.1").is_ok(), "its client reads nothing");
        let others: Vec<_> = (0..9).map(|_| take("127.0.0.1").unwrap()).collect();
        assert!(others.iter().all(|(_, task)| !task.is_finished()), "this machine has no bound of its own");
        drop((first, second, third, others));
        assert!(slots.held().connections.is_empty() && slots.held().of_each.is_empty());
    }
}
