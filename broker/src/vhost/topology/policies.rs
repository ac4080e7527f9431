//! Policies: kept, and applied to what they match. Also the end of the whole virtual host.

use super::*;
use crate::policy::merge;
use crate::policy::{Kind, Object, Policies, Policy};
use crate::vhost::records::{self, Record};

/// What a queue was declared with, and what that comes to.
pub(super) struct Declared {
    pub declare: QueueDeclare,
    /// By its arguments alone.
    pub own: Settings,
    /// With the policies: what the queue was last told.
    pub in_force: Settings,
}

impl TopologyOwner {
    pub(super) fn set_policy(&mut self, kind: Kind, policy: Policy, done: Done) {
        let key = records::policy_key(kind, &self.name, &policy.name);
        let record = Record::Policy(kind, policy.clone());
        self.entries.push(Entry::Op(Op::PutDefinition { key, value: record.value() }));
        self.snapshot.policies.set(kind, policy);
        self.apply_policies();
        self.done.push(Entry::Notify(Level::Synced, Token::Done(done)));
    }

    pub(super) fn clear_policy(&mut self, kind: Kind, name: &str, done: Done) {
        let key = records::policy_key(kind, &self.name, name);
        self.entries.push(Entry::Op(Op::DeleteDefinition { key }));
        if self.snapshot.policies.clear(kind, name) {
            self.apply_policies();
        }
        self.done.push(Entry::Notify(Level::Synced, Token::Done(done)));
    }

    /// Brings back policies, before the objects that they may apply to.
    pub fn recover_policies(&mut self, policies: Vec<(Kind, Policy)>) {
        for (kind, policy) in policies {
            self.snapshot.policies.set(kind, policy);
        }
        self.apply_policies();
    }

    /// Applies the policies as they now are to every queue and exchange.
    fn apply_policies(&mut self) {
        self.changed = true;
        for (name, declared) in &mut self.declared {
            let settings = under_policies(&self.snapshot.policies, &declared.declare, &declared.own);
            if settings == declared.in_force {
                continue;
            }
            declared.in_force = settings.clone();
            if let Some(queue) = self.snapshot.queues.get(name) {
                // Before the queue hears of it: a publisher must not take for accepted what is refused.
                queue.may_refuse(&settings);
                self.told.push((queue.clone(), QueueCommand::Configure(Box::new(settings))));
            }
        }
        let mut moved = Vec::new();
        for (name, exchange) in &self.snapshot.exchanges {
            let alternate = alternate(&self.snapshot.policies, &exchange.spec);
            if alternate != exchange.alternate {
                moved.push((name.clone(), alternate));
            }
        }
        for (name, alternate) in moved {
            if let Some(exchange) = self.snapshot.exchanges.get_mut(&name) {
                Arc::make_mut(exchange).alternate = alternate;
            }
        }
    }

    /// Takes a queue that is declared into the list, and answers its settings under the policies.
    pub(super) fn note_declared(&mut self, declare: QueueDeclare, own: Settings) -> Settings {
        let settings = under_policies(&self.snapshot.policies, &declare, &own);
        let name = declare.name.as_bytes().into();
        self.declared.insert(name, Declared { declare, own, in_force: settings.clone() });
        settings
    }

    /// The virtual host ends, with everything in it. Whoever still asks is refused.
    pub(super) fn delete_all(&mut self, done: Done) {
        let names: Vec<Name> = self.snapshot.queues.keys().cloned().collect();
        for name in names {
            if let Some(queue) = std::str::from_utf8(&name).ok().and_then(|name| self.remove_queue(name)) {
                self.told.push((queue, QueueCommand::Kill));
            }
        }
        let names: Vec<Box<str>> = self.snapshot.exchanges.values().map(|e| e.spec.name.clone()).collect();
        for name in names {
            for bound in self.bindings.take_source(name.as_bytes()) {
                self.forget(&bound);
            }
            if !name.is_empty() && !name.starts_with("amq.") {
                self.remove_exchange(&name);
            }
        }
        for kind in [Kind::User, Kind::Operator] {
            for policy in self.snapshot.policies.iter(kind) {
                let key = records::policy_key(kind, &self.name, &policy.name);
                self.entries.push(Entry::Op(Op::DeleteDefinition { key }));
            }
        }
        self.snapshot.policies = Policies::default();
        self.changed = true;
        self.deleted = true;
        let key = records::vhost_key(&self.name);
        self.entries.push(Entry::Op(Op::DeleteDefinition { key }));
        self.done.push(Entry::Notify(Level::Synced, Token::Done(done)));
    }
}

fn under_policies(policies: &Policies, declare: &QueueDeclare, own: &Settings) -> Settings {
    let object = if own.quorum { Object::QuorumQueue } else { Object::ClassicQueue };
    merge::settings(own, &declare.arguments, &policies.of(object, &declare.name).definition)
}

/// Where the messages go that match no binding of the exchange: by its own argument, else by its policy.
pub(super) fn alternate(policies: &Policies, spec: &ExchangeSpec) -> Option<Name> {
    if spec.name.is_empty() {
        return None;
    }
    let by_policy = || {
        let in_force = policies.of(Object::Exchange, &spec.name);
        merge::alternate(&in_force.definition).map(|name| name.as_bytes().into())
    };
    spec.alternate.clone().or_else(by_policy)
}
