//! Every setting and limit of the broker: its name, unit, default and reason. **One list**, in [`settings!`] below.
//!
//! Out of the list come the [`Config`] that the broker is built from, the [`PartialConfig`] that one layer gives
//! (command line, environment, file), the flags with their help, the names of the environment variables
//! (`LEVERET_` and the name in capitals) and the keys of the file. [`Config::layered`] joins the layers:
//! flags over `LEVERET_*` over `RABBITMQ_DEFAULT_*` over the file over the defaults.
//!
//! * `value`: the types a setting can have, and how a text becomes one.
//! * `size`: sizes in bytes and their units.
//! * `machine`: how much memory there is.
//! * `validate`: what a value must be beyond its type.

mod machine;
mod policies;
mod size;
mod validate;
mod value;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

pub use machine::memory_available;
pub use policies::{ConfiguredPolicy, PolicyTableError};
pub use size::ByteSize;
pub use validate::InvalidSetting;
pub use value::{DEFAULT_PORT, Durability, InvalidValue, LogFormat, Password, Scalar, StorageKind, Value};

/// The smallest frame_max, in bytes, that a client may ask for in connection.tune-ok: old clients ask for this one.
pub const FRAME_MIN: u32 = 4096;

/// The largest value of `max_message_size`: RabbitMQ's own ceiling.
pub const MAX_MESSAGE_SIZE_CEILING: ByteSize = ByteSize::mib(512);

/// The share of [`memory_available`] that `memory_limit` is by default, in percent: RabbitMQ's, and it leaves the rest
/// to the kernel's page cache and to what a message costs beyond its bytes.
pub const MEMORY_SHARE_PERCENT: u64 = 40;

/// What `memory_limit` is by default where the machine's memory cannot be found out.
const MEMORY_LIMIT_UNKNOWN_MACHINE: ByteSize = ByteSize::mib(512);

