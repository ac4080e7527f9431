//! Names: cleaned, generated and shown.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

/// Without CR and LF, which RabbitMQ strips from the names of queues and exchanges.
pub fn strip(name: &str) -> Box<str> {
    name.chars().filter(|c| !matches!(c, '\r' | '\n')).collect()
}

/// `queue 'q' in vhost '/'`, as reply texts show a queue.
pub fn queue(name: &str, vhost: &str) -> String {
    format!("queue '{name}' in vhost '{vhost}'")
}

/// `exchange 'x' in vhost '/'`, as reply texts show an exchange.
pub fn exchange(name: &str, vhost: &str) -> String {
    format!("exchange '{name}' in vhost '{vhost}'")
}

/// A name for a server-named queue.
pub fn generated_queue() -> String {
    format!("amq.gen-{}", random())
}

/// A tag for a consumer that brought none.
pub fn generated_tag() -> String {
    format!("amq.ctag-{}", random())
}

/// What a client consumes from, and names as `reply-to`, for direct replies (RabbitMQ extension).
pub const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// True for what a client may take for the name of a reply consumer: [`REPLY_TO`], a dot, and anything.
pub fn is_reply_address(name: &[u8]) -> bool {
    name.strip_prefix(REPLY_TO.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'.'))
}

/// A name for a reply consumer, which nobody can guess who has not seen it: 71 octets. It ends as RabbitMQ's do, whose
/// secret is base64 with its padding, since tests of clients look at that.
pub fn generated_reply_to() -> String {
    format!("{REPLY_TO}.{}.{}==", random(), random())
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// 22 characters of base64url: 16 octets that nobody has had before. `RandomState` is seeded by the operating system
/// once per thread; the counter keeps two calls apart.
fn random() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let half = |salt: u64| {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u64(COUNTER.fetch_add(1, Ordering::Relaxed));
        hasher.write_u64(salt);
        hasher.finish()
    };
    let mut bits = u128::from(half(0)) << 64 | u128::from(half(1));
    (0..22)
        .map(|_| {
            let letter = ALPHABET[(bits & 63) as usize];
            bits >>= 6;
            letter as char
        })
        .collect()
}
