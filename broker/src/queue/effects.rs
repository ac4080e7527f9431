//! What follows from a queue's turn, collected and then handed out at once.

use std::sync::Arc;

use leveret_storage::Entry;

use crate::command::{ConnectionEvent, Peer, Release, Reply, Requester, Token};
use crate::paging::Ranges;
use crate::vhost::command::TopologyCommand;
use crate::vhost::dead_letter::DeadLetter;

/// Handed out in the order of the fields.
#[derive(Default)]
pub struct Effects {
    /// The highest persistent message that is delivered in this turn.
    pub delivered_through: Option<u64>,
    pub storage: Vec<Entry<Token>>,
    /// Let go of once `storage` has been handed over.
    pub releases: Vec<Arc<Release>>,
    pub events: Vec<(Arc<Peer>, Vec<ConnectionEvent>)>,
    pub dead_letters: Vec<DeadLetter>,
    pub topology: Vec<TopologyCommand>,
    /// What is to be read from storage, each at once.
    pub loads: Vec<Ranges>,
    /// Blocks of little use are to be freed.
    pub tidy: bool,
    /// When the queue wants a tick, in milliseconds since the Unix epoch.
    pub tick: Option<u64>,
}

impl Effects {
    pub fn event(&mut self, peer: &Arc<Peer>, event: ConnectionEvent) {
        match self.events.iter_mut().find(|(other, _)| Arc::ptr_eq(other, peer)) {
            Some((_, events)) => events.push(event),
            None => self.events.push((peer.clone(), vec![event])),
        }
    }

    pub fn reply(&mut self, to: &Requester, reply: Reply) {
        self.event(&to.peer, ConnectionEvent::Reply { channel: to.channel, reply });
    }

    /// A persistent message up to `sequence` is handed out.
    pub fn delivered(&mut self, sequence: u64) {
        self.delivered_through = self.delivered_through.max(Some(sequence));
    }
}
