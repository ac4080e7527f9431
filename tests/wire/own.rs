//! A broker in this process, which a test can administer while it talks to it.

use leveret::access::Permissions;
use leveret::admin::{Metadata, Secret};
use leveret::serde_json::Value;
use leveret::{Broker, Config};
use leveret_suite::{Login, Peer};
use tokio::runtime::Runtime;

/// In memory, on a free port, with a clock like any other.
pub struct Own {
    pub broker: Broker,
    pub runtime: Runtime,
}

impl Own {
    pub fn start() -> Own {
        Own::start_with(|_| {})
    }

    /// With a configuration changed by `change`.
    pub fn start_with(change: impl FnOnce(&mut Config)) -> Own {
        let mut config = Config::in_memory();
        change(&mut config);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let broker = runtime.block_on(Broker::start(config)).expect("the broker starts");
        Own { broker, runtime }
    }

    /// A connection as guest to `/`, with channel 1 open.
    #[track_caller]
    pub fn peer(&self) -> Peer {
        self.peer_as("guest", "/")
    }

    /// A connection of a user, whose password is `guest`, with channel 1 open.
    #[track_caller]
    pub fn peer_as(&self, user: &str, vhost: &str) -> Peer {
        let mut peer = Peer::connect(self.broker.addresses()[0]);
        peer.handshake(&Login { user, vhost, ..Login::default() });
        peer.open_channel(1);
        peer
    }

    #[track_caller]
    pub fn policy(&self, name: &str, policy: Value) {
        self.runtime.block_on(self.broker.set_policy("/", name, &policy)).expect("a policy");
    }

    #[track_caller]
    pub fn operator_policy(&self, name: &str, policy: Value) {
        self.runtime.block_on(self.broker.set_operator_policy("/", name, &policy)).expect("an operator policy");
    }

    #[track_caller]
    pub fn clear_policy(&self, name: &str) {
        self.runtime.block_on(self.broker.clear_policy("/", name)).expect("there is that policy");
    }

    #[track_caller]
    pub fn vhost(&self, name: &str, metadata: Metadata) {
        self.runtime.block_on(self.broker.set_vhost(name, metadata)).expect("a virtual host");
    }

    /// A user with the password `guest`.
    #[track_caller]
    pub fn user(&self, name: &str, tags: &[&str]) {
        let secret = Secret::Password("guest".into());
        self.runtime.block_on(self.broker.set_user(name, secret, tags)).expect("a user");
    }

    #[track_caller]
    pub fn permit(&self, user: &str, vhost: &str, [configure, write, read]: [&str; 3]) {
        let permissions = Permissions { configure: configure.into(), write: write.into(), read: read.into() };
        self.runtime.block_on(self.broker.set_permissions(user, vhost, permissions)).expect("permissions");
    }
}
