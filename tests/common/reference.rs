//! Where the broker is meant to differ from the RabbitMQ 3.10 that the tests were tried against.

use crate::server::Server;

/// Tests that RabbitMQ 3.10.8 fails by design of the contract, and what it does instead.
pub const DIFFERS_FROM_3_10: &[(&str, &str)] = &[
    (
        "amqp_0_8_gets_eight_octets_and_the_end",
        "it takes the header of 0-8 for 0-9-1",
    ),
    (
        "start_offers_plain_first_and_amqplain",
        "it offers AMQPLAIN PLAIN",
    ),
    (
        "server_properties_name_a_rabbitmq_of_the_4_2_line",
        "it is 3.10",
    ),
];

/// True when the test should be passed over: the tests run against a given broker, and it is one of those listed.
///
/// # Panics
/// If the test isn't listed, so that the list stays complete.
#[track_caller]
pub fn differs_from_reference(test: &str) -> bool {
    let Some((_, why)) = DIFFERS_FROM_3_10.iter().find(|(name, _)| *name == test) else {
        panic!("{test} isn't in DIFFERS_FROM_3_10");
    };
    if Server::is_given() {
        eprintln!("{test}: passed over, RabbitMQ 3.10 differs: {why}");
    }
    Server::is_given()
}
