//! Protocol errors as a peer sees them: reply code, reply text, and whether the channel or the connection goes
//! down.

use std::fmt::{self, Write};

/// The longest reply text that fits its short string, in octets.
pub const MAX_REPLY_TEXT: usize = 255;

/// No reply text can show more than this many octets of a payload, so no more are rendered.
const MAX_SHOWN_OCTETS: usize = 256;

/// What an error takes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `channel.close`; the connection stays up.
    Channel,
    /// `connection.close` on channel 0; everything goes down.
    Connection,
}

/// An error that is answered with `channel.close` or `connection.close` (AMQP 0-9-1, section 1.2, reply codes).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AmqpError {
    /// What goes down. A channel error raised on channel 0 must be widened with [`AmqpError::on_connection`].
    pub scope: Scope,
    /// The reply code.
    pub code: u16,
    /// The explanation, *without* the condition name in front; [`AmqpError::reply_text`] joins the two.
    pub text: String,
    /// The class of the method that failed, 0 when none is to blame.
    pub class: u16,
    /// The method that failed, 0 when none is to blame.
    pub method: u16,
    /// The stream cannot be read any further: send the close, read nothing more, do not wait for close-ok.
    pub fatal: bool,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $condition:literal, $scope:ident;)*) => {
        impl AmqpError {
            $($(#[$doc])* pub fn $name(text: impl Into<String>) -> Self {
                Self::new(Scope::$scope, $code, text.into())
            })*
        }

        /// The condition name of a reply code, as reply texts begin with it.
        fn condition(code: u16) -> &'static str {
            match code {
                $($code => $condition,)*
                _ => "INTERNAL_ERROR",
            }
        }
    };
}

constructors! {
    /// 311: the content is larger than can be accepted now.
    content_too_large = 311, "CONTENT_TOO_LARGE", Channel;
    /// 320: an operator closes the connection.
    connection_forced = 320, "CONNECTION_FORCED", Connection;
    /// 403: no permission.
    access_refused = 403, "ACCESS_REFUSED", Channel;
    /// 404: the queue, exchange or other resource does not exist.
    not_found = 404, "NOT_FOUND", Channel;
    /// 405: another connection has the resource for itself.
    resource_locked = 405, "RESOURCE_LOCKED", Channel;
    /// 406: a condition of the request does not hold.
    precondition_failed = 406, "PRECONDITION_FAILED", Channel;
    /// 501: the frame itself is malformed.
    frame_error = 501, "FRAME_ERROR", Connection;
    /// 502: a field inside a frame is malformed.
    syntax_error = 502, "SYNTAX_ERROR", Connection;
    /// 503: a method that cannot be served here.
    command_invalid = 503, "COMMAND_INVALID", Connection;
    /// 504: a method on a channel whose state does not allow it.
    channel_error = 504, "CHANNEL_ERROR", Connection;
    /// 505: a frame that was not expected, mostly around content.
    unexpected_frame = 505, "UNEXPECTED_FRAME", Connection;
    /// 506: out of resources.
    resource_error = 506, "RESOURCE_ERROR", Connection;
    /// 530: the request is never allowed, whatever the state.
    not_allowed = 530, "NOT_ALLOWED", Connection;
    /// 540: the feature does not exist here.
    not_implemented = 540, "NOT_IMPLEMENTED", Connection;
    /// 541: an unexpected failure of ours; with an empty text only the condition name is shown.
    internal_error = 541, "INTERNAL_ERROR", Connection;
}

impl AmqpError {
    fn new(scope: Scope, code: u16, text: String) -> Self {
        AmqpError { scope, code, text, class: 0, method: 0, fatal: false }
    }

    /// Names the method that failed.
    pub fn at(mut self, class: u16, method: u16) -> Self {
        self.class = class;
        self.method = method;
        self
    }

    /// Marks the stream as unreadable from here on; see
    /// [`AmqpError::fatal`](struct.AmqpError.html#structfield.fatal).
    pub fn fatal(mut self) -> Self {
        self.fatal = true;
        self
    }

    /// Widens a channel error to the whole connection, as one raised on channel 0 must be.
    pub fn on_connection(mut self) -> Self {
        self.scope = Scope::Connection;
        self
    }

    /// The condition name, for example `NOT_FOUND`.
    pub fn condition(&self) -> &'static str {
        condition(self.code)
    }

    /// The reply text, `NOT_FOUND - no queue 'q' in vhost '/'`, at most 255 octets: a longer one is cut to its
    /// first 252 octets (fewer where that would split a character) and ends in `...`.
    pub fn reply_text(&self) -> String {
        let mut text = String::from(self.condition());
        if !self.text.is_empty() {
            text.push_str(" - ");
            text.push_str(&self.text);
        }
        cut_reply_text(text)
    }
}

