//! A connection: one task that owns both halves of the socket and everything that belongs to this client.
//!
//! * [`serve`]: the task, from the first octet to the last, and from thread to thread; [`handshake`]: protocol header to
//!   open-ok.
//! * [`socket`]: reading and writing it; [`output`]: what waits to be written.
//! * [`input`]: frames in; publishes go to [`publishing`] and join the turn's [`crate::outbox`] or the channel's
//!   [`transaction`], everything else goes to [`dispatch`] and on to [`consuming`], [`replying`] and [`declaring`].
//!   [`repeat`] is the short way for a publish that differs from the last one in its body only.
//!   [`incomplete`]: what has come of a message whose end has not; [`partial`]: of a large body frame.
//! * [`events`]: what queues, topology and storage say; deliveries are encoded here.
//! * [`sending`]: what a turn has for queues and exchanges.
//! * [`lone`]: a confirm that somebody else writes.
//! * [`time`]: what is done when a time has come; [`heartbeat`]: silence, and who must break it; [`timeout`]: deliveries
//!   that wait too long for their acknowledgement.
//! * [`closing`]: how channels and the connection end, and what they give back.
//!
//! The task is one loop over mailbox, socket and timers, none before the others. It never waits for another owner:
//! it asks, and the answer comes through the mailbox. The only thing it does wait for is its socket, and reading
//! stops when there is nowhere to put what would be read (see [`Connection::reads`]).

mod channel;
mod closing;
mod confirms;
mod consuming;
mod declaring;
mod dispatch;
mod events;
mod handshake;
mod heartbeat;
mod incomplete;
mod input;
mod lone;
mod output;
mod partial;
mod permitted;
mod publishing;
mod repeat;
mod replying;
mod routes;
mod sending;
mod serve;
mod socket;
mod time;
mod timeout;
mod transaction;
mod unacked;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use leveret_protocol::{AmqpError, method};
use tokio::net::TcpStream;
use tokio::task;

use self::channel::Channels;
use self::handshake::{Capabilities, Session};
use self::heartbeat::Heartbeat;
use self::output::Output;
use self::partial::Partial;
use self::repeat::Repeat;
use self::routes::Routes;
use self::sending::Full;
pub(crate) use self::serve::{Moving, go_on, serve};
use self::socket::Read;
use crate::access::rights::Rights;
use crate::clock::Sleep;
use crate::command::{ChannelKey, ConnectionEvent, ConsumerKey, Peer, Requester, Window};
use crate::lone::Handle;
use crate::methods;
use crate::outbox::Outbox;
use crate::queue::Queue;
use crate::server::Shared;
use crate::vhost::VHost;

/// Bytes waiting to be written above which no further delivery is encoded.
const OUTPUT_LIMIT: usize = 256 << 10;
/// Bytes waiting to be written above which the client's requests are not read either: only a client that asks
/// without reading the answers gets there.
const OUTPUT_HARD_LIMIT: usize = 4 << 20;
/// Bytes of frames deferred behind outstanding requests above which reading stops.
const DEFERRED_LIMIT: usize = 512 << 10;
/// Rounds of the loop before other tasks get their turn.
const ROUNDS: usize = 16;
/// Bytes read and written before other tasks get their turn, even if rounds are left: some thousand small messages, which
/// take about a millisecond.
const ROUND_BYTES: u64 = 256 << 10;
/// After a fatal frame error the socket stays open this long, unread, so that the client sees the close.
const FATAL_LINGER: Duration = Duration::from_secs(3);

/// The life of a connection after its handshake.
enum Phase {
    Running,
    /// Queues, then the topology, are taking back what the connection holds.
    Releasing {
        left: u32,
        topology_asked: bool,
        /// The broker's reason; None: the client closes.
        error: Option<AmqpError>,
    },
    /// connection.close is sent, its close-ok awaited.
    AwaitingCloseOk,
    /// Everything is said; the client is to close the socket.
    AwaitingEnd,
    /// As before, after an error that makes further reading senseless.
    Fatal,
    Ended,
}

