//! AMQP 0-9-1 on the wire: bytes to meaning and back. No I/O, no async, no broker words.
