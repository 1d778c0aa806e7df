//! A TCP proxy on loopback that stands for a bad network.
//!
//! It can be a line of a certain length and width ([`Link`]), delay, cut (connections are closed, new ones too), and stall: both ways stop while everything stays open, which
//! is what a dead router looks like. Plain threads; a connection costs two, over a [`Link`] four.

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

use crate::link::{self, Link, Way};

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
        let inner =
            Inner { mode: Mode::Forward, delay: Duration::ZERO, server: server.into(), open: Vec::new() };
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
    fn pass(&self) -> Option<Duration> {
        let inner = self.lock();
        let inner = self.changed.wait_while(inner, |inner| inner.mode == Mode::Stalled);
        let inner = inner.expect("no proxy thread panics");
        (inner.mode == Mode::Forward).then_some(inner.delay)
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
    let Some(_) = state.pass() else { return };
    let server = state.lock().server.clone();
    let Ok(server) = TcpStream::connect(server) else { return };
    let _slower = (client.set_nodelay(true), server.set_nodelay(true));
    let (Ok(client_end), Ok(server_end)) = (client.try_clone(), server.try_clone()) else { return };
    {
        let mut inner = state.lock();
        if matches!(inner.mode, Mode::Cut | Mode::Closed) {
            return;
        }
        inner.open.extend([client.try_clone(), server.try_clone()].into_iter().flatten());
    }
    let back = Arc::clone(state);
    thread::spawn(move || match &back.to_client {
        Some(way) => carry(server, client, &back, (way, &back.to_client_bytes)),
        None => pump(server, client, &back, &back.to_client_bytes),
    });
    match &state.to_server {
        Some(way) => carry(client_end, server_end, state, (way, &state.to_server_bytes)),
        None => pump(client_end, server_end, state, &state.to_server_bytes),
    }
}

/// One way of one connection over a link. A stall holds back what comes in; what is on its way arrives.
fn carry(from: TcpStream, to: TcpStream, state: &State, (way, count): (&Way, &AtomicU64)) {
    let may_pass = || state.pass().is_some();
    let delivered = |bytes| {
        count.fetch_add(bytes, Ordering::Relaxed);
    };
    link::carry(from, to, way, (&may_pass, &delivered));
}

fn pump(mut from: TcpStream, mut to: TcpStream, state: &State, count: &AtomicU64) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let Some(delay) = state.pass() else { break };
        if !delay.is_zero() {
            thread::sleep(delay);
        }
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
        count.fetch_add(read as u64, Ordering::Relaxed);
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
    fn dropping_it_closes_everything() {
        let proxy = Proxy::to(&echo_server());
        let mut stream = connect(&proxy);
        echo(&mut stream).unwrap();
        drop(proxy);
        assert!(echo(&mut stream).is_err());
    }
}