impl fmt::Display for AmqpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.reply_text())
    }
}

impl std::error::Error for AmqpError {}

fn cut_reply_text(mut text: String) -> String {
    if text.len() > MAX_REPLY_TEXT {
        text.truncate(text.floor_char_boundary(MAX_REPLY_TEXT - 3));
        text.push_str("...");
    }
    text
}

/// Octets as RabbitMQ's texts show them, which is Erlang's way: `<<"abcd">>` when all are printable ASCII,
/// `<<0,20>>` otherwise, `<<>>` when there are none. Of more than 256 octets only the first 256 are shown,
/// which is more than a reply text can hold.
pub fn octets(bytes: &[u8]) -> String {
    let bytes = bytes.get(..MAX_SHOWN_OCTETS).unwrap_or(bytes);
    let mut text = String::from("<<");
    if !bytes.is_empty() && bytes.iter().all(|&byte| is_printable(byte)) {
        text.push('"');
        bytes.iter().for_each(|&byte| push_escaped(&mut text, byte));
        text.push('"');
    } else {
        for (index, byte) in bytes.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            // Writing to a String cannot fail.
            let _ = write!(text, "{comma}{byte}");
        }
    }
    text.push_str(">>");
    text
}

/// `all octets = <<…>>` for up to 16 octets, `first 16 octets = <<…>>` for more.
pub fn first_octets(bytes: &[u8]) -> String {
    match bytes.get(..16) {
        Some(first) if bytes.len() > 16 => format!("first 16 octets = {}", octets(first)),
        _ => format!("all octets = {}", octets(bytes)),
    }
}

// Erlang counts these control characters among the printable ones and shows them as escapes.
fn is_printable(byte: u8) -> bool {
    matches!(byte, 32..=126 | 8..=13 | 27)
}

fn push_escaped(text: &mut String, byte: u8) {
    match byte {
        8 => text.push_str("\\b"),
        9 => text.push_str("\\t"),
        10 => text.push_str("\\n"),
        11 => text.push_str("\\v"),
        12 => text.push_str("\\f"),
        13 => text.push_str("\\r"),
        27 => text.push_str("\\e"),
        b'"' => text.push_str("\\\""),
        b'\\' => text.push_str("\\\\"),
        _ => text.push(char::from(byte)),
    }
}

/// A name as a reply text shows it: UTF-8 as it is, anything else with each octet taken as Latin-1.
pub fn text_of(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|&byte| char::from(byte)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_text_joins_condition_and_explanation() {
        let error = AmqpError::not_found("no queue 'q' in vhost '/'").at(50, 10);
        assert_eq!(error.reply_text(), "NOT_FOUND - no queue 'q' in vhost '/'");
        assert_eq!((error.scope, error.code), (Scope::Channel, 404));
        assert_eq!((error.class, error.method), (50, 10));
        assert_eq!(AmqpError::internal_error("").reply_text(), "INTERNAL_ERROR");
    }

    #[test]
    fn long_reply_text_is_cut_to_255_octets() {
        let exact = AmqpError::not_found("x".repeat(255 - "NOT_FOUND - ".len()));
        assert_eq!(exact.reply_text().len(), 255);
        assert!(exact.reply_text().ends_with('x'));
        let long = AmqpError::not_found("x".repeat(256 - "NOT_FOUND - ".len())).reply_text();
        assert_eq!(long.len(), 255);
        assert!(long.ends_with("xx..."));
    }

    #[test]
    fn reply_text_is_never_cut_inside_a_character() {
        for pad in 0..4 {
            let text = format!("{}{}", "x".repeat(pad), "€".repeat(100));
            let cut = AmqpError::not_found(text).reply_text();
            assert!(cut.len() <= 255 && cut.len() > 251, "{}", cut.len());
            assert!(cut.ends_with("€..."));
        }
    }

    #[test]
    fn octets_are_shown_as_erlang_shows_them() {
        assert_eq!(octets(b""), "<<>>");
        assert_eq!(octets(b"abcd"), "<<\"abcd\">>");
        assert_eq!(octets(&[0, 20, 0, 10, 0]), "<<0,20,0,10,0>>");
        assert_eq!(octets(b"a\"b\\\n"), "<<\"a\\\"b\\\\\\n\">>");
        assert_eq!(first_octets(&[7; 16]).matches('7').count(), 16);
        assert!(first_octets(&[7; 16]).starts_with("all octets = <<7,"));
        assert!(first_octets(&[7; 17]).starts_with("first 16 octets = <<7,"));
    }

    #[test]
    fn names_that_are_not_utf8_are_read_as_latin_1() {
        assert_eq!(text_of("größe".as_bytes()), "größe");
        assert_eq!(text_of(&[0xFF, 0xFE]), "ÿþ");
    }
}
