//! From the protocol header to open-ok (AMQP 2.2.4, and what RabbitMQ makes of it), one step after the other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use leveret_protocol::amq::{AMQPClass, AMQPValue, FieldTable, LongString, ShortString, connection};
use leveret_protocol::{AmqpError, frame, method};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::auth::{self, Login};
use crate::config::Config;
use crate::methods;
use crate::server::Shared;
use crate::vhost::VHost;

/// The only protocol there is.
const HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";
/// The same, as clients of 0-9 write it.
const HEADER_0_9: [u8; 8] = *b"AMQP\x01\x01\x00\x09";
/// Largest frame before tune-ok, in bytes of payload.
const FRAME_BEFORE_TUNE: u32 = 8192;
/// RabbitMQ waits this long before it drops a client that it does not answer, to slow guessing down.
const DROP_DELAY: Duration = Duration::from_secs(3);
/// Mechanisms offered, in order.
const MECHANISMS: &str = "PLAIN AMQPLAIN";

/// What the handshake has agreed on.
pub struct Session {
    pub vhost: Arc<VHost>,
    pub user: Box<str>,
    pub frame_max: u32,
    pub channel_max: u16,
    pub heartbeat: u16,
    pub capabilities: Capabilities,
    /// Bytes that came behind connection.open.
    pub left_over: Vec<u8>,
}

/// What the client says it can do, of what the broker cares about.
#[derive(Clone, Copy, Default)]
pub struct Capabilities {
    pub authentication_failure_close: bool,
    pub consumer_cancel_notify: bool,
    pub connection_blocked: bool,
}

/// Why there is no session.
enum End {
    /// The client went away, or the answer is on its way.
    Closed,
    /// The socket is dropped after a delay, without a frame.
    Drop(&'static str),
    /// A close frame is sent, its close-ok awaited for a short while.
    Refuse(AmqpError),
}

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> End {
        End::Closed
    }
}

/// Runs the handshake; None when it did not come to a session, the client having been told what it should be told.
pub async fn run(io: &mut TcpStream, from: SocketAddr, shared: &Shared) -> Option<Session> {
    let mut step = Step { io, buffer: Vec::new(), shared, from };
    let deadline = shared.clock.now() + shared.config.handshake_timeout;
    let outcome = tokio::select! {
        outcome = step.all() => outcome,
        () = shared.clock.sleep_until(deadline) => {
            tracing::info!(client = %from, "the handshake took too long");
            return None;
        }
    };
    match outcome {
        Ok(session) => Some(session),
        Err(End::Closed) => None,
        Err(End::Drop(why)) => {
            tracing::warn!(client = %from, "{why}");
            shared.clock.sleep(DROP_DELAY).await;
            None
        }
        Err(End::Refuse(error)) => {
            tracing::warn!(client = %from, "refused: {}", error.reply_text());
            let deadline = shared.clock.now() + DROP_DELAY;
            tokio::select! {
                _ = step.refuse(error) => {}
                () = shared.clock.sleep_until(deadline) => {}
            }
            None
        }
    }
}

struct Step<'a> {
    io: &'a mut TcpStream,
    buffer: Vec<u8>,
    shared: &'a Shared,
    from: SocketAddr,
}

