//! From a listener's socket to connections that are served, moved between threads and told of the broker's end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use leveret_protocol::AmqpError;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::clock::Sleep;
use crate::command::{ConnectionEvent, Peer};
use crate::connection::{self, Moving};
use crate::server::{Shared, Stop};
use crate::threads::Threads;

/// How long pending confirms may take on shutdown, before the close is sent without them.
const CONFIRM_LIMIT: Duration = Duration::from_secs(5);
/// How long clients may take to answer the close on shutdown, from its beginning.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(8);
/// Pause after accepting failed, as it does when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until the broker stops, and sees them through to their end.
pub(crate) async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    threads: Arc<Threads>,
    mut stopping: watch::Receiver<Stop>,
) {
    let mut connections = Connections { set: JoinSet::new(), threads };
    let mut pause: Option<Sleep> = None;
    loop {
        tokio::select! {
            accepted = listener.accept(), if pause.is_none() => match accepted {
                Ok((io, from)) => {
                    connections.set.spawn(serve(io, from, shared.clone(), stopping.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    pause = Some(shared.clock.sleep(ACCEPT_PAUSE));
                }
            },
            // Those that are there are seen to meanwhile.
            () = async { if let Some(pause) = &mut pause { pause.await } }, if pause.is_some() => pause = None,
            true = connections.next() => {}
            _ = stopping.changed() => break,
        }
    }
    let now = shared.clock.now();
    let over = shared.clock.sleep_until(now + SHUTDOWN_LIMIT);
    drop(listener);
    let graceful = matches!(*stopping.borrow(), Stop::Graceful);
    if graceful {
        for peer in shared.peers_now() {
            let error = AmqpError::connection_forced("broker forced connection closure with reason 'shutdown'");
            let until = now + CONFIRM_LIMIT;
            let _ = peer.mailbox.push(ConnectionEvent::Close { error, until });
        }
        let all = async { while connections.next().await {} };
        tokio::select! {
            () = all => {}
            () = over => tracing::warn!("some clients did not answer the close in time"),
        }
    }
    connections.set.shutdown().await;
}

/// The connections that came through one listener.
struct Connections {
    set: JoinSet<Option<OnTheWay>>,
    threads: Arc<Threads>,
}

/// A connection that is between two threads.
struct OnTheWay {
    moving: Moving,
    registered: Registered,
}

impl Connections {
    /// Waits until one has ended, or wants to be on another thread, and sends it there. False when there are none.
    async fn next(&mut self) -> bool {
        match self.set.join_next().await {
            None => return false,
            Some(Ok(Some(moving))) => {
                let runtime = self.threads.runtime(moving.moving.to());
                self.set.spawn_on(go_on(moving), &runtime);
            }
            Some(Err(error)) if error.is_panic() => {
                tracing::error!("a connection ended by a defect; its messages were given back");
            }
            Some(_) => {}
        }
        true
    }
}

/// Serves one connection, known to the others while it lasts.
async fn serve(
    io: TcpStream,
    from: SocketAddr,
    shared: Arc<Shared>,
    mut stopping: watch::Receiver<Stop>,
) -> Option<OnTheWay> {
    let stopped = async move {
        // A handshake is not finished during a shutdown.
        let _ = stopping.wait_for(|stop| !matches!(stop, Stop::Running)).await;
    };
    let registered = Registered::new(shared.clone());
    let moving = connection::serve(io, from, shared, registered.peer.clone(), stopped).await?;
    Some(OnTheWay { moving, registered })
}

async fn go_on(OnTheWay { moving, registered }: OnTheWay) -> Option<OnTheWay> {
    let moving = connection::go_on(moving).await?;
    Some(OnTheWay { moving, registered })
}

/// A place in the list of open connections, left when dropped.
struct Registered {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
}

impl Registered {
    fn new(shared: Arc<Shared>) -> Registered {
        let peer = shared.new_peer();
        Registered { shared, peer }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.forget_peer(&self.peer);
    }
}
