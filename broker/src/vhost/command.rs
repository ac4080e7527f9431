//! What the owner of a virtual host's topology is told.

use leveret_protocol::amq::FieldTable;
use leveret_storage::Run;
use tokio::sync::oneshot;

use super::snapshot::Name;
use crate::command::{Reply, Requester};
use crate::policy::{Kind, Policy};

/// `exchange.declare`, without the passive form, which needs no change.
#[derive(Clone)]
pub struct ExchangeDeclare {
    pub name: Box<str>,
    /// As the client wrote it.
    pub kind: Box<str>,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub arguments: FieldTable,
}

/// `queue.declare`, active or passive. The name is the final one.
#[derive(Clone)]
pub struct QueueDeclare {
    pub name: Box<str>,
    pub passive: bool,
    pub durable: bool,
    pub exclusive: bool,
    pub auto_delete: bool,
    pub arguments: FieldTable,
}

/// What a binding leads to, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DestinationKind {
    Queue,
    Exchange,
}

/// A binding as a client names it.
#[derive(Clone)]
pub struct BindingSpec {
    pub source: Box<str>,
    pub kind: DestinationKind,
    pub destination: Box<str>,
    pub key: Box<[u8]>,
    pub arguments: FieldTable,
}

/// Told when what was asked for is on disk; dropped when it never will be.
pub type Done = oneshot::Sender<()>;

pub enum TopologyCommand {
    DeclareExchange {
        from: Requester,
        declare: ExchangeDeclare,
    },
    CheckExchange {
        from: Requester,
        name: Box<str>,
    },
    DeleteExchange {
        from: Requester,
        name: Box<str>,
        if_unused: bool,
    },
    Bind {
        from: Requester,
        binding: BindingSpec,
    },
    Unbind {
        from: Requester,
        binding: BindingSpec,
    },
    DeclareQueue {
        from: Requester,
        declare: QueueDeclare,
    },
    DeleteQueue {
        from: Requester,
        name: Box<str>,
        if_unused: bool,
        if_empty: bool,
    },
    /// A queue has ended by itself; `then` is answered once nobody finds it any more.
    QueueDead {
        name: Box<str>,
        id: u64,
        then: Option<(Requester, Reply)>,
    },
    /// Messages have come by this x-recent-history exchange.
    Remember {
        exchange: Name,
        run: Run,
    },
    /// Answers behind everything that came before it; with `stored`, once that is on disk.
    Relay {
        to: Requester,
        reply: Reply,
        stored: bool,
    },
    /// The connection's exclusive queues go; then `from` is told.
    ConnectionGone {
        id: u64,
        from: Option<Requester>,
    },
    /// A checked policy is set, or changed.
    SetPolicy {
        kind: Kind,
        policy: Box<Policy>,
        done: Done,
    },
    ClearPolicy {
        kind: Kind,
        name: Box<str>,
        done: Done,
    },
    /// The virtual host ends.
    DeleteAll {
        done: Done,
    },
}

impl TopologyCommand {
    /// Who asks for a change, or for what there is.
    pub fn from(&self) -> Option<&Requester> {
        match self {
            TopologyCommand::DeclareExchange { from, .. }
            | TopologyCommand::CheckExchange { from, .. }
            | TopologyCommand::DeleteExchange { from, .. }
            | TopologyCommand::Bind { from, .. }
            | TopologyCommand::Unbind { from, .. }
            | TopologyCommand::DeclareQueue { from, .. }
            | TopologyCommand::DeleteQueue { from, .. } => Some(from),
            TopologyCommand::QueueDead { .. }
            | TopologyCommand::Remember { .. }
            | TopologyCommand::Relay { .. }
            | TopologyCommand::ConnectionGone { .. }
            | TopologyCommand::SetPolicy { .. }
            | TopologyCommand::ClearPolicy { .. }
            | TopologyCommand::DeleteAll { .. } => None,
        }
    }
}