/// A consumer of this connection, until its queue has said that nothing more comes.
struct Consumer {
    channel: ChannelKey,
    key: ConsumerKey,
    queue: Arc<Queue>,
    tag: Box<str>,
    window: Arc<Window>,
}

pub struct Connection {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    vhost: Arc<VHost>,
    rights: Rights,
    frame_max: u32,
    channel_max: u16,
    capabilities: Capabilities,
    phase: Phase,
    channels: Channels,
    next_epoch: u32,
    consumers: foldhash::HashMap<u64, Consumer>,
    outbox: Outbox,
    routes: Routes,
    repeat: Repeat,
    inbox: VecDeque<ConnectionEvent>,
    output: Output,
    /// A frame that has not come whole yet, or input that must wait.
    carry: Vec<u8>,
    /// Frames of channels that have just ended: they come before `carry`.
    first: Vec<u8>,
    /// A body frame whose beginning is in its message already.
    partial: Option<Partial>,
    /// `first` or `carry` has whole frames that could not be looked at when they came.
    unread: bool,
    /// Bytes in all channels' deferred frames.
    deferred: usize,
    /// The client has published while memory was short: it is not read until the gate opens.
    parked: bool,
    /// It was told so.
    told_blocked: bool,
    /// A mailbox that was full when it was last looked at.
    full: Option<Full>,
    /// The wall clock when the current input was read, in milliseconds since the Unix epoch.
    now: u64,
    /// The broker's clock when the first delivery was made of the events that are being handled.
    moment: Option<Duration>,
    /// When outstanding deliveries are looked at next; None: there were none the last time, and none since.
    next_tick: Option<Duration>,
    /// Channels with confirms to be sent.
    confirming: Vec<u16>,
    /// The one confirm that its channel waited for when confirms were last sent.
    lone: Option<(ChannelKey, u64)>,
    /// Another handle to the socket, once one was wanted: for [`crate::lone`].
    socket: Option<Arc<Handle>>,
    /// It has been left there.
    offered: bool,
    /// Channels whose transactions have got messages that do not count as memory in use yet.
    transacting: Vec<u16>,
    /// Channels whose consumers may have room again.
    waking: Vec<u16>,
    heartbeat: Option<Heartbeat>,
    heartbeat_seconds: u16,
    received: u64,
    sent: u64,
    turns: u64,
    /// The thread that it lives on.
    thread: usize,
    /// When the current phase is over, whatever the client does.
    deadline: Option<Duration>,
    sleep: Option<(Duration, Sleep)>,
    shutting_down: Option<AmqpError>,
}

impl Connection {
    fn new(session: Session, shared: Arc<Shared>, peer: Arc<Peer>) -> Connection {
        Connection {
            heartbeat: Heartbeat::new(session.heartbeat, shared.clock.now()),
            heartbeat_seconds: session.heartbeat,
            rights: Rights::new(shared.access.clone(), session.user, session.vhost.name.clone()),
            shared,
            peer,
            vhost: session.vhost,
            frame_max: session.frame_max,
            channel_max: session.channel_max,
            capabilities: session.capabilities,
            phase: Phase::Running,
            channels: Channels::default(),
            next_epoch: 1,
            consumers: foldhash::HashMap::default(),
            outbox: Outbox::default(),
            routes: Routes::default(),
            repeat: Repeat::default(),
            inbox: VecDeque::new(),
            output: Output::default(),
            carry: session.left_over,
            first: Vec::new(),
            partial: None,
            unread: true,
            deferred: 0,
            parked: false,
            told_blocked: false,
            full: None,
            now: 0,
            moment: None,
            next_tick: None,
            confirming: Vec::new(),
            lone: None,
            socket: None,
            offered: false,
            transacting: Vec::new(),
            waking: Vec::new(),
            received: 0,
            sent: 0,
            turns: 0,
            thread: 0,
            deadline: None,
            sleep: None,
            shutting_down: None,
        }
    }

