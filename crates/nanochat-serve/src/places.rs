//! Places of connections: so many in all and so many for each address. Where one is wanted and none is free, the
//! connection that has waited longest for its client gives its own up: an idle one, one whose request is half sent, one
//! whose client reads nothing. So nobody holds a place by doing nothing, and whoever asks is heard at once.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use tokio::task::AbortHandle;

/// The most connections at once. A process may often have 1,024 files open only: then this many are never reached.
const MOST: usize = 2_048;

/// The network that an address is counted with: the address itself or, in IPv6, where a customer has at least that
/// many, its /64.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

/// A connection's record of when it began to wait for its client; by it places are given up.
#[derive(Default)]
pub struct Activity(Mutex<Waits>);

#[derive(Default)]
struct Waits {
    /// The moment since which there is no request.
    idle: Option<Instant>,
    /// The moment since which the client sends nothing more of its body, or takes nothing.
    blocked: Option<Instant>,
}

impl Activity {
    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Notes that a request has come: the server is at work.
    pub fn asked(&self) {
        *self.waits() = Waits::default();
    }

    /// Notes that the answer has left: the server waits for another request.
    pub fn answered(&self) {
        self.waits().idle = Some(Instant::now());
    }

    /// Notes whether the connection can go no further without its client.
    pub fn set_blocked(&self, blocked: bool) {
        let waits = &mut self.waits().blocked;
        *waits = blocked.then(|| waits.unwrap_or_else(Instant::now));
    }

    /// The moment since which the connection waits for its client. None: the server is at work.
    fn since(&self) -> Option<Instant> {
        let Waits { idle, blocked } = *self.waits();
        idle.into_iter().chain(blocked).min()
    }
}

/// The reason why a connection gets no place: all places are taken by connections at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The places of the whole server.
    ByAll,
    /// The places of this address.
    ByAddress,
}

/// The places of a server, and the connections that hold them.
pub struct Places {
    /// The most connections of one network, 0 being any number. None: any number for this machine itself,
    /// `most_of_others` for all others.
    most_of_each: Option<usize>,
    most_of_others: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    next: u64,
    connections: HashMap<u64, Connection>,
    of_each: HashMap<IpAddr, usize>,
}

struct Connection {
    network: IpAddr,
    activity: Arc<Activity>,
    task: Option<AbortHandle>,
}

/// A connection's place, free again when dropped.
pub struct Place {
    places: Arc<Places>,
    number: u64,
    pub activity: Arc<Activity>,
}

impl Places {
    /// Makes places of which one network may hold `most_of_each`, 0 being any number; where that is None, `most_of_others`
    /// for every network but this machine itself.
    pub fn new(most_of_each: Option<usize>, most_of_others: usize) -> Places {
        Places { most_of_each, most_of_others, held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn most_of(&self, address: IpAddr) -> usize {
        let unsaid = if address.is_loopback() { 0 } else { self.most_of_others };
        match self.most_of_each.unwrap_or(unsaid) {
            0 => MOST,
            most => most,
        }
    }

    /// Gives a place to a connection from `address`, if need be that of another one, which is then closed.
    pub fn take(self: &Arc<Places>, address: IpAddr) -> Result<Place, Taken> {
        let (network, most) = (network(address), self.most_of(address));
        let mut held = self.held();
        if held.of_each.get(&network).is_some_and(|count| *count >= most)
            && !held.close_one(|of| *of == network)
        {
            return Err(Taken::ByAddress);
        }
        if held.connections.len() >= MOST && !held.close_one(|_| true) {
            return Err(Taken::ByAll);
        }
        let number = held.next;
        held.next += 1;
        let activity = Arc::<Activity>::default();
        activity.answered();
        held.connections.insert(number, Connection { network, activity: activity.clone(), task: None });
        *held.of_each.entry(network).or_default() += 1;
        Ok(Place { places: self.clone(), number, activity })
    }

    /// Closes the connection that has waited longest for its client. False: none waits.
    pub fn close_one(&self) -> bool {
        self.held().close_one(|_| true)
    }

    /// Says what to end when the connection `number` gives its place up.
    pub fn runs(&self, number: u64, task: AbortHandle) {
        if let Some(connection) = self.held().connections.get_mut(&number) {
            connection.task = Some(task);
        }
    }
}

impl Held {
    /// Closes the connection that has waited longest, of the network with the most connections among those that `may`
    /// pay: others lose nothing to whoever takes many. False: none waits.
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

impl Place {
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.held().forget(self.number); // unless another connection has it already
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
        let places = Arc::new(Places::new(None, 2));
        let take = |from: &str| {
            let place = places.take(address(from))?;
            let task = tokio::spawn(std::future::pending::<()>());
            places.runs(place.number(), task.abort_handle());
            Ok((place, task))
        };
        let (first, first_task) = take("10.0.0.1").unwrap();
        let (second, second_task) = take("10.0.0.1").unwrap();
        first.activity.asked();
        let (third, _) = take("10.0.0.1").unwrap();
        assert!(second_task.await.unwrap_err().is_cancelled(), "the first is being answered");
        assert!(!first_task.is_finished());
        third.activity.asked();
        assert_eq!(take("10.0.0.1").err(), Some(Taken::ByAddress));
        first.activity.set_blocked(true);
        assert!(take("10.0.0.1").is_ok(), "its client reads nothing");
        let others: Vec<_> = (0..9).map(|_| take("127.0.0.1").unwrap()).collect();
        assert!(others.iter().all(|(_, task)| !task.is_finished()), "this machine has no bound of its own");
        drop((first, second, third, others));
        assert!(places.held().connections.is_empty() && places.held().of_each.is_empty());
    }
}
