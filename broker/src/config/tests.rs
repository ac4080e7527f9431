use super::*;

fn environment(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect::<Vec<_>>().into_iter()
}

fn layered(file: &str, env: &[(&str, &str)], flags: PartialConfig) -> Config {
    let file = PartialConfig::parse(file).expect("the file");
    Config::layered(Some(file), environment(env), flags).expect("the layers").config
}

#[test]
fn the_defaults_are_those_of_the_help_and_of_rabbitmq() {
    let config = Config::default();
    assert_eq!(config.listen, ["127.0.0.1:5672".parse().unwrap()]);
    assert_eq!(config.data_dir, Path::new("./leveret-data"));
    assert_eq!((config.default_user.as_str(), &*config.default_pass), ("guest", "guest"));
    assert_eq!(config.default_vhost, "/");
    assert_eq!(config.loopback_users, ["guest"]);
    assert_eq!((config.heartbeat, config.frame_max, config.channel_max), (60, 131_072, 2047));
    assert_eq!(config.max_message_size.bytes(), 16_777_216);
    assert_eq!(config.handshake_timeout, Duration::from_secs(10));
    assert_eq!((config.consumer_timeout, config.channel_tick_interval), (0, 60_000));
    assert_eq!((config.product.as_str(), config.announced_version.as_str()), ("RabbitMQ", "4.2.0"));
    config.validate().expect("the defaults are valid");
}

#[test]
fn flags_go_over_environment_over_rabbitmqs_over_file_over_defaults() {
    let file = "default_user = 'file'\nheartbeat = 1";
    let rabbitmq = ("RABBITMQ_DEFAULT_USER", "rabbit");
    let ours = ("LEVERET_DEFAULT_USER", "ours");
    let flags = PartialConfig { default_user: Some("flag".to_owned()), ..PartialConfig::default() };
    let none = PartialConfig::default;

    assert_eq!(layered("", &[], none()).default_user, "guest");
    assert_eq!(layered(file, &[], none()).default_user, "file");
    assert_eq!(layered(file, &[rabbitmq], none()).default_user, "rabbit");
    assert_eq!(layered(file, &[ours, rabbitmq], none()).default_user, "ours");
    assert_eq!(layered(file, &[rabbitmq, ours], none()).default_user, "ours");
    assert_eq!(layered(file, &[ours, rabbitmq], flags.clone()).default_user, "flag");
    assert_eq!(layered(file, &[ours, rabbitmq], flags).heartbeat, 1, "what a layer does not say stays");
}

#[test]
fn rabbitmqs_variables_are_user_password_and_vhost_and_count_only_with_a_value() {
    let env = [("RABBITMQ_DEFAULT_PASS", "secret"), ("RABBITMQ_DEFAULT_VHOST", "shop"), ("RABBITMQ_DEFAULT_USER", "")];
    let config = layered("", &env, PartialConfig::default());
    assert_eq!((&*config.default_pass, config.default_vhost.as_str()), ("secret", "shop"));
    assert_eq!(config.default_user, "guest");
}

#[test]
fn every_setting_can_be_said_in_the_environment_and_in_the_file() {
    for (name, value) in Config::default().entries() {
        let text = match &value {
            Some(toml::Value::String(text)) => text.clone(),
            Some(toml::Value::Array(items)) => items[0].as_str().expect("a text").to_owned(),
            Some(other) => other.to_string(),
            None => "guest".to_owned(),
        };
        let variable = format!("{VARIABLE_PREFIX}{}", name.to_ascii_uppercase());
        let from_env = Config::layered(None, environment(&[(&variable, &text)]), PartialConfig::default()).unwrap();
        assert_eq!((from_env.config, from_env.unknown_variables), (Config::default(), vec![]), "{variable}={text}");
        let mut from_file = PartialConfig::parse(&format!("{name} = '{text}'")).expect(name);
        assert_eq!(from_file.set(name, &text), Ok(true));
        assert_ne!(from_file, PartialConfig::default(), "{name} is said");
    }
}

