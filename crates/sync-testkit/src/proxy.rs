//! A TCP proxy on loopback that stands for a bad network.
//!
//! It can be a line of a certain length and width ([`Link`]), delay, cut (connections are closed, new ones too), stall (both
//! ways stop while everything stays open, which is what a dead router looks like), and spoil what passes ([`Disturbance`]).
//! Plain threads; a connection costs two, over a [`Link`] four.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

pub use crate::noise::{Disturbance, Fault};
use crate::{
    link::{self, Link, Way},
    noise::Noise,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Forward,
    Stalled,
    Cut,
    Closed,
}

#[derive(Debug)]
struct Inner {
    mode: Mode,
    delay: Duration,
    server: String,
    open: Vec<TcpStream>,
    /// Connections that were made before this number of them pass nothing any more, for ever.
    dead_before: u64,
    made: u64,
    /// To the server, and to the client.
    noise: [Option<Noise>; 2],
    faults: u64,
}

#[derive(Debug)]
struct State {
    inner: Mutex<Inner>,
    changed: Condvar,
    /// The two ways of the link, if it is one.
    to_server: Option<Way>,
    to_client: Option<Way>,
    to_server_bytes: AtomicU64,
    to_client_bytes: AtomicU64,
}

/// A proxy in front of one server. Dropping it closes every connection.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

impl Proxy {
    /// A proxy that forwards to `server` (host and port).
    #[must_use]
    pub fn to(server: &str) -> Self {
        Self::start(server, None)
    }

    /// A proxy that is a line to `server`: everything takes its time, and all connections share its width.
    #[must_use]
    pub fn over(link: Link, server: &str) -> Self {
        Self::start(server, Some(link))
    }

