//! Content that has not come whole, on all channels of all connections: peers that begin messages and do not end them must
//! not use up the machine's memory.

use std::sync::Arc;

use leveret_protocol::AmqpError;

use super::Connection;
use crate::pressure::Pressure;

/// What a channel holds of such content, in bytes, counted until it is set to another or dropped.
#[derive(Default)]
pub struct Incomplete {
    counted: usize,
    pressure: Option<Arc<Pressure>>,
}

impl Incomplete {
    /// Counts `held` bytes from now on, and says how many there are of all.
    fn set(&mut self, held: usize, pressure: &Arc<Pressure>) -> usize {
        let all = pressure.count_incomplete(self.counted, held);
        self.counted = held;
        self.pressure.get_or_insert_with(|| pressure.clone());
        all
    }
}

impl Drop for Incomplete {
    fn drop(&mut self) {
        if let Some(pressure) = &self.pressure {
            pressure.count_incomplete(self.counted, 0);
        }
    }
}

impl Connection {
    /// More of a channel's content has come, and not its end.
    ///
    /// # Errors
    /// 406 once such content takes more than half of the memory limit, if other channels of this connection hold more than
    /// the largest message of it: who sends one message after the other is never refused.
    pub(super) fn content_grows(&mut self, number: u16) -> Result<(), AmqpError> {
        let pressure = &self.shared.pressure;
        let Some(channel) = self.channels.get(number) else { return Ok(()) };
        let all = channel.incomplete.set(channel.assembler.held(), pressure);
        if all > pressure.limit() / 2 {
            let own = channel.incomplete.counted;
            let others = self.channels.iter_mut().map(|channel| channel.incomplete.counted).sum::<usize>() - own;
            if others as u64 > self.shared.config.max_message_size.bytes() {
                let text = "messages that have not come whole exceed half of the memory limit";
                return Err(AmqpError::precondition_failed(text));
            }
        }
        self.look_at_pressure();
        Ok(())
    }
}
