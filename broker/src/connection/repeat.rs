//! A publish that differs from the one before in nothing but its body: what was found out about that one holds.

use leveret_protocol::Whole;
use leveret_protocol::pattern::{Alike, Pattern};

use super::Connection;
use super::publishing::{Plan, at_publish, note};
use super::routes::Route;
use crate::command::Requester;
use crate::message::Meta;
use crate::outbox::Body;

/// The last publish, if it came whole and what was found out about it depends on nothing but its frames, the topology
/// and the permissions. Whatever is looked at the long way takes its place.
#[derive(Default)]
pub struct Repeat {
    pattern: Pattern,
    found: Option<Found>,
    /// Publishes in a row that were not like the one before.
    misses: u32,
}

/// Publishes that differ after which it is not worth while to remember each.
const TRIES: u32 = 16;
/// One of so many is remembered then.
const SELDOM: u32 = 16;

struct Found {
    /// Whose publish it was, for confirms.
    from: Requester,
    route: Route,
    meta: Meta,
    expiration: Option<u64>,
}

impl Repeat {
    pub fn clear(&mut self) {
        self.found = None;
    }

    fn set(&mut self, input: &[u8], whole: &Whole<'_>, plan: &Plan, from: Requester) {
        self.pattern.set(input, whole);
        let &Plan { route, meta, expiration, .. } = plan;
        self.found = Some(Found { from, route, meta, expiration });
    }

    /// Whether the next one is likely to be like this one.
    fn is_worth_while(&mut self) -> bool {
        self.misses = self.misses.wrapping_add(1);
        self.misses <= TRIES || self.misses.is_multiple_of(SELDOM)
    }
}

impl Connection {
    /// Takes a publish that is like the last one off `input`, and says how many bytes that was. `None`: it has to be
    /// looked at.
    #[inline]
    pub(super) fn publish_again(&mut self, input: &[u8]) -> Option<usize> {
        let Repeat { pattern, found: Some(found), misses } = &mut self.repeat else { return None };
        let Alike { message, body_size, consumed } = pattern.find(input, self.frame_max)?;
        let channel = self.channels.get_key(found.from.channel)?;
        let queues = self.routes.queues(found.route);
        let usual = channel.is_open() && channel.assembler.is_idle() && channel.transaction.is_none();
        if !usual
            || queues.is_empty()
            || body_size > self.shared.config.max_message_size.bytes()
            || !self.routes.are_current(&self.vhost)
        {
            return None;
        }
        *misses = 0;
        let confirm = channel.next_publish().map(|next| (&found.from, next));
        let meta = found.meta.published_at(self.now);
        let answers = self.outbox.publish(Body::Borrowed(message), meta, found.expiration, queues, confirm);
        if channel.confirms.is_some() {
            channel.published(answers);
            note(&mut self.confirming, found.from.channel.number);
        }
        self.look_at_pressure();
        Some(consumed)
    }

    /// A publish that lies whole in the input, which begins with it.
    pub(super) fn publish_whole(&mut self, whole: &Whole<'_>, input: &[u8]) {
        let placed = self.plan(whole.channel, &whole.publish, &whole.header).and_then(|plan| {
            if plan.is_by_its_frames()
                && self.repeat.is_worth_while()
                && let Some(key) = self.channels.get(whole.channel).map(|channel| channel.key)
            {
                let from = self.requester(key);
                self.repeat.set(input, whole, &plan, from);
            }
            self.place(plan, Body::Borrowed(whole.message))
        });
        if let Err(error) = placed {
            self.raise(whole.channel, at_publish(error));
        }
    }
}

impl Plan {
    /// Whether everything in it follows from the publish's frames, the topology and the permissions: no reply consumer
    /// has a say, and the route is remembered.
    fn is_by_its_frames(&self) -> bool {
        matches!(self.route, Route::Known(_)) && self.reply_to.is_none()
    }
}
