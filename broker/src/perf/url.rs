//! `amqp://user:password@host:port/vhost`, as RabbitMQ's clients read it.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

const DEFAULT_PORT: u16 = 5672;

/// Where to connect to, and as whom.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: String,
    pub vhost: String,
}

/// Why a text is no such URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UrlError {
    #[error("must be amqp://user:password@host:port/vhost")]
    Scheme,
    #[error("amqps is not supported: there is no TLS")]
    Tls,
    #[error("the port is not a number from 1 to 65535")]
    Port,
    #[error("a % must be followed by two hexadecimal digits, and the whole be UTF-8")]
    Escape,
    #[error("user, password and virtual host may have 255 bytes at most")]
    Long,
}

/// Without the password.
impl fmt::Display for Url {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.host, self.port)
    }
}

/// Without the password: this ends up in reports of errors.
impl fmt::Debug for Url {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}@{self}/{}", self.user, self.vhost)
    }
}

impl FromStr for Url {
    type Err = UrlError;

    /// What is not given is guest, guest, port 5672 and the virtual host `/`. `amqp://host/` names, as RabbitMQ's own
    /// rule has it, the virtual host with the empty name.
    fn from_str(text: &str) -> Result<Url, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        match scheme.to_ascii_lowercase().as_str() {
            "amqp" => {}
            "amqps" => return Err(UrlError::Tls),
            _ => return Err(UrlError::Scheme),
        }
        let rest = rest.split_once(['?', '#']).map_or(rest, |(before, _)| before);
        let (authority, vhost) = match rest.split_once('/') {
            Some((authority, vhost)) => (authority, unescape(vhost)?),
            None => (rest, "/".to_owned()),
        };
        let (login, place) = authority.rsplit_once('@').unwrap_or(("guest:guest", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let (host, port) = split_port(place)?;
        let host = if host.is_empty() { "127.0.0.1".to_owned() } else { unescape(host)? };
        let url = Url { host, port, user: unescape(user)?, password: unescape(password)?, vhost };
        let longest = [&url.user, &url.password, &url.vhost].into_iter().map(String::len).max();
        if longest > Some(255) { Err(UrlError::Long) } else { Ok(url) }
    }
}

/// An IPv6 address stands in brackets.
fn split_port(place: &str) -> Result<(&str, u16), UrlError> {
    let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or(UrlError::Port)?)),
        None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    match port.map(str::parse) {
        None => Ok((host, DEFAULT_PORT)),
        Some(Ok(port)) if port > 0 => Ok((host, port)),
        Some(_) => Err(UrlError::Port),
    }
}

fn unescape(text: &str) -> Result<String, UrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16)).ok_or(UrlError::Escape);
        bytes.push((digit()? << 4 | digit()?) as u8);
    }
    String::from_utf8(bytes).map_err(|_| UrlError::Escape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn url(text: &str) -> (String, u16, String, String, String) {
        let url: Url = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        (url.host, url.port, url.user, url.password, url.vhost)
    }

    #[track_caller]
    fn parts(text: &str, host: &str, port: u16, user: &str, password: &str, vhost: &str) {
        assert_eq!(url(text), (host.into(), port, user.into(), password.into(), vhost.into()));
    }

    #[test]
    fn every_part_may_be_given() {
        parts("amqp://me:secret@broker:5673/shop", "broker", 5673, "me", "secret", "shop");
        parts("AMQP://me:a%40b%3a@[::1]:1/%2f", "::1", 1, "me", "a@b:", "/");
    }

    #[test]
    fn what_is_not_given_is_what_a_new_broker_has() {
        parts("amqp://", "127.0.0.1", 5672, "guest", "guest", "/");
        parts("amqp://broker", "broker", 5672, "guest", "guest", "/");
        parts("amqp://[::1]", "::1", 5672, "guest", "guest", "/");
        parts("amqp://me@broker", "broker", 5672, "me", "", "/");
        parts("amqp://broker?heartbeat=5", "broker", 5672, "guest", "guest", "/");
    }

    #[test]
    fn an_empty_path_is_the_vhost_without_a_name() {
        parts("amqp://broker/", "broker", 5672, "guest", "guest", "");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let wrong = |text: &str| text.parse::<Url>().expect_err("must be refused");
        assert_eq!(wrong("broker:5672"), UrlError::Scheme);
        assert_eq!(wrong("http://broker"), UrlError::Scheme);
        assert_eq!(wrong("amqps://broker"), UrlError::Tls);
        for text in ["amqp://broker:", "amqp://broker:x", "amqp://broker:0", "amqp://broker:65536", "amqp://[::1]x"] {
            assert_eq!(wrong(text), UrlError::Port, "{text}");
        }
        for text in ["amqp://broker/%2", "amqp://broker/%zz", "amqp://broker/%ff"] {
            assert_eq!(wrong(text), UrlError::Escape, "{text}");
        }
        assert_eq!(wrong(&format!("amqp://broker/{}", "x".repeat(256))), UrlError::Long);
    }

    #[test]
    fn a_url_is_never_shown_with_its_password() {
        let url: Url = "amqp://me:secret@broker/shop".parse().expect("well-formed");
        assert_eq!((format!("{url:?}"), format!("{url}")), ("me@broker:5672/shop".into(), "broker:5672".into()));
    }
}
