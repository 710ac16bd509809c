//! Tests of ranks over sockets, as threads of one process: joining, strangers, exchanges, losses.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::*;

const SECRET: &str = "a secret of twenty-four.";

/// Makes the places of a run on this machine, at a port that was free a moment ago.
fn places(world_size: usize, patience: f64) -> Vec<Place> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let place = |rank| Place {
        rank,
        world_size,
        master: ("127.0.0.1".into(), port),
        secret: Some(SECRET.into()),
        patience: Duration::from_secs_f64(patience),
    };
    (0..world_size).map(place).collect()
}

fn join(place: &Place) -> Result<Comm, JoinError> {
    Comm::join(place, Arc::new(|_| ()))
}

fn sentences(places: &[Place]) -> Vec<Option<String>> {
    thread::scope(|scope| {
        let join = |place| scope.spawn(move || join(place).err().map(|error| error.to_string()));
        let threads: Vec<_> = places.iter().map(join).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Runs `work` on all ranks in parallel; returns the results in rank order.
fn on_ranks<T: Send>(places: &[Place], work: impl Fn(Comm) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let start = |place| scope.spawn(move || work(join(place).unwrap()));
        let threads: Vec<_> = places.iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("a rank failed")).collect()
    })
}

#[test]
fn sockets_carry_tensors_and_values_as_threads_do() {
    let work = |comm: Comm| {
        let rank = comm.rank() as f32;
        let full = Tensor::new((0..6_000).map(|i| rank + (i % 100) as f32).collect(), &[2_000, 3]);
        let part = comm.reduce_scatter(full.clone()).wait();
        let all = comm.all_gather(part.clone()).wait();
        let reduced = comm.all_reduce(full).wait();
        assert_eq!(reduced.shape(), [2_000, 3]);
        let (mut sums, bytes) = ([f64::from(rank), 0.5], vec![comm.rank() as u8; comm.rank()]);
        comm.sum_f64(&mut sums);
        let gathered = comm.gather_bytes(&bytes);
        comm.barrier();
        let root = comm.broadcast_bytes(1, bytes);
        let tensors = [part, all, reduced].map(|tensor| tensor.data().to_vec());
        comm.leave(None);
        (tensors, sums, gathered, root)
    };
    let in_threads: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = in_process(3).into_iter().map(|comm| scope.spawn(|| work(comm))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(on_ranks(&places(3, 20.0), work) == in_threads);
}

#[test]
fn a_rank_that_dies_is_named_by_all_others() {
    let places = places(4, 20.0);
    let told = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for place in &places {
            scope.spawn(|| {
                let (sender, lost_rank) = channel();
                let on_lost = Arc::new(move |lost: &Lost| drop(sender.send(lost.to_string())));
                let comm = Comm::join(place, on_lost).unwrap();
                comm.barrier();
                if comm.rank() == 2 {
                    return; // closes its sockets, as a killed process does
                }
                let unwound = catch_unwind(AssertUnwindSafe(|| comm.barrier())).unwrap_err();
                let watched = lost_rank.recv_timeout(Duration::from_secs(10)).unwrap();
                told.lock().unwrap().extend([lost(&*unwound).unwrap().to_string(), watched]);
            });
        }
    });
    let told = told.into_inner().unwrap();
    assert_eq!(told, vec!["rank 2 is gone: its connection is closed"; 6]);
}

#[test]
fn a_rank_that_fails_says_why_and_one_that_ends_is_not_missed() {
    let told = on_ranks(&places(3, 20.0), |comm| {
        match comm.rank() {
            1 => comm.leave(None),
            2 => comm.leave(Some("the disk is full")),
            _ => {
                let unwound = catch_unwind(AssertUnwindSafe(|| comm.barrier())).unwrap_err();
                return lost(&*unwound).unwrap().to_string();
            }
        }
        String::new()
    });
    // The message depends on which rank 0 hears of first.
    assert!(
        ["rank 2 has failed: the disk is full", "rank 1 has ended"].contains(&told[0].as_str()),
        "{told:?}"
    );
}