impl Step<'_> {
    async fn all(&mut self) -> Result<Session, End> {
        self.protocol_header().await?;
        let config = &self.shared.config;
        self.send(&methods::connection_start(server_properties(config), MECHANISMS)).await?;
        let (login, capabilities) = self.start_ok().await?;
        self.authenticate(&login, capabilities)?;
        let (frame_max, channel_max, heartbeat) = self.tune().await?;
        let vhost = self.open(frame_max, &login.user).await?;
        self.send(&methods::connection_open_ok()).await?;
        let left_over = std::mem::take(&mut self.buffer);
        let user = login.user.into();
        Ok(Session { vhost, user, frame_max, channel_max, heartbeat, capabilities, left_over })
    }

    async fn protocol_header(&mut self) -> Result<(), End> {
        while self.buffer.len() < HEADER.len() {
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return Err(End::Closed);
            }
        }
        let header: Vec<u8> = self.buffer.drain(..HEADER.len()).collect();
        if header == HEADER || header == HEADER_0_9 {
            return Ok(());
        }
        let hint = match &header[..] {
            [b'G', b'E', b'T', ..] | [b'P', b'O', b'S', b'T', ..] => "HTTP on the AMQP port",
            [0x16, 3, ..] => "TLS on the plain AMQP port",
            _ => "unknown protocol header",
        };
        tracing::warn!(client = %self.from, "{hint}");
        self.io.write_all(&HEADER).await?;
        self.io.shutdown().await?;
        // The rest of what it sends is read and thrown away: closing on unread bytes would reset the connection
        // under the eight octets.
        let mut rest = [0; 512];
        while self.io.read(&mut rest).await? > 0 {}
        Err(End::Closed)
    }

    async fn send(&mut self, method: &AMQPClass) -> Result<(), End> {
        let mut out = Vec::new();
        method::encode(&mut out, 0, method);
        Ok(self.io.write_all(&out).await?)
    }

    /// The next method on channel 0; heartbeats are passed over.
    async fn method(&mut self, frame_max: u32, tuned: bool) -> Result<AMQPClass, End> {
        loop {
            match frame::split(&self.buffer, frame_max) {
                Ok(None) => {
                    if self.io.read_buf(&mut self.buffer).await? == 0 {
                        return Err(End::Closed);
                    }
                }
                Ok(Some(found)) => {
                    let size = found.payload.len() + frame::OVERHEAD;
                    let outcome = handshake_method(&found, tuned);
                    self.buffer.drain(..size);
                    if let Some(method) = outcome? {
                        return Ok(method);
                    }
                }
                Err(error) if tuned => {
                    // Nothing behind it can be made out either. Left there, whoever asks again would never have to wait.
                    self.buffer.clear();
                    return Err(End::Refuse(error));
                }
                Err(_) => return Err(End::Drop("malformed frame in the handshake")),
            }
        }
    }

    async fn start_ok(&mut self) -> Result<(Login, Capabilities), End> {
        let AMQPClass::Connection(connection::AMQPMethod::StartOk(ok)) = self.method(FRAME_BEFORE_TUNE, false).await?
        else {
            return Err(End::Drop("expected connection.start-ok"));
        };
        let capabilities = capabilities(&ok.client_properties);
        let login = auth::parse(ok.mechanism.as_str(), ok.response.as_bytes()).map_err(End::Drop)?;
        Ok((login, capabilities))
    }

    fn authenticate(&self, login: &Login, capabilities: Capabilities) -> Result<(), End> {
        if self.shared.access.accepts(login, self.from, &self.shared.config.loopback_users) {
            return Ok(());
        }
        if !capabilities.authentication_failure_close {
            return Err(End::Drop("login refused"));
        }
        Err(End::Refuse(AmqpError::access_refused(format!(
            "Login was refused using authentication mechanism {}. For details see the broker logfile.",
            login.mechanism
        ))))
    }

    async fn tune(&mut self) -> Result<(u32, u16, u16), End> {
        let config = &self.shared.config;
        self.send(&methods::connection_tune(config.channel_max, config.frame_max, config.heartbeat)).await?;
        let AMQPClass::Connection(connection::AMQPMethod::TuneOk(ok)) = self.method(FRAME_BEFORE_TUNE, false).await?
        else {
            return Err(End::Drop("expected connection.tune-ok"));
        };
        within("frame_max", ok.frame_max, crate::config::FRAME_MIN, config.frame_max)?;
        within("channel_max", ok.channel_max.into(), 1, config.channel_max.into())?;
        Ok((ok.frame_max, ok.channel_max, ok.heartbeat))
    }

    async fn open(&mut self, frame_max: u32, user: &str) -> Result<Arc<VHost>, End> {
        match self.method(frame_max, true).await? {
            AMQPClass::Connection(connection::AMQPMethod::Open(open)) => {
                let name = open.virtual_host.as_str();
                let refused = |text: String| End::Refuse(AmqpError::not_allowed(text).at(10, 40));
                let vhost = self.shared.vhost(name).ok_or_else(|| refused(format!("vhost {name} not found")))?;
                if self.shared.access.state().permissions(user, name).is_none() {
                    return Err(refused(format!("access to vhost '{name}' refused for user '{user}'")));
                }
                Ok(vhost)
            }
            other => Err(End::Refuse(
                AmqpError::channel_error("unexpected method in connection state opening")
                    .at(other.get_amqp_class_id(), other.get_amqp_method_id()),
            )),
        }
    }

    /// Sends the close and waits for the client to take note.
    async fn refuse(&mut self, error: AmqpError) -> Result<(), End> {
        self.send(&methods::connection_close(&error)).await?;
        loop {
            let method = self.method(self.shared.config.frame_max, true).await;
            match method {
                Ok(AMQPClass::Connection(connection::AMQPMethod::CloseOk(_))) | Err(End::Closed) => return Ok(()),
                _ => {}
            }
        }
    }
}

