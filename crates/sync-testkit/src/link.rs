//! A line with a length and a width: what is put in comes out later, and no faster than the line carries.
//!
//! Bytes are in flight while they wait, so a long line is not a narrow one: as much is on its way as its length times its
//! width, and one sender can fill it. What does not fit is not read, which is how a sender learns of it. There is no loss
//! and no slow start: those belong to the kernels at both ends, which are the same for everybody who is compared here.

use std::{
    collections::VecDeque,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    sync::{Condvar, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

/// How much may wait in front of the line, as the time that it takes: a router's queue.
const QUEUE: Duration = Duration::from_millis(5);
/// How much is read at a time. At 1 Gbit/s this is half a millisecond.
const READ_BYTES: usize = 64 << 10;

/// A line, the same both ways.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// From one end to the other; a round trip takes twice as long.
    pub delay: Duration,
    /// How much it carries each way.
    pub bytes_per_second: u64,
}

impl Link {
    /// A line of that round trip and width.
    #[must_use]
    pub fn new(round_trip: Duration, bits_per_second: u64) -> Self {
        Self { delay: round_trip / 2, bytes_per_second: bits_per_second / 8 }
    }

    /// How long it takes to put that much on the line.
    fn takes(self, bytes: usize) -> Duration {
        Duration::from_nanos(bytes as u64 * 1_000_000_000 / self.bytes_per_second)
    }

    /// How much is on the line at most, and in front of it; twice, so that this is never the limit.
    fn most_in_flight(self) -> usize {
        let nanos = (self.delay + QUEUE).as_nanos() * u128::from(self.bytes_per_second);
        usize::try_from(nanos / 1_000_000_000).unwrap_or(usize::MAX).saturating_mul(2).max(1 << 20)
    }
}

/// One way of a line, which all connections share.
#[derive(Debug)]
pub(crate) struct Way {
    link: Link,
    free_at: Mutex<Instant>,
}

impl Way {
    pub(crate) fn new(link: Link) -> Self {
        Self { link, free_at: Mutex::new(Instant::now()) }
    }

    fn lock(&self) -> MutexGuard<'_, Instant> {
        self.free_at.lock().expect("no proxy thread panics")
    }

    /// Waits until the queue in front of the line has room.
    fn wait_for_room(&self) {
        let waiting = self.lock().saturating_duration_since(Instant::now());
        if waiting > QUEUE {
            thread::sleep(waiting - QUEUE);
        }
    }

    /// Puts bytes on the line and tells when they are out of it.
    fn enter(&self, bytes: usize) -> Instant {
        let mut free_at = self.lock();
        *free_at = Instant::now().max(*free_at) + self.link.takes(bytes);
        *free_at + self.link.delay
    }
}

#[derive(Debug, Default)]
struct Flight {
    chunks: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    /// The sender has ended: what is in flight still arrives.
    ended: bool,
    /// The receiver is gone.
    refused: bool,
}

/// What one connection has on its way.
#[derive(Debug, Default)]
struct Flying {
    flight: Mutex<Flight>,
    changed: Condvar,
}