#[test]
fn ranks_that_never_come_are_named_to_those_that_did() {
    let mut places = places(5, 0.7);
    places.retain(|place| ![2, 4].contains(&place.rank));
    for sentence in sentences(&places) {
        assert_eq!(sentence.unwrap(), "ranks 2 and 4 have not come within 0 s");
    }
    let places = &self::places(2, 0.3)[1..];
    let sentence = sentences(places)[0].clone().unwrap();
    assert!(sentence.contains("rank 0 was not reached at 127.0.0.1:"), "{sentence}");
}

#[test]
fn strangers_are_refused_and_disturb_nobody() {
    let places = places(2, 20.0);
    let port = places[0].master.1;
    let connect = move || loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => break stream,
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    };
    thread::scope(|scope| {
        let first = scope.spawn(|| join(&places[0]).unwrap().barrier());
        let silent = connect();
        let mut loud = connect();
        loud.write_all(&[7; 200]).unwrap();
        let mut answer = Vec::new();
        let _ = loud.read_to_end(&mut answer);
        // Only the greeting that everybody gets, without a proof of the secret.
        assert_eq!(answer.len(), 48, "{answer:?}");
        let thief = Place { secret: Some("another secret of mine".into()), ..places[1].clone() };
        let sentence = join(&thief).err().unwrap().to_string();
        assert!(sentence.contains("NANOCHAT_SECRET differs"), "{sentence}");
        join(&places[1]).unwrap().barrier();
        first.join().unwrap();
        drop(silent);
    });
}

#[test]
fn ranks_meet_at_once_among_seventy_who_send_a_byte_now_and_then() {
    let places = places(2, 20.0);
    let port = places[0].master.1;
    thread::scope(|scope| {
        let first = scope.spawn(|| join(&places[0]).unwrap().barrier());
        let mut strangers = Vec::new();
        while strangers.len() < 70 {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => strangers.push(stream),
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        }
        strangers.iter_mut().for_each(|stranger| stranger.write_all(&[7]).unwrap());
        let came = Instant::now();
        join(&places[1]).unwrap().barrier();
        assert!(came.elapsed() < Duration::from_secs(3), "{:?}", came.elapsed());
        first.join().unwrap();
    });
}

#[test]
fn a_stranger_has_five_seconds_in_all() {
    let places = places(2, 20.0);
    thread::scope(|scope| {
        let first = scope.spawn(|| join(&places[0]).unwrap().barrier());
        let mut stranger = loop {
            match TcpStream::connect(("127.0.0.1", places[0].master.1)) {
                Ok(stream) => break stream,
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        };
        let came = Instant::now();
        while came.elapsed() < Duration::from_secs(10) && stranger.write_all(&[7]).is_ok() {
            thread::sleep(Duration::from_millis(200));
        }
        assert!(came.elapsed() < Duration::from_secs(8), "heard for {:?}", came.elapsed());
        join(&places[1]).unwrap().barrier();
        first.join().unwrap();
    });
}

#[test]
fn another_world_size_and_a_rank_twice_are_named_on_both_sides() {
    let mut two = places(2, 20.0);
    two[1].world_size = 4;
    for sentence in sentences(&two) {
        assert_eq!(sentence.unwrap(), "rank 1 was started as one of 4 ranks, rank 0 as one of 2");
    }
    let mut three = places(3, 20.0);
    three[2].rank = 1;
    assert_eq!(sentences(&three), vec![Some("there are two ranks 1".to_string()); 3]);
}

#[test]
fn without_a_secret_ranks_meet_on_one_machine_only() {
    let mut open = places(2, 20.0);
    open.iter_mut().for_each(|place| place.secret = None);
    assert_eq!(sentences(&open), [None, None]);
    for place in &mut open {
        place.master.0 = "192.0.2.1".into(); // reserved for documentation by RFC 5737
        let sentence = join(place).err().unwrap().to_string();
        assert!(sentence.contains("192.0.2.1, another machine; set NANOCHAT_SECRET"), "{sentence}");
        place.secret = Some("short".into());
        assert!(join(place).err().unwrap().to_string().contains("has 5 characters"));
    }
}

#[test]
fn another_program_at_the_port_is_not_taken_for_rank_0() {
    let place = &places(2, 20.0)[1];
    let listener = TcpListener::bind(("127.0.0.1", place.master.1)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| listener.accept().unwrap().0.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap());
        let sentence = join(place).err().unwrap().to_string();
        assert!(sentence.contains("no rank 0 of nanochat"), "{sentence}");
    });
}
