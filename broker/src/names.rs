//! Names of queues, exchanges and consumers: what is taken out of them, what the server makes up, and how they look
//! in reply texts.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use leveret_protocol::error::text_of;

/// `name` without CR and LF, which RabbitMQ takes out of the names in declare, bind and delete, wherever they stand.
pub fn strip(name: &[u8]) -> Cow<'_, [u8]> {
    let dropped = |octet: &u8| matches!(octet, b'\r' | b'\n');
    if name.iter().any(dropped) {
        Cow::Owned(name.iter().copied().filter(|o| !dropped(o)).collect())
    } else {
        Cow::Borrowed(name)
    }
}

/// `queue 'q' in vhost '/'`, as reply texts name things; `what` is `queue` or `exchange`. A name that is not UTF-8
/// is shown as Latin-1.
pub fn in_vhost(what: &str, name: &[u8], vhost: &[u8]) -> String {
    format!("{what} '{}' in vhost '{}'", text_of(name), text_of(vhost))
}

/// Makes up names that no other generator makes up, in this process or another: a counter, hashed with random keys.
#[derive(Debug, Default)]
pub struct NameGenerator {
    keys: [RandomState; 2],
    next: AtomicU64,
}

impl NameGenerator {
    /// For queue.declare with an empty name: `amq.gen-` and 22 characters of base64url.
    pub fn queue(&self) -> String {
        format!("amq.gen-{}", self.characters())
    }

    /// For basic.consume with an empty consumer tag: `amq.ctag-` and 22 characters of base64url.
    pub fn consumer_tag(&self) -> String {
        format!("amq.ctag-{}", self.characters())
    }

    fn characters(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let [high, low] = self.keys.each_ref().map(|keys| keys.hash_one(number));
        base64url(u128::from(high) << 64 | u128::from(low))
    }
}

/// Sixteen octets in base64url without padding.
fn base64url(octets: u128) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let character = |at: u32| {
        // The last character has two bits left, and four zeros behind them.
        let bits = match 122_u32.checked_sub(6 * at) {
            Some(shift) => octets >> shift,
            None => octets << 4,
        };
        char::from(ALPHABET[(bits & 63) as usize])
    };
    (0..22).map(character).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn cr_and_lf_are_removed_anywhere() {
        assert_eq!(*strip(b"\r\na\nb\r\n\rc\n"), *b"abc");
        assert_eq!(*strip(b"\n"), *b"");
        assert_eq!(*strip(b" a\tb\0\xFF "), *b" a\tb\0\xFF ");
        assert!(matches!(strip(b"plain"), Cow::Borrowed(b"plain")));
    }

    #[test]
    fn reply_texts_name_the_thing_and_its_vhost() {
        assert_eq!(in_vhost("queue", b"q", b"/"), "queue 'q' in vhost '/'");
        assert_eq!(
            in_vhost("exchange", b"\xFF\xFE", "ä".as_bytes()),
            "exchange 'ÿþ' in vhost 'ä'"
        );
    }

    /// RFC 4648: the last of 22 characters holds two bits, so it is one of four.
    #[test]
    fn base64url_has_22_characters_for_16_octets() {
        assert_eq!(base64url(0), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(base64url(u128::MAX), "_____________________w");
        assert_eq!(
            base64url(u128::from_be_bytes(*b"0123456789abcdef")),
            "MDEyMzQ1Njc4OWFiY2RlZg"
        );
        assert_eq!(base64url(0b11_1110_u128 << 122), "-AAAAAAAAAAAAAAAAAAAAA");
    }

    #[test]
    fn generated_names_have_their_prefix_and_22_characters() {
        let names = NameGenerator::default();
        for (name, prefix) in [
            (names.queue(), "amq.gen-"),
            (names.consumer_tag(), "amq.ctag-"),
        ] {
            let random = name.strip_prefix(prefix).expect("the prefix");
            assert_eq!(random.len(), 22, "{name}");
            let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            assert!(random.chars().all(allowed), "{name}");
        }
    }

    #[test]
    fn no_name_comes_twice_from_any_generator() {
        let mut all = HashSet::new();
        for _ in 0..50 {
            let names = NameGenerator::default();
            assert!((0..50).all(|_| all.insert(names.queue())));
        }
    }
}