    fn start(server: &str, link: Option<Link>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let inner = Inner {
            mode: Mode::Forward,
            delay: Duration::ZERO,
            server: server.into(),
            open: Vec::new(),
            dead_before: 0,
            made: 0,
            noise: [None, None],
            faults: 0,
        };
        let state = Arc::new(State {
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            to_server: link.map(Way::new),
            to_client: link.map(Way::new),
            to_server_bytes: AtomicU64::new(0),
            to_client_bytes: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&state);
        thread::spawn(move || accept(&listener, &accepting));
        Self { address, state }
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Where clients reach the server through it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits that long before passing on what was read, each time.
    pub fn delay(&self, delay: Duration) {
        self.state.lock().delay = delay;
    }

    /// Closes all connections, and new ones at once, until [`Proxy::resume`].
    pub fn cut(&self) {
        self.state.set(Mode::Cut);
    }

    /// Closes the present connections; new ones are served.
    pub fn cut_once(&self) {
        self.state.set(Mode::Cut);
        self.state.set(Mode::Forward);
    }

    /// Stops passing anything on, with everything left open, until [`Proxy::resume`].
    pub fn stall(&self) {
        self.state.set(Mode::Stalled);
    }

    /// The present connections stay open and never pass anything again, whatever is called later but a cut; new ones are
    /// served. This is what a firewall does that forgot them.
    pub fn stall_once(&self) {
        let mut inner = self.state.lock();
        inner.dead_before = inner.made;
    }

    /// Spoils what passes from now on, both ways, until [`Proxy::calm`]. Not over a [`Link`].
    pub fn disturb(&self, what: Disturbance) {
        let mut inner = self.state.lock();
        inner.settle_noise();
        inner.noise = [Some(Noise::new(what, 0)), Some(Noise::new(what, 1))];
    }

    /// The line is good again.
    pub fn calm(&self) {
        let mut inner = self.state.lock();
        inner.settle_noise();
    }

    /// How many faults there were so far.
    #[must_use]
    pub fn faults(&self) -> u64 {
        let inner = self.state.lock();
        inner.faults + inner.noise.iter().flatten().map(|noise| noise.faults).sum::<u64>()
    }

    /// Ends a cut or a stall.
    pub fn resume(&self) {
        self.state.set(Mode::Forward);
    }

    /// Forwards new connections to another server.
    pub fn retarget(&self, server: &str) {
        self.state.lock().server = server.into();
    }

    /// Bytes that went to the server so far.
    #[must_use]
    pub fn to_server_bytes(&self) -> u64 {
        self.state.to_server_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that went to clients so far.
    #[must_use]
    pub fn to_client_bytes(&self) -> u64 {
        self.state.to_client_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.set(Mode::Closed);
        // Wakes the accepting thread, which then sees that it is over.
        let _woken = TcpStream::connect(self.address);
    }
}

impl Inner {
    fn settle_noise(&mut self) {
        self.faults += self.noise.iter_mut().filter_map(Option::take).map(|noise| noise.faults).sum::<u64>();
    }
}

/// One way of one connection.
#[derive(Debug, Clone, Copy)]
struct Passage {
    /// The number of the connection.
    connection: u64,
    /// 0 to the server, 1 to the client.
    way: usize,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no proxy thread panics")
    }

    fn set(&self, mode: Mode) {
        let mut inner = self.lock();
        inner.mode = mode;
        if matches!(mode, Mode::Cut | Mode::Closed) {
            for stream in inner.open.drain(..) {
                let _already_closed = stream.shutdown(Shutdown::Both);
            }
        }
        drop(inner);
        self.changed.notify_all();
    }

    /// Waits out a stall; then says how long to hold back what was read, or `None` if all is over.
    fn pass(&self, connection: u64) -> Option<Duration> {
        let held = |inner: &mut Inner| match inner.mode {
            Mode::Stalled => true,
            Mode::Forward => connection < inner.dead_before,
            Mode::Cut | Mode::Closed => false,
        };
        let inner = self.changed.wait_while(self.lock(), held).expect("no proxy thread panics");
        (inner.mode == Mode::Forward).then_some(inner.delay)
    }

    /// Lets the line do to these bytes what it does. See [`Noise::meets`].
    fn spoil(&self, way: usize, bytes: &mut [u8]) -> (usize, Option<Fault>) {
        match &mut self.lock().noise[way] {
            Some(noise) => noise.meets(bytes),
            None => (bytes.len(), None),
        }
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    for client in listener.incoming() {
        let mode = state.lock().mode;
        match (mode, client) {
            (Mode::Closed, _) => return,
            (Mode::Cut, _) | (_, Err(_)) => {}
            (Mode::Forward | Mode::Stalled, Ok(client)) => {
                let state = Arc::clone(state);
                thread::spawn(move || serve(client, &state));
            }
        }
    }
}

/// Connects one client. In a stall the client sits in an open connection that nobody answers.
fn serve(client: TcpStream, state: &Arc<State>) {
    let Some(_) = state.pass(u64::MAX) else { return };
    let server = state.lock().server.clone();
    let Ok(server) = TcpStream::connect(server) else { return };
    let _slower = (client.set_nodelay(true), server.set_nodelay(true));
    let (Ok(client_end), Ok(server_end)) = (client.try_clone(), server.try_clone()) else { return };
    let connection = {
        let mut inner = state.lock();
        if matches!(inner.mode, Mode::Cut | Mode::Closed) {
            return;
        }
        inner.open.extend([client.try_clone(), server.try_clone()].into_iter().flatten());
        inner.made += 1;
        inner.made - 1
    };
    let back = Arc::clone(state);
    let to = |way| Passage { connection, way };
    let to_client = to(1);
    thread::spawn(move || match &back.to_client {
        Some(way) => carry(server, client, &back, (connection, way, &back.to_client_bytes)),
        None => pump(server, client, &back, (to_client, &back.to_client_bytes)),
    });
    match &state.to_server {
        Some(way) => carry(client_end, server_end, state, (connection, way, &state.to_server_bytes)),
        None => pump(client_end, server_end, state, (to(0), &state.to_server_bytes)),
    }
}

/// One way of one connection over a link. A stall holds back what comes in; what is on its way arrives.
fn carry(from: TcpStream, to: TcpStream, state: &State, (connection, way, count): (u64, &Way, &AtomicU64)) {
    let may_pass = || state.pass(connection).is_some();
    let delivered = |bytes| {
        count.fetch_add(bytes, Ordering::Relaxed);
    };
    link::carry(from, to, way, (&may_pass, &delivered));
}

fn pump(mut from: TcpStream, mut to: TcpStream, state: &State, (passage, count): (Passage, &AtomicU64)) {
    let mut buffer = vec![0; 64 << 10];
    'open: while let Ok(read @ 1..) = from.read(&mut buffer) {
        let mut rest = &mut buffer[..read];
        while !rest.is_empty() {
            let Some(delay) = state.pass(passage.connection) else { break 'open };
            if !delay.is_zero() {
                thread::sleep(delay);
            }
            let (passes, fault) = state.spoil(passage.way, rest);
            let (now, later) = rest.split_at_mut(passes);
            if to.write_all(now).is_err() {
                break 'open;
            }
            count.fetch_add(passes as u64, Ordering::Relaxed);
            match fault {
                Some(Fault::Cut) => break 'open,
                Some(Fault::Pause(length)) => thread::sleep(length),
                Some(Fault::Corrupt) | None => {}
            }
            rest = later;
        }
    }
    let _already_closed = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets.
    fn echo_server() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut from = stream.unwrap();
                let mut to = from.try_clone().unwrap();
                thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
        });
        address
    }

