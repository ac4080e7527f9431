//! Who may log in: SASL responses and the default user.

use std::net::SocketAddr;

use leveret_protocol::table::{Table, Value};

use crate::config::Config;

/// A login as the client presents it.
pub struct Login {
    pub mechanism: &'static str,
    pub user: String,
    password: Vec<u8>,
}

/// Reads the response of a mechanism. Errors are for the log: a malformed response is not answered.
pub fn parse(mechanism: &str, response: &[u8]) -> Result<Login, &'static str> {
    match mechanism {
        "PLAIN" => plain(response).ok_or("malformed PLAIN response"),
        "AMQPLAIN" => amqplain(response).ok_or("malformed AMQPLAIN response"),
        _ => Err("unknown authentication mechanism"),
    }
}

/// `NUL user NUL password` (RFC 4616, without an authorisation identity).
fn plain(response: &[u8]) -> Option<Login> {
    let rest = response.strip_prefix(&[0])?;
    let end = rest.iter().position(|octet| *octet == 0)?;
    let (user, password) = (&rest[..end], &rest[end + 1..]);
    if password.contains(&0) {
        return None;
    }
    login("PLAIN", user, password)
}

/// A field table without its length, with LOGIN and PASSWORD.
fn amqplain(response: &[u8]) -> Option<Login> {
    let table = Table::parse(response).ok()?;
    let text = |name: &str| match table.get(name.as_bytes())? {
        Value::LongStr(text) | Value::Bytes(text) => Some(text),
        _ => None,
    };
    login("AMQPLAIN", text("LOGIN")?, text("PASSWORD")?)
}

fn login(mechanism: &'static str, user: &[u8], password: &[u8]) -> Option<Login> {
    let user = String::from_utf8_lossy(user).into_owned();
    Some(Login { mechanism, user, password: password.to_vec() })
}

/// Whether the login is right, and allowed from where it comes.
pub fn accepts(config: &Config, login: &Login, from: SocketAddr) -> bool {
    let known = login.user == config.default_user
        && !login.password.is_empty()
        && same(&login.password, config.default_pass.as_bytes());
    let local = from.ip().to_canonical().is_loopback();
    known && (local || !config.loopback_users.contains(&login.user))
}

/// Compares in a time that does not tell where the first difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}
