//! Fair under load: whoever is busy takes nothing away from the others but its share of the machine. These are tests
//! of progress: somebody gets something done while the busy ones do a bounded amount, however long that takes.

mod busy_publishers;
mod churn;
mod deep_backlog;
mod load;
mod many_queues;
mod one_connection;
mod slow_consumers;

use std::sync::{Mutex, MutexGuard, PoisonError};

use leveret_suite::Server;

/// A broker of one's own, and nothing else of this program beside it.
struct Alone {
    server: Server,
    _turn: MutexGuard<'static, ()>,
}

impl std::ops::Deref for Alone {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

/// A broker in memory, when it is this test's turn.
fn broker() -> Alone {
    broker_with(&["--storage", "memory"])
}

/// A broker with these arguments, when it is this test's turn.
fn broker_with(arguments: &[&str]) -> Alone {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    Alone { server: Server::start_with(arguments), _turn: turn }
}