#[test]
fn unknown_variables_of_ours_are_named_and_those_of_others_ignored() {
    let env =
        environment(&[("LEVERET_LISEN", "x"), ("LEVERET_CONFIG", "a.toml"), ("PATH", "/bin"), ("RABBITMQ_X", "1")]);
    let layered = Config::layered(None, env, PartialConfig::default()).unwrap();
    assert_eq!(layered.unknown_variables, ["LEVERET_LISEN"]);
    assert_eq!(layered.config, Config::default());
}

#[test]
fn a_variable_with_an_impossible_value_is_an_error_that_names_it() {
    let env = environment(&[("LEVERET_MEMORY_LIMIT", "much")]);
    let error = Config::layered(None, env, PartialConfig::default()).expect_err("not a size").to_string();
    assert!(
        error.starts_with("the environment variable LEVERET_MEMORY_LIMIT has the value `much`: not a size"),
        "{error}"
    );
}

#[test]
fn lists_come_with_commas_from_the_environment_and_as_arrays_or_one_text_from_a_file() {
    let env = [("LEVERET_LISTEN", "127.0.0.1:1, [::1]:2"), ("LEVERET_LOOPBACK_USERS", "")];
    let config = layered("", &env, PartialConfig::default());
    assert_eq!(config.listen, ["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()]);
    assert!(config.loopback_users.is_empty());

    let config = layered("listen = ['127.0.0.1:1', '[::1]:2']\nloopback_users = []", &[], PartialConfig::default());
    assert_eq!(config.listen.len(), 2);
    assert!(config.loopback_users.is_empty());
    assert_eq!(layered("listen = '127.0.0.1:3'", &[], PartialConfig::default()).listen[0].port(), 3);
}

#[test]
fn sizes_are_powers_of_ten_or_of_two_by_their_unit() {
    let size = |text| <ByteSize as Scalar>::parse(text).map(ByteSize::bytes);
    assert_eq!(size("4096"), Ok(4096));
    assert_eq!(size("300MB"), Ok(300_000_000));
    assert_eq!(size("64MiB"), Ok(64 << 20));
    assert_eq!(size("64 mib"), Ok(64 << 20));
    assert_eq!(size("64M"), Ok(64 << 20));
    assert_eq!(size("1GB"), Ok(1_000_000_000));
    assert_eq!(size("2kB"), Ok(2000));
    for text in ["", "MB", "-1", "1.5GB", "1XB", "1 2", "99999999999TB"] {
        assert_eq!(size(text), Err(InvalidValue::Size), "{text:?}");
    }
}

#[test]
fn a_size_is_shown_so_that_it_reads_back_as_the_same() {
    for bytes in [0, 1, 999, 1000, 1024, 300_000_000, 64 << 20, 3 << 40, u64::MAX] {
        let size = ByteSize::new(bytes);
        assert_eq!(<ByteSize as Scalar>::parse(&size.to_string()), Ok(size), "{size}");
    }
    assert_eq!(ByteSize::new(300_000_000).to_string(), "300MB");
    assert_eq!(ByteSize::mib(16).to_string(), "16MiB");
}

#[test]
fn an_address_may_lack_its_port_and_may_be_a_name() {
    let address = |text| <SocketAddr as Scalar>::parse(text).map(|address| address.to_string());
    assert_eq!(address("0.0.0.0:5673").as_deref(), Ok("0.0.0.0:5673"));
    assert_eq!(address("0.0.0.0").as_deref(), Ok("0.0.0.0:5672"));
    assert_eq!(address("[::1]:5673").as_deref(), Ok("[::1]:5673"));
    assert_eq!(address("::1").as_deref(), Ok("[::1]:5672"));
    assert_eq!(address("[::1]").as_deref(), Ok("[::1]:5672"));
    assert_eq!(address("localhost:5673").as_deref(), Ok("127.0.0.1:5673"));
    assert_eq!(address("localhost").as_deref(), Ok("127.0.0.1:5672"));
    for text in ["", ":5672", "127.0.0.1:", "127.0.0.1:70000", "localhost:amqp"] {
        assert_eq!(address(text), Err(InvalidValue::Address), "{text:?}");
    }
}

#[test]
fn durations_are_seconds_unless_they_say_otherwise() {
    let duration = <Duration as Scalar>::parse;
    assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
    assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
    assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
    assert_eq!(duration("soon"), Err(InvalidValue::Duration));
}

#[test]
fn a_wrong_file_is_refused_in_one_line_with_the_place() {
    let refused = |text: &str| PartialConfig::parse(text).expect_err("refused");
    for (text, line, says) in [
        ("heartbeat = 1\nlisen = 'x'", 2, "unknown field `lisen`"),
        ("\n\nmemory_limit = 'much'", 3, "not a size"),
        ("heartbeat = 70000", 1, "not a whole number from 0 to 65535"),
        ("heartbeat = [1]", 1, "one value is expected, not a list"),
        ("storage = 'paper'", 1, "not one of sled, memory"),
        ("product = true", 1, "not a boolean"),
        ("heartbeat = 1\nheartbeat = 2", 2, "duplicate key"),
        ("this is not TOML", 1, ""),
    ] {
        let (at, message) = refused(text);
        assert_eq!(at, line, "{text:?}: {message}");
        assert!(message.contains(says) && !message.contains('\n'), "{text:?}: {message}");
    }
}

#[test]
fn validation_names_the_setting_and_what_it_must_be() {
    let refused = |file: &str, says: &str| {
        let error = layered(file, &[], PartialConfig::default()).validate().expect_err(file).to_string();
        assert_eq!(error, says, "{file}");
    };
    refused("listen = []", "listen: must not be empty");
    refused("listen = ['127.0.0.1:1', '127.0.0.1:1']", "listen: 127.0.0.1:1 is given twice");
    refused("data_dir = ''", "data_dir: must not be empty");
    refused("default_user = ''", "default_user: must not be empty");
    refused("default_pass = ''", "default_pass: must not be empty");
    refused("default_vhost = ''", "default_vhost: must not be empty");
    refused(&format!("default_vhost = '{}'", "v".repeat(256)), "default_vhost: longer than 255 bytes");
    refused("memory_limit = 0", "memory_limit: must not be zero");
    refused("max_message_size = 0", "max_message_size: 0 is not between 1 and 536870912");
    refused("max_message_size = '513MiB'", "max_message_size: 537919488 is not between 1 and 536870912");
    refused("frame_max = 4096", "frame_max: 4096 is not between 8192 and 16777216");
    refused("channel_max = 0", "channel_max: must not be zero");
    refused("channel_tick_interval = 0", "channel_tick_interval: must not be zero");
    refused("handshake_timeout = 0", "handshake_timeout: must not be zero");
    for time in ["86401s", "86400001ms", "18446744073709551615s"] {
        refused(&format!("handshake_timeout = '{time}'"), "handshake_timeout: longer than a day (86400s)");
    }
    layered("handshake_timeout = 86400", &[], PartialConfig::default()).validate().expect("a day");
    refused(
        "announced_version = '4.2'",
        "announced_version: `4.2` is not a version as clients read it (X.Y.Z, three numbers)",
    );
    for level in ["loud", "info,leveret=loud", ""] {
        let config = Config { log_level: level.to_owned(), ..Config::default() };
        assert!(config.validate().unwrap_err().to_string().starts_with("log_level: "), "{level:?}");
    }
    layered("log_level = 'info,leveret::queue=debug'", &[], PartialConfig::default()).validate().expect("a filter");
    layered("listen = ['127.0.0.1:0', '127.0.0.1:0']", &[], PartialConfig::default())
        .validate()
        .expect("two free ports");
}

#[test]
fn a_printed_configuration_reads_back_as_the_same_without_its_password() {
    let file = "listen = ['[::1]:0']\ndefault_pass = 'secret'\nhandshake_timeout = '1500ms'\nproduct = 'a \"b\"'\nstorage = 'memory'";
    let config = layered(file, &[], PartialConfig::default());
    let printed = config.to_toml();
    assert!(!printed.contains("secret"), "{printed}");
    assert!(printed.contains("# default_pass is set, and not shown\n"), "{printed}");
    let again = layered(&printed, &[("LEVERET_DEFAULT_PASS", "secret")], PartialConfig::default());
    assert_eq!(again, config);
}

#[test]
fn a_password_is_not_shown_by_debug() {
    let config = Config { default_pass: "secret".into(), ..Config::default() };
    assert!(!format!("{config:?}").contains("secret"));
}
