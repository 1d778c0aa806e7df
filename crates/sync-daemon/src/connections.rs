//! Accepting connections, and ending those that keep a place without using it.
//!
//! Every connection holds one of a fixed number of places; a connection that finds none free is closed at once, so that
//! a flood of them costs descriptors for an instant only. HTTP/2 keepalive ends peers that are silent *after* the
//! handshake; two kinds it does not end, so they have a deadline here: a peer that never sends its first request, and a
//! peer that takes no bytes any more (the keepalive's own close would wait behind them).

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep, sleep_until},
};
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use crate::line::Line;

/// What a socket takes before it is sent; enough for a fast line to stay busy while the next is made.
#[cfg(target_os = "linux")]
const MOST_UNSENT_BYTES: u32 = 1 << 20;

/// How long accepting rests after it failed, which is mostly for want of file descriptors.
const REST_AFTER_FAILURE: Duration = Duration::from_millis(100);

/// When connections end.
#[derive(Debug, Clone)]
pub(crate) struct Ends {
    /// The daemon is shutting down: connections without a request end now.
    pub stop: CancellationToken,
    /// The time for a graceful end is over: all connections end now.
    pub cut: CancellationToken,
    /// How long a peer may take to its first request, and how long it may take no bytes.
    pub patience: Duration,
}

/// The stream of accepted connections.
pub(crate) struct Incoming {
    listener: TcpListener,
    places: Arc<Semaphore>,
    ends: Ends,
    rest: Option<Pin<Box<Sleep>>>,
    /// Whether the last connection was refused; so that a flood is told once, not once for each connection.
    full: bool,
}

impl Incoming {
    /// Accepts at most `places` connections at a time.
    pub(crate) fn new(listener: TcpListener, places: usize, ends: Ends) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(places)), ends, rest: None, full: false }
    }

    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) -> Option<Connection> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            if !self.full {
                warn!(%peer, "refusing connections: all places are taken (limits.max_connections)");
            }
            self.full = true;
            return None;
        };
        self.full = false;
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%peer, %error, "cannot set TCP_NODELAY");
        }
        keep_little_unsent(&stream, peer);
        Some(Connection::new(stream, peer, place, &self.ends))
    }
}

/// Has the kernel take no more than is soon sent. Megabytes would wait in it otherwise in front of a slow line, and with them
/// all that was decided before the line was known: answers that nobody wants any more, and bytes that are not compressed.
#[cfg(target_os = "linux")]
fn keep_little_unsent(stream: &TcpStream, peer: SocketAddr) {
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_notsent_lowat(MOST_UNSENT_BYTES) {
        debug!(%peer, %error, "cannot set TCP_NOTSENT_LOWAT");
    }
}

#[cfg(not(target_os = "linux"))]
fn keep_little_unsent(_: &TcpStream, _: SocketAddr) {}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(rest) = &mut self.rest {
                ready!(rest.as_mut().poll(cx));
                self.rest = None;
            }
            match ready!(self.listener.poll_accept(cx)) {
                Ok((stream, peer)) => {
                    if let Some(connection) = self.admit(stream, peer) {
                        return Poll::Ready(Some(Ok(connection)));
                    }
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    self.rest = Some(Box::pin(sleep(REST_AFTER_FAILURE)));
                }
            }
        }
    }
}

/// One accepted connection.
pub(crate) struct Connection {
    stream: TcpStream,
    peer: Peer,
    ends: Ends,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    accepted: Instant,
    /// Since when the peer has taken no bytes although there are some for it.
    stalled: Option<Instant>,
    /// Never fires later than the next deadline; it may fire earlier and is set anew then.
    timer: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

/// Who is at the other end, as requests see it.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// What its socket told about the line.
    pub line: Arc<Line>,
    asked: Arc<AtomicBool>,
}

impl Peer {
    /// Notes that the connection carries a request, which lifts the deadline for the first one.
    pub(crate) fn asked(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    fn has_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Connection {
    fn new(stream: TcpStream, address: SocketAddr, place: OwnedSemaphorePermit, ends: &Ends) -> Self {
        let accepted = Instant::now();
        Self {
            stream,
            peer: Peer { address, line: Arc::new(Line::new(accepted)), asked: Arc::default() },
            ends: ends.clone(),
            cut: Box::pin(ends.cut.clone().cancelled_owned()),
            accepted,
            stalled: None,
            timer: Box::pin(sleep_until(accepted + ends.patience)),
            _place: place,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let first_request = (!self.peer.has_asked()).then_some(self.accepted);
        let since = [first_request, self.stalled].into_iter().flatten().min()?;
        Some(since + self.ends.patience)
    }

    /// Whether it is time to end; if not, the task is woken when it may be.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Option<io::Error> {
        if self.cut.as_mut().poll(cx).is_ready() || (self.ends.stop.is_cancelled() && !self.peer.has_asked())
        {
            return Some(io::Error::new(io::ErrorKind::ConnectionAborted, "The daemon is shutting down"));
        }
        while let Some(deadline) = self.deadline() {
            if Instant::now() >= deadline {
                debug!(peer = %self.peer.address, "closing a connection that does nothing");
                return Some(io::Error::new(io::ErrorKind::TimedOut, "The peer does nothing"));
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                break;
            }
            self.timer.as_mut().reset(deadline);
        }
        None
    }

    fn written(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(taken) = &result {
            self.stalled = None;
            self.peer.line.took(taken.as_ref().copied().unwrap_or(0), Instant::now());
            return result;
        }
        if self.stalled.is_none() {
            let now = Instant::now();
            self.peer.line.is_full(now);
            self.stalled = Some(now);
            if self.timer.deadline() > now + self.ends.patience || self.timer.is_elapsed() {
                self.timer.as_mut().reset(now + self.ends.patience);
            }
        }
        match self.poll_over(cx) {
            Some(error) => Poll::Ready(Err(error)),
            None => Poll::Pending,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(error) = this.poll_over(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.written(cx, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.written(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