/// The method of a frame of the handshake; None for a heartbeat.
fn handshake_method(found: &frame::Frame<'_>, tuned: bool) -> Result<Option<AMQPClass>, End> {
    if found.kind == frame::HEARTBEAT {
        return Ok(None);
    }
    if found.kind != frame::METHOD || found.channel != 0 {
        if !tuned {
            return Err(End::Drop("unexpected frame in the handshake"));
        }
        let octets = leveret_protocol::error::first_octets(found.payload);
        return Err(End::Refuse(AmqpError::unexpected_frame(format!("type {}, {octets}", found.kind))));
    }
    match method::decode(found.payload) {
        Ok(method) => Ok(Some(method)),
        Err(error) if tuned => Err(End::Refuse(error)),
        Err(_) => Err(End::Drop("malformed method in the handshake")),
    }
}

/// A value of tune-ok is not bargained with: it is right or refused.
fn within(name: &str, value: u32, least: u32, most: u32) -> Result<(), End> {
    let text = match value {
        0 => format!("negotiated {name} = 0 (no limit) is higher than the maximum allowed value ({most})"),
        _ if value < least => {
            format!("negotiated {name} = {value} is lower than the minimum allowed value ({least})")
        }
        _ if value > most => {
            format!("negotiated {name} = {value} is higher than the maximum allowed value ({most})")
        }
        _ => return Ok(()),
    };
    Err(End::Refuse(AmqpError::not_allowed(text).at(10, 31)))
}

fn capabilities(properties: &FieldTable) -> Capabilities {
    let Some(AMQPValue::FieldTable(table)) = properties.inner().get("capabilities") else {
        return Capabilities::default();
    };
    let has = |name: &str| matches!(table.inner().get(name), Some(AMQPValue::Boolean(true)));
    Capabilities {
        authentication_failure_close: has("authentication_failure_close"),
        consumer_cancel_notify: has("consumer_cancel_notify"),
        connection_blocked: has("connection.blocked"),
    }
}

/// What the broker announces. Clients and frameworks branch on `product` and `version`.
fn server_properties(config: &Config) -> FieldTable {
    let capabilities = [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
        "consumer_priorities",
    ];
    let mut table = FieldTable::default();
    for name in capabilities {
        table.insert(key(name), AMQPValue::Boolean(true));
    }
    let mut properties = FieldTable::default();
    properties.insert(key("capabilities"), AMQPValue::FieldTable(table));
    let texts = [
        ("product", config.product.as_str()),
        ("version", config.announced_version.as_str()),
        ("platform", "leveret"),
        ("copyright", "The leveret authors"),
        ("information", "Licensed under MIT or Apache-2.0"),
        ("cluster_name", config.cluster_name.as_str()),
    ];
    for (name, text) in texts {
        properties.insert(key(name), AMQPValue::LongString(LongString::from(text)));
    }
    properties
}

fn key(name: &str) -> ShortString {
    methods::short(name)
}