/// Makes of one list the whole configuration, a layer of it, and the ways to read and to show them. The first
/// paragraph of a comment is the flag's short help.
macro_rules! settings {
    ($($(#[doc = $doc:literal])* $name:ident: $type:ty = $default:expr, [$($arg:tt)*];)*) => {
        /// What a broker is built from. Plain data; [`Config::validate`] says whether a broker can be built from it.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config {
            $($(#[doc = $doc])* pub $name: $type,)*
            /// Policies as the file writes them; [`Config::policies`] reads them.
            pub policy: Vec<toml::Table>,
            /// Operator policies, the same way.
            pub operator_policy: Vec<toml::Table>,
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($name: $default,)* policy: Vec::new(), operator_policy: Vec::new() }
            }
        }

        /// What one layer says: the command line, the environment or a file. `None`: it says nothing.
        #[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct PartialConfig {
            $(
                $(#[doc = $doc])*
                #[serde(deserialize_with = "value::from_file")]
                #[arg(long, value_parser = <$type as Value>::parser(), $($arg)*)]
                pub $name: Option<$type>,
            )*
            /// Policies, in the file only: tables `[[policy]]`.
            #[arg(skip)]
            pub policy: Vec<toml::Table>,
            /// Operator policies: tables `[[operator_policy]]`.
            #[arg(skip)]
            pub operator_policy: Vec<toml::Table>,
        }

        impl PartialConfig {
            /// This layer, and where it says nothing, the `lower` one.
            pub fn over(self, lower: Self) -> Self {
                Self {
                    $($name: self.$name.or(lower.$name),)*
                    policy: either(self.policy, lower.policy),
                    operator_policy: either(self.operator_policy, lower.operator_policy),
                }
            }

            /// Sets the setting of that name from a text. `false`: there is none of that name.
            ///
            /// # Errors
            /// [`InvalidValue`] if the text is none of its values.
            pub fn set(&mut self, name: &str, text: &str) -> Result<bool, InvalidValue> {
                match name {
                    $(stringify!($name) => self.$name = Some(Value::parse(text)?),)*
                    _ => return Ok(false),
                }
                Ok(true)
            }

            /// This layer over the defaults: everything that is not said is the default.
            pub fn complete(self) -> Config {
                let default = Config::default();
                Config {
                    $($name: self.$name.unwrap_or(default.$name),)*
                    policy: self.policy,
                    operator_policy: self.operator_policy,
                }
            }
        }

        impl Config {
            /// Every setting with its value, in the order of the list. `None`: a secret.
            fn entries(&self) -> Vec<(&'static str, Option<toml::Value>)> {
                vec![$((stringify!($name), Value::to_toml(&self.$name)),)*]
            }
        }
    };
}

settings! {
    /// Address to listen on; may be given several times. Default: 127.0.0.1:5672
    ///
    /// IP:PORT, [IPv6]:PORT or NAME:PORT; without a port it is 5672, with port 0 a free one is taken. Only the
    /// loopback by default, because the default user's password is known to everyone.
    listen: Vec<SocketAddr> = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT))], [value_name = "ADDR"];

    /// Directory of the durable data; created if missing. Default: ./leveret-data
    ///
    /// One broker at a time: a second one refuses to start. Relative to the directory the broker is started in.
    data_dir: PathBuf = PathBuf::from("./leveret-data"), [value_name = "DIR", value_hint = clap::ValueHint::DirPath];

    /// Where durable data is kept: sled (the data directory) or memory (gone with the broker). Default: sled
    storage: StorageKind = StorageKind::Sled, [value_name = "KIND"];

    /// Name of the user created at the first start. Default: guest
    default_user: String = "guest".to_owned(), [value_name = "NAME"];

    /// Password of that user. Default: guest
    ///
    /// On the command line other users of the machine can see it; the environment and the file are better places.
    default_pass: Password = "guest".into(), [value_name = "PASSWORD"];

    /// Virtual host created at the first start, open to that user. Default: /
    default_vhost: String = "/".to_owned(), [value_name = "VHOST"];

    /// Users who may connect from the machine itself only; an empty list: nobody is held to that. Default: guest
    ///
    /// Several are separated by commas or given one by one.
    loopback_users: Vec<String> = vec!["guest".to_owned()], [value_name = "NAMES", value_delimiter = ','];

    /// Definitions in RabbitMQ's JSON format, applied at every start: virtual hosts, users, policies, queues, bindings
    ///
    /// What cannot be applied is in the log, the rest is applied; nothing is deleted. With a file, a broker that starts
    /// for the first time makes no default user and no default virtual host. Relative to the directory the broker is
    /// started in; an empty path: no file.
    definitions: PathBuf = PathBuf::new(), [value_name = "FILE", value_hint = clap::ValueHint::FilePath];

    /// Memory for messages; at the limit, publishers wait and are told so. Default: 40 % of the memory there is
    ///
    /// In bytes, or as 300MB (10^6), 64MiB (2^20), 1GB. What there is: the machine's memory, or the control group's
    /// limit if that is less. At the limit the broker stops reading from connections that publish and sends them
    /// connection.blocked, if they understand it; consumers go on, since their acks free memory.
    memory_limit: ByteSize = default_memory_limit(), [value_name = "SIZE"];

    /// Free disk below which publishers wait and are told so. Default: 50MB; 0: never
    ///
    /// In bytes, or as 50MB (10^6), 1GiB (2^30). As at the memory limit, consumers go on. It is the data directory's
    /// file system that counts; with storage in memory, none does.
    disk_free_limit: ByteSize = ByteSize::new(50_000_000), [value_name = "SIZE"];

    /// What confirms promise: sync (the data is on the device) or os (the operating system has it). Default: sync
    ///
    /// With os, what was confirmed survives the broker's death, kill -9 included, but not a power cut or a crash of the
    /// machine: as RabbitMQ's classic queues since 4.0.
    durability: Durability = Durability::Sync, [value_name = "LEVEL"];

    /// Largest body of a message. Default: 16MiB; at most 512MiB
    ///
    /// A larger one closes the channel with 406. The default is RabbitMQ's since 4.0.
    max_message_size: ByteSize = ByteSize::mib(16), [value_name = "SIZE"];

    /// Heartbeat interval offered to clients, in seconds; 0 offers none. Default: 60
    ///
    /// A client may choose another. One that stays silent for more than two intervals is dropped.
    heartbeat: u16 = 60, [value_name = "SECONDS"];

    /// Longest time a delivery may wait for its acknowledgement, in milliseconds; 0: for ever. Default: 0
    ///
    /// Then the channel is closed with 406, and its deliveries go back to their queues. A queue's argument
    /// x-consumer-timeout and the policy key consumer-timeout go over it; of these two the smaller holds. RabbitMQ's
    /// default is 1800000, half an hour, which ends long jobs.
    consumer_timeout: u64 = 0, [value_name = "MILLISECONDS"];

    /// How often a channel's deliveries are looked at for that, in milliseconds. Default: 60000
    channel_tick_interval: u64 = 60_000, [value_name = "MILLISECONDS"];

    /// Largest frame offered to clients, in bytes. Default: 131072; 8192 to 16777216
    ///
    /// A client may ask for less, down to 4096. Larger bodies are cut into several frames; a larger limit makes a
    /// connection's other channels wait longer for one message.
    frame_max: u32 = 131_072, [value_name = "BYTES"];

    /// Channels a client may have open on one connection. Default: 2047
    channel_max: u16 = 2047, [value_name = "COUNT"];

    /// Time a client has from connecting until its virtual host is open. Default: 10s; at most a day
    ///
    /// In seconds, or as 10s or 500ms. Without a limit, silent connections would pile up.
    handshake_timeout: Duration = Duration::from_secs(10), [value_name = "TIME"];

    /// Product name announced to clients. Default: RabbitMQ
    ///
    /// Some client libraries choose their behaviour by it: kombu, and so Celery, changes its prefetch in a way that
    /// only works if the product is exactly RabbitMQ.
    product: String = "RabbitMQ".to_owned(), [value_name = "NAME"];

    /// Version announced to clients: the RabbitMQ whose behaviour they can count on. Default: 4.2.0
    ///
    /// Client libraries parse it (X.Y.Z) and branch on it.
    announced_version: String = "4.2.0".to_owned(), [value_name = "X.Y.Z"];

    /// Cluster name announced to clients. Default: leveret
    cluster_name: String = "leveret".to_owned(), [value_name = "NAME"];

    /// How a line of the log looks: text or json. Default: text
    log_format: LogFormat = LogFormat::Text, [value_name = "FORMAT"];

    /// What is logged: off, error, warn, info, debug or trace. Default: info
    ///
    /// For single modules too, separated by commas: info,leveret::connection=debug
    log_level: String = "info".to_owned(), [value_name = "LEVEL"];
}

