//! The methods that the broker sends, made from their parts.

use leveret_protocol::AmqpError;
use leveret_protocol::amq::{
    AMQPClass, LongString, ShortString, access, basic, channel, confirm, connection, exchange, queue, tx,
};

use crate::vhost::command::DestinationKind;

/// A short string, cut where the wire's 255 octets end. Names are checked before; texts are cut by their maker.
pub fn short(text: &str) -> ShortString {
    let mut end = text.len().min(255);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    ShortString::try_new(&text[..end]).unwrap_or_default()
}

pub fn exchange_declare_ok() -> AMQPClass {
    AMQPClass::Exchange(exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {}))
}

pub fn exchange_delete_ok() -> AMQPClass {
    AMQPClass::Exchange(exchange::AMQPMethod::DeleteOk(exchange::DeleteOk {}))
}

pub fn bind_ok(kind: DestinationKind) -> AMQPClass {
    match kind {
        DestinationKind::Queue => AMQPClass::Queue(queue::AMQPMethod::BindOk(queue::BindOk {})),
        DestinationKind::Exchange => AMQPClass::Exchange(exchange::AMQPMethod::BindOk(exchange::BindOk {})),
    }
}

pub fn unbind_ok(kind: DestinationKind) -> AMQPClass {
    match kind {
        DestinationKind::Queue => AMQPClass::Queue(queue::AMQPMethod::UnbindOk(queue::UnbindOk {})),
        DestinationKind::Exchange => AMQPClass::Exchange(exchange::AMQPMethod::UnbindOk(exchange::UnbindOk {})),
    }
}

pub fn queue_declare_ok(name: &str, message_count: u32, consumer_count: u32) -> AMQPClass {
    let queue = short(name);
    AMQPClass::Queue(queue::AMQPMethod::DeclareOk(queue::DeclareOk { queue, message_count, consumer_count }))
}

pub fn purge_ok(message_count: u32) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::PurgeOk(queue::PurgeOk { message_count }))
}

pub fn delete_ok(message_count: u32) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::DeleteOk(queue::DeleteOk { message_count }))
}

pub fn qos_ok() -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::QosOk(basic::QosOk {}))
}

pub fn consume_ok(tag: &str) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(basic::ConsumeOk { consumer_tag: short(tag) }))
}

pub fn cancel_ok(tag: &str) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::CancelOk(basic::CancelOk { consumer_tag: short(tag) }))
}

/// The broker's own cancel: the client must not answer it.
pub fn cancel(tag: &str) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Cancel(basic::Cancel { consumer_tag: short(tag), nowait: true }))
}

pub fn get_empty() -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::GetEmpty(basic::GetEmpty {}))
}

pub fn recover_ok() -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::RecoverOk(basic::RecoverOk {}))
}

pub fn confirm_select_ok() -> AMQPClass {
    AMQPClass::Confirm(confirm::AMQPMethod::SelectOk(confirm::SelectOk {}))
}

pub fn tx_select_ok() -> AMQPClass {
    AMQPClass::Tx(tx::AMQPMethod::SelectOk(tx::SelectOk {}))
}

pub fn tx_commit_ok() -> AMQPClass {
    AMQPClass::Tx(tx::AMQPMethod::CommitOk(tx::CommitOk {}))
}

pub fn tx_rollback_ok() -> AMQPClass {
    AMQPClass::Tx(tx::AMQPMethod::RollbackOk(tx::RollbackOk {}))
}

pub fn access_request_ok() -> AMQPClass {
    AMQPClass::Access(access::AMQPMethod::RequestOk(access::RequestOk {}))
}

pub fn channel_open_ok() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::OpenOk(channel::OpenOk {}))
}

pub fn channel_flow_ok(active: bool) -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::FlowOk(channel::FlowOk { active }))
}

pub fn channel_close_ok() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}))
}

pub fn channel_close(error: &AmqpError) -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::Close(channel::Close {
        reply_code: error.code,
        reply_text: short(&error.reply_text()),
        class_id: error.class,
        method_id: error.method,
    }))
}

pub fn connection_close(error: &AmqpError) -> AMQPClass {
    AMQPClass::Connection(connection::AMQPMethod::Close(connection::Close {
        reply_code: error.code,
        reply_text: short(&error.reply_text()),
        class_id: error.class,
        method_id: error.method,
    }))
}

pub fn connection_close_ok() -> AMQPClass {
    AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {}))
}

pub fn connection_open_ok() -> AMQPClass {
    AMQPClass::Connection(connection::AMQPMethod::OpenOk(connection::OpenOk {}))
}

pub fn connection_tune(channel_max: u16, frame_max: u32, heartbeat: u16) -> AMQPClass {
    AMQPClass::Connection(connection::AMQPMethod::Tune(connection::Tune { channel_max, frame_max, heartbeat }))
}

pub fn connection_start(server_properties: leveret_protocol::amq::FieldTable, mechanisms: &str) -> AMQPClass {
    AMQPClass::Connection(connection::AMQPMethod::Start(connection::Start {
        version_major: 0,
        version_minor: 9,
        server_properties,
        mechanisms: LongString::from(mechanisms),
        locales: LongString::from("en_US"),
    }))
}

pub fn connection_blocked(reason: &str) -> AMQPClass {
    AMQPClass::Connection(connection::AMQPMethod::Blocked(connection::Blocked { reason: short(reason) }))
}

pub fn connection_unblocked() -> AMQPClass {
    AMQPClass::Connection(connection::AMQPMethod::Unblocked(connection::Unblocked {}))
}

pub fn update_secret_ok() -> AMQPClass {
    AMQPClass::Connection(connection::AMQPMethod::UpdateSecretOk(connection::UpdateSecretOk {}))
}