    /// One turn of the task. Ready when the connection has ended, or has to move to another thread. Never inlined, so
    /// that `benches/instructions` can name it.
    #[inline(never)]
    fn poll(&mut self, io: &mut TcpStream, cx: &mut Context<'_>) -> Poll<()> {
        self.take_socket_back();
        let place = &self.peer.place;
        place.worked(self.received + self.sent, self.turns);
        if place.wanted() != self.thread {
            return Poll::Ready(());
        }
        self.turns += 1;
        let enough = self.received + self.sent + ROUND_BYTES;
        for _ in 0..ROUNDS {
            let mut progress = self.take_events();
            progress |= self.unpark(cx);
            progress |= self.resume_deferred();
            progress |= self.resume_unread();
            let read = self.read(io, cx);
            progress |= matches!(read, Read::Some | Read::Last);
            self.emit_confirms();
            progress |= self.write(io, cx);
            if matches!(self.phase, Phase::Ended) {
                return Poll::Ready(());
            }
            if !progress || matches!(read, Read::Last | Read::Blocked) && self.rests() {
                if self.look_at_time(cx) {
                    if matches!(self.phase, Phase::Ended) {
                        return Poll::Ready(());
                    }
                    continue;
                }
                self.give_memory_back();
                self.offer_socket(io);
                if self.peer.mailbox.sleep(cx.waker()) {
                    return Poll::Pending;
                }
                self.take_socket_back();
            } else if self.received + self.sent >= enough {
                break;
            }
        }
        self.look_at_time(cx);
        if matches!(self.phase, Phase::Ended) {
            return Poll::Ready(());
        }
        // Not just behind the tasks that are ready now, but behind a look at all sockets: else whoever is heard of through
        // them waits for many such turns.
        let _ = pin!(task::yield_now()).poll(cx);
        Poll::Pending
    }

    /// Whether the socket is read now. Not while there is nowhere to put what comes.
    fn reads(&self) -> bool {
        if self.output.len() > OUTPUT_HARD_LIMIT {
            return false;
        }
        match self.phase {
            Phase::Fatal | Phase::Ended => false,
            Phase::Releasing { .. } | Phase::AwaitingCloseOk | Phase::AwaitingEnd => true,
            Phase::Running => {
                !self.parked && self.full.is_none() && self.deferred <= DEFERRED_LIMIT && self.shutting_down.is_none()
            }
        }
    }

    /// Lets a publisher go on once there is room again.
    fn unpark(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        if self.parked && !self.shared.pressure.park(cx.waker()) {
            self.parked = false;
            if std::mem::take(&mut self.told_blocked) {
                self.send(0, &methods::connection_unblocked());
            }
            progress = true;
        }
        if let Some(full) = &self.full
            && !full.is_full(cx.waker())
        {
            self.full = None;
            progress = true;
        }
        progress
    }

    /// A round behind which there is nothing left to do, though it did something: the socket, which has nothing more and
    /// took everything, and the mailbox will wake the task.
    fn rests(&self) -> bool {
        matches!(self.phase, Phase::Running)
            && self.output.is_empty()
            && self.inbox.is_empty()
            && !self.unread
            && !self.parked
            && self.full.is_none()
            && self.deferred == 0
    }

    /// A sleeping connection holds no buffers.
    fn give_memory_back(&mut self) {
        self.output.give_back();
        if self.inbox.is_empty() && self.inbox.capacity() > 64 {
            self.inbox = VecDeque::new();
        }
        if self.carry.is_empty() && self.carry.capacity() > 0 {
            self.carry = Vec::new();
        }
    }

    fn requester(&self, channel: ChannelKey) -> Requester {
        Requester { peer: self.peer.clone(), channel }
    }

    /// The connection itself as one who asks.
    fn as_requester(&self) -> Requester {
        self.requester(ChannelKey { number: 0, epoch: 0 })
    }

    fn send(&mut self, channel: u16, class: &leveret_protocol::amq::AMQPClass) {
        method::encode(self.output.octets(), channel, class);
    }
}