/// The first list, or the second if that one is empty.
fn either<T>(first: Vec<T>, second: Vec<T>) -> Vec<T> {
    if first.is_empty() { second } else { first }
}

/// [`MEMORY_SHARE_PERCENT`] of the memory there is.
fn default_memory_limit() -> ByteSize {
    memory_available()
        .map_or(MEMORY_LIMIT_UNKNOWN_MACHINE, |available| ByteSize::new(available / 100 * MEMORY_SHARE_PERCENT))
}

/// Why there is no configuration. Each is one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{}:{line}: {message}", path.display())]
    File { path: PathBuf, line: usize, message: String },
    #[error("the environment variable {variable} has the value `{text}`: {reason}")]
    Variable { variable: String, text: String, reason: InvalidValue },
    #[error("the environment variable {0} is not UTF-8")]
    NotUtf8(String),
    #[error("{reason}")]
    Policy { reason: PolicyTableError },
    #[error("{}: {reason}", setting)]
    Setting { setting: &'static str, reason: InvalidSetting },
}

/// A configuration made of layers, and what was found on the way.
#[derive(Clone, Debug, PartialEq)]
pub struct Layered {
    pub config: Config,
    /// Variables named `LEVERET_*` that are no setting: misspelt, perhaps. Worth a warning, not a refusal, because
    /// others use the prefix too.
    pub unknown_variables: Vec<String>,
}