impl Flying {
    fn lock(&self) -> MutexGuard<'_, Flight> {
        self.flight.lock().expect("no proxy thread panics")
    }

    /// Waits for room and adds; `false` when nobody takes it any more.
    fn push(&self, due: Instant, chunk: &[u8], most: usize) -> bool {
        let full = |flight: &mut Flight| flight.bytes >= most && !flight.refused;
        let mut flight = self.changed.wait_while(self.lock(), full).expect("no proxy thread panics");
        flight.bytes += chunk.len();
        flight.chunks.push_back((due, chunk.to_vec()));
        let refused = flight.refused;
        drop(flight);
        self.changed.notify_all();
        !refused
    }

    /// The next that arrives, when it does; `None` after the last.
    fn pop(&self) -> Option<Vec<u8>> {
        let nothing = |flight: &mut Flight| flight.chunks.is_empty() && !flight.ended;
        let mut flight = self.changed.wait_while(self.lock(), nothing).expect("no proxy thread panics");
        let (due, chunk) = flight.chunks.pop_front()?;
        flight.bytes -= chunk.len();
        drop(flight);
        self.changed.notify_all();
        thread::sleep(due.saturating_duration_since(Instant::now()));
        Some(chunk)
    }

    fn set(&self, change: impl FnOnce(&mut Flight)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// Carries one way of one connection until it ends. `may_pass` is asked before anything is put on the line, and
/// `delivered` is told what came out.
pub(crate) fn carry(
    mut from: TcpStream,
    to: TcpStream,
    way: &Way,
    (may_pass, delivered): (&(dyn Fn() -> bool + Sync), &(dyn Fn(u64) + Sync)),
) {
    let flying = Flying::default();
    thread::scope(|scope| {
        let arriving = scope.spawn(|| deliver(to, &flying, delivered));
        let mut buffer = vec![0; READ_BYTES];
        loop {
            way.wait_for_room();
            let Ok(read @ 1..) = from.read(&mut buffer) else { break };
            if !may_pass() || !flying.push(way.enter(read), &buffer[..read], way.link.most_in_flight()) {
                break;
            }
        }
        flying.set(|flight| flight.ended = true);
        let arrived = arriving.join().unwrap_or(false);
        if !arrived {
            let _already_closed = from.shutdown(Shutdown::Both);
        }
    });
}

/// Writes what arrives; whether all of it could be.
fn deliver(mut to: TcpStream, flying: &Flying, delivered: &(dyn Fn(u64) + Sync)) -> bool {
    while let Some(chunk) = flying.pop() {
        if to.write_all(&chunk).is_err() {
            flying.set(|flight| flight.refused = true);
            let _already_closed = to.shutdown(Shutdown::Both);
            return false;
        }
        delivered(chunk.len() as u64);
    }
    // The other way may still have something to say.
    let _already_closed = to.shutdown(Shutdown::Write);
    true
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::proxy::Proxy;

    const GIGABIT: u64 = 1_000_000_000;

    /// A server that answers the first byte with that many.
    fn server(answer_bytes: usize) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    stream.read_exact(&mut [0]).unwrap();
                    // The client may have seen enough.
                    let _left = stream.write_all(&vec![7; answer_bytes]);
                });
            }
        });
        address
    }

    fn ask(proxy: &Proxy) -> (Duration, usize) {
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let began = Instant::now();
        stream.write_all(&[1]).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer.iter().all(|byte| *byte == 7));
        (began.elapsed(), answer.len())
    }

    #[test]
    fn a_round_trip_takes_its_time() {
        let proxy = Proxy::over(Link::new(Duration::from_millis(60), GIGABIT), &server(1));
        let (took, _) = ask(&proxy);
        assert!(took >= Duration::from_millis(60), "{took:?}");
    }

    #[test]
    fn one_stream_fills_a_long_wide_line_and_no_more() {
        const BYTES: usize = 100_000_000;
        let proxy = Proxy::over(Link::new(Duration::from_millis(100), GIGABIT), &server(BYTES));
        let wanted = Duration::from_millis(100 + 800);
        // A busy machine can only make it slower, so the fastest of some attempts tells what the line carries.
        let took = (0..5).map(|_| {
            let (took, bytes) = ask(&proxy);
            assert_eq!(bytes, BYTES);
            assert!(took >= wanted, "{took:?}: faster than the line");
            took
        });
        let fastest = took.min().unwrap();
        assert!(fastest < wanted * 3 / 2, "{fastest:?} instead of {wanted:?}");
    }

    #[test]
    fn connections_share_the_width() {
        const BYTES: usize = 5_000_000;
        let proxy = Proxy::over(Link::new(Duration::ZERO, GIGABIT / 10), &server(BYTES));
        let began = Instant::now();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| assert_eq!(ask(&proxy).1, BYTES));
            }
        });
        // Twice 0.4 s, less what the queue lets in.
        assert!(began.elapsed() >= Duration::from_millis(790), "{:?}", began.elapsed());
        assert_eq!(proxy.to_client_bytes(), 2 * BYTES as u64);
    }

    #[test]
    fn a_client_that_leaves_ends_the_connection() {
        let proxy = Proxy::over(Link::new(Duration::from_millis(2), GIGABIT / 100), &server(50_000_000));
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        stream.write_all(&[1]).unwrap();
        stream.read_exact(&mut [0; 1000]).unwrap();
        drop(stream);
        crate::eventually(Duration::from_secs(10), || {
            let before = proxy.to_client_bytes();
            thread::sleep(Duration::from_millis(100));
            let after = proxy.to_client_bytes();
            if before == after { Ok(()) } else { Err(format!("still sending: {before}, then {after} bytes")) }
        });
    }
}
