//! A connection's task: from the first octet to the last, and from one thread to another.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use super::{Connection, Phase, handshake};
use crate::command::Peer;
use crate::server::Shared;

/// A connection between two threads. Dropped, it gives back what it holds, as when its client goes away.
pub(crate) struct Moving {
    connection: Box<Connection>,
    io: std::net::TcpStream,
}

impl Moving {
    /// The thread that it goes to.
    pub fn to(&self) -> usize {
        self.connection.thread
    }
}

/// Serves one client from its first octet to the end, or until it moves to another thread. A handshake under way when
/// `stopped` ends is given up.
pub(crate) async fn serve(
    mut io: TcpStream,
    from: SocketAddr,
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    stopped: impl Future<Output = ()>,
) -> Option<Moving> {
    if let Err(error) = io.set_nodelay(true) {
        tracing::debug!(client = %from, %error, "cannot set TCP_NODELAY");
    }
    let session = tokio::select! {
        biased;
        session = handshake::run(&mut io, from, &shared) => session,
        () = stopped => None,
    };
    let session = session?;
    tracing::debug!(client = %from, user = &*session.user, "connection open");
    stay(Here { connection: Box::new(Connection::new(session, shared, peer)), io }).await
}

/// Serves a connection on, on the thread that it has come to.
pub(crate) async fn go_on(Moving { connection, io }: Moving) -> Option<Moving> {
    let io = lost(TcpStream::from_std(io))?;
    stay(Here { connection, io }).await
}

/// A connection on its thread. In this order: what it holds is given back before the client sees its socket closed.
struct Here {
    connection: Box<Connection>,
    io: TcpStream,
}

async fn stay(mut here: Here) -> Option<Moving> {
    poll_fn(|cx| here.connection.poll(&mut here.io, cx)).await;
    let Here { mut connection, io } = here;
    if matches!(connection.phase, Phase::Ended) {
        drop(connection);
        return None;
    }
    connection.thread = connection.peer.place.wanted();
    // It was made by the other thread's timer.
    connection.sleep = None;
    let io = lost(io.into_std())?;
    Some(Moving { connection, io })
}

/// A socket that no event loop takes is a connection lost.
fn lost<T>(io: io::Result<T>) -> Option<T> {
    io.inspect_err(|error| tracing::warn!(%error, "connection lost: it cannot move to another thread")).ok()
}
