//! What a setting must be beyond its type.

use std::collections::HashSet;
use std::time::Duration;

use super::{Config, MAX_MESSAGE_SIZE_CEILING, StorageKind};

/// The smallest `frame_max` to offer: clients of today refuse to work with less.
const LEAST_FRAME_MAX: u32 = 8192;

/// The largest `frame_max` to offer: a frame is held whole until its last byte has come, once per connection.
const MOST_FRAME_MAX: u32 = 16 << 20;

/// The longest `handshake_timeout`: a day. A longer one would limit nothing, and the clock does not reach arbitrarily far.
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(86_400);

/// The longest virtual host name, in bytes: it is a short string on the wire (AMQP 4.2.5.3).
const LONGEST_NAME: usize = 255;

/// The levels of the log.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Why a value of the right type is still not acceptable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSetting {
    #[error("must not be empty")]
    Empty,
    #[error("must not be zero")]
    Zero,
    #[error("{value} is not between {least} and {most}")]
    Range { value: u64, least: u64, most: u64 },
    #[error("longer than {LONGEST_NAME} bytes")]
    TooLong,
    #[error("longer than a day (86400s)")]
    BeyondADay,
    #[error("{0} is given twice")]
    Twice(String),
    #[error("`{0}` is not a version as clients read it (X.Y.Z, three numbers)")]
    Version(String),
    #[error("`{0}` is neither a level (off, error, warn, info, debug, trace) nor a module with one (leveret=debug)")]
    Level(String),
}

type Check = (&'static str, Result<(), InvalidSetting>);

/// The first setting that is not acceptable, and why.
pub(super) fn validate(config: &Config) -> Result<(), (&'static str, InvalidSetting)> {
    let data_dir = match config.storage {
        StorageKind::Sled => filled(config.data_dir.as_os_str().as_encoded_bytes()),
        StorageKind::Memory => Ok(()),
    };
    let checks: [Check; 16] = [
        ("listen", addresses(config)),
        ("data_dir", data_dir),
        ("default_user", filled(config.default_user.as_bytes())),
        // RabbitMQ never lets anyone in with an empty password.
        ("default_pass", filled(config.default_pass.as_bytes())),
        ("default_vhost", filled(config.default_vhost.as_bytes())),
        ("default_vhost", short(&config.default_vhost)),
        ("memory_limit", not_zero(config.memory_limit.bytes())),
        ("max_message_size", range(config.max_message_size.bytes(), 1, MAX_MESSAGE_SIZE_CEILING.bytes())),
        ("frame_max", range(config.frame_max.into(), LEAST_FRAME_MAX.into(), MOST_FRAME_MAX.into())),
        ("channel_max", not_zero(config.channel_max.into())),
        ("channel_tick_interval", not_zero(config.channel_tick_interval)),
        ("handshake_timeout", handshake_timeout(config)),
        ("product", filled(config.product.as_bytes())),
        ("announced_version", version(&config.announced_version)),
        ("cluster_name", filled(config.cluster_name.as_bytes())),
        ("log_level", levels(&config.log_level)),
    ];
    checks.into_iter().try_for_each(|(setting, check)| check.map_err(|reason| (setting, reason)))
}

fn addresses(config: &Config) -> Result<(), InvalidSetting> {
    if config.listen.is_empty() {
        return Err(InvalidSetting::Empty);
    }
    let mut seen = HashSet::new();
    // Port 0 is a different port every time.
    match config.listen.iter().find(|address| address.port() != 0 && !seen.insert(**address)) {
        Some(address) => Err(InvalidSetting::Twice(address.to_string())),
        None => Ok(()),
    }
}

fn handshake_timeout(config: &Config) -> Result<(), InvalidSetting> {
    not_zero(u64::try_from(config.handshake_timeout.as_millis()).unwrap_or(u64::MAX))?;
    if config.handshake_timeout > LONGEST_HANDSHAKE { Err(InvalidSetting::BeyondADay) } else { Ok(()) }
}

fn filled(text: &[u8]) -> Result<(), InvalidSetting> {
    if text.is_empty() { Err(InvalidSetting::Empty) } else { Ok(()) }
}

fn short(text: &str) -> Result<(), InvalidSetting> {
    if text.len() > LONGEST_NAME { Err(InvalidSetting::TooLong) } else { Ok(()) }
}

fn not_zero(value: u64) -> Result<(), InvalidSetting> {
    if value == 0 { Err(InvalidSetting::Zero) } else { Ok(()) }
}

fn range(value: u64, least: u64, most: u64) -> Result<(), InvalidSetting> {
    if (least..=most).contains(&value) { Ok(()) } else { Err(InvalidSetting::Range { value, least, most }) }
}

fn version(text: &str) -> Result<(), InvalidSetting> {
    let numbers = text.split('.').map(str::parse::<u16>).filter(Result::is_ok).count();
    if numbers == 3 && text.split('.').count() == 3 { Ok(()) } else { Err(InvalidSetting::Version(text.to_owned())) }
}

/// A bare word must be a level: the filter itself would take a misspelt one for the name of a module.
fn levels(text: &str) -> Result<(), InvalidSetting> {
    let unfit = text.split(',').map(str::trim).find(|part| {
        let level = part.split_once('=').map_or(*part, |(_, level)| level);
        !LEVELS.contains(&level.to_ascii_lowercase().as_str())
    });
    match unfit {
        Some(part) => Err(InvalidSetting::Level(part.to_owned())),
        None => Ok(()),
    }
}