/// The variables with RabbitMQ's names, and the settings they stand for.
const RABBITMQ_VARIABLES: [(&str, &str); 3] = [
    ("RABBITMQ_DEFAULT_USER", "default_user"),
    ("RABBITMQ_DEFAULT_PASS", "default_pass"),
    ("RABBITMQ_DEFAULT_VHOST", "default_vhost"),
];

/// The prefix of our own variables.
pub const VARIABLE_PREFIX: &str = "LEVERET_";

/// The variable that names the configuration file. Not a setting, but known.
pub const FILE_VARIABLE: &str = "LEVERET_CONFIG";

impl Config {
    /// A broker for tests: in memory, on a free port of the loopback.
    pub fn in_memory() -> Self {
        Self {
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))],
            storage: StorageKind::Memory,
            ..Self::default()
        }
    }

    /// Joins the layers: flags over environment over file over defaults. Reads nothing but its arguments (a listen
    /// address that is a name is looked up). The result is not validated yet.
    ///
    /// # Errors
    /// [`ConfigError::Variable`] if a variable of the environment has a value that its setting cannot have.
    pub fn layered(
        file: Option<PartialConfig>,
        env: impl Iterator<Item = (String, String)>,
        flags: PartialConfig,
    ) -> Result<Layered, ConfigError> {
        let (mut ours, mut rabbitmq) = (PartialConfig::default(), PartialConfig::default());
        let mut unknown_variables = Vec::new();
        for (variable, text) in env {
            let set = if let Some((_, setting)) = RABBITMQ_VARIABLES.iter().find(|(name, _)| *name == variable) {
                // Compose files pass a variable on even if it has no value; RabbitMQ's images take that as not set.
                if text.is_empty() { Ok(true) } else { rabbitmq.set(setting, &text) }
            } else if let Some(name) = variable.strip_prefix(VARIABLE_PREFIX) {
                ours.set(&name.to_ascii_lowercase(), &text).map(|known| known || variable == FILE_VARIABLE)
            } else {
                continue;
            };
            match set {
                Ok(true) => {}
                Ok(false) => unknown_variables.push(variable),
                Err(reason) => {
                    return Err(ConfigError::Variable { variable, text, reason });
                }
            }
        }
        let mut config = flags.over(ours).over(rabbitmq).over(file.unwrap_or_default()).complete();
        // `--loopback-users ''` is how a command line says an empty list.
        config.loopback_users.retain(|user| !user.is_empty());
        Ok(Layered { config, unknown_variables })
    }

    /// Checks what the types cannot say: ranges, and texts that must not be empty.
    ///
    /// # Errors
    /// [`ConfigError::Setting`] for the first setting that is out of bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        validate::validate(self).map_err(|(setting, reason)| ConfigError::Setting { setting, reason })?;
        self.policies().map(drop)
    }

    /// The configuration as the text of a file that gives the same one, except the password, which is not shown.
    pub fn to_toml(&self) -> String {
        let line = |(name, value): (&str, Option<toml::Value>)| match value {
            Some(value) => format!("{name} = {value}\n"),
            None => format!("# {name} is set, and not shown\n"),
        };
        self.entries().into_iter().map(line).chain([policies::shown(self)]).collect()
    }
}

impl PartialConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`] or [`ConfigError::File`] with the line that is wrong.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        Self::parse(&text).map_err(|(line, message)| ConfigError::File { path: path.to_owned(), line, message })
    }

    /// Reads the text of a file; an error is the number of a line and what is wrong there, in one line.
    fn parse(text: &str) -> Result<Self, (usize, String)> {
        toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = text.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1;
            (line, error.message().lines().collect::<Vec<_>>().join(", "))
        })
    }
}

#[cfg(test)]
mod tests;