    fn connect(proxy: &Proxy) -> TcpStream {
        let stream = TcpStream::connect(proxy.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    fn echo(stream: &mut TcpStream) -> std::io::Result<()> {
        stream.write_all(b"ping")?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer)
    }

    #[test]
    fn forwards_and_counts() {
        let proxy = Proxy::to(&echo_server());
        proxy.delay(Duration::from_millis(1));
        echo(&mut connect(&proxy)).unwrap();
        crate::eventually(Duration::from_secs(5), || {
            match (proxy.to_server_bytes(), proxy.to_client_bytes()) {
                (4, 4) => Ok(()),
                other => Err(format!("{other:?} bytes")),
            }
        });
    }

    #[test]
    fn a_cut_closes_old_and_new_connections() {
        let proxy = Proxy::to(&echo_server());
        let mut stream = connect(&proxy);
        echo(&mut stream).unwrap();
        proxy.cut();
        assert!(echo(&mut stream).is_err());
        assert!(echo(&mut connect(&proxy)).is_err());
        proxy.resume();
        echo(&mut connect(&proxy)).unwrap();
        proxy.cut_once();
        echo(&mut connect(&proxy)).unwrap();
    }

    #[test]
    fn a_stall_is_silent_and_loses_nothing() {
        let proxy = Proxy::to(&echo_server());
        let mut stream = connect(&proxy);
        echo(&mut stream).unwrap();
        proxy.stall();
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let error = echo(&mut stream).unwrap_err();
        assert!(
            matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
            "{error}"
        );
        proxy.resume();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"ping");
    }

    #[test]
    fn a_connection_that_was_forgotten_stays_silent_and_new_ones_work() {
        let proxy = Proxy::to(&echo_server());
        let mut stream = connect(&proxy);
        echo(&mut stream).unwrap();
        proxy.stall_once();
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let error = echo(&mut stream).unwrap_err();
        assert!(
            matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
            "{error}"
        );
        echo(&mut connect(&proxy)).unwrap();
        proxy.resume();
        assert!(echo(&mut stream).is_err(), "it came back");
        proxy.cut_once();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert!(stream.read_exact(&mut [0]).is_err(), "it ends with the others");
    }

    /// What comes back of a megabyte of zeros.
    fn sent_back(proxy: &Proxy) -> Vec<u8> {
        let mut to = connect(proxy);
        let from = to.try_clone().unwrap();
        thread::spawn(move || {
            // A cut may come first.
            let _refused = to.write_all(&vec![0; 1 << 20]);
        });
        let mut came = Vec::new();
        // So may a reset.
        let _reset = from.take(1 << 20).read_to_end(&mut came);
        came
    }

    #[test]
    fn a_line_can_spoil_what_passes() {
        let proxy = Proxy::to(&echo_server());
        let disturb = |fault| proxy.disturb(Disturbance { fault, mean_bytes: 50_000, seed: 3 });
        disturb(Fault::Corrupt);
        let came = sent_back(&proxy);
        let wrong = came.iter().filter(|byte| **byte != 0).count() as u64;
        assert_eq!((came.len(), wrong), (1 << 20, proxy.faults()));
        assert!(wrong > 10, "{wrong} bytes are wrong");
        disturb(Fault::Cut);
        let came = sent_back(&proxy);
        assert!(came.len() < 200_000 && came.iter().all(|byte| *byte == 0), "{} bytes came", came.len());
        disturb(Fault::Pause(Duration::from_millis(1)));
        assert_eq!(sent_back(&proxy), vec![0; 1 << 20]);
        let before = proxy.faults();
        proxy.calm();
        assert_eq!(sent_back(&proxy), vec![0; 1 << 20]);
        assert_eq!(proxy.faults(), before);
    }

    #[test]
    fn dropping_it_closes_everything() {
        let proxy = Proxy::to(&echo_server());
        let mut stream = connect(&proxy);
        echo(&mut stream).unwrap();
        drop(proxy);
        assert!(echo(&mut stream).is_err());
    }
}
