//! What clients say of who they are: SASL responses.

use leveret_protocol::table::{Table, Value};

/// A login as the client presents it.
pub struct Login {
    pub mechanism: &'static str,
    pub user: String,
    password: Vec<u8>,
}

impl Login {
    pub fn password(&self) -> &[u8] {
        &self.password
    }
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
