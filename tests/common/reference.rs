//! Where the broker is meant to differ from the RabbitMQ 3.10 that the tests were tried against, which had the plugins
//! rabbitmq_consistent_hash_exchange, rabbitmq_random_exchange, rabbitmq_recent_history_exchange and rabbitmq_sharding.

use crate::server::Server;

/// Tests that RabbitMQ 3.10.8 is meant to fail, and what it does instead.
pub const DIFFERS_FROM_3_10: &[(&str, &str)] = &[
    ("amqp_0_8_gets_eight_octets_and_the_end", "it takes the header of 0-8 for 0-9-1"),
    ("start_offers_plain_first_and_amqplain", "it offers AMQPLAIN PLAIN"),
    ("server_properties_name_a_rabbitmq_of_the_4_2_line", "it is 3.10"),
    ("an_unknown_method_id_is_503", "its reader dies without a frame"),
    ("an_unknown_tag_in_a_methods_table_ends_the_connection", "its reader dies without a frame"),
    ("a_value_that_runs_past_its_table_ends_the_connection", "its reader dies without a frame"),
    ("a_table_nested_beyond_reason_ends_the_connection_and_nothing_else", "it has no limit of nesting"),
    ("bits_1_and_0_of_the_property_flags_are_ignored", "it passes them through"),
    ("a_body_longer_than_announced_is_501", "it doesn't notice"),
    ("an_announced_body_above_512_mib_is_501_on_sight_of_the_header", "it doesn't notice"),
    ("close_requeues_what_was_fetched_with_get_before_close_ok", "what was only fetched may come back a moment later"),
    ("a_stream_queue_is_540_and_its_type_named", "it has streams"),
    ("an_unknown_type_is_refused", "it closes the connection with 503"),
    ("the_type_is_checked_before_the_name", "it closes the connection with 503"),
    ("many_topic_hashes_are_matched_in_reasonable_time", "it tries every combination, and goes on for years"),
    ("a_float_is_never_equal_to_an_integer", "1.0 equals 1"),
    ("a_header_that_occurs_twice_counts_with_its_last_value", "it counts with its first"),
    ("a_body_above_16_mib_is_406_after_it_has_come", "its limit is 128 MiB"),
    ("the_expiration_is_checked_before_the_user_id", "it checks the user id first"),
    ("a_name_that_is_not_utf_8_is_shown_as_latin_1", "it is shown as it came"),
    ("a_message_is_routed_when_it_is_published", "it routes at commit"),
    (
        "a_reply_takes_the_next_delivery_tag_of_the_channel_and_cannot_be_acked",
        "a reply doesn't advance the channel's counter",
    ),
    ("a_mandatory_reply_is_routed_whether_the_requester_is_there_or_gone", "it is returned in both cases"),
    ("a_reply_in_a_transaction_goes_out_at_commit", "a reply is no part of the transaction"),
    ("a_name_that_was_never_made_is_404", "it closes the connection with 541"),
    ("the_first_death_is_never_changed_and_the_last_at_every_death", "it has no x-last-death headers"),
    ("what_a_client_publishes_again_with_x_death_counts_for_nothing", "it goes on counting what it is given"),
    ("with_a_dead_letter_key_cc_stays_in_the_headers_and_leads_nowhere", "it removes CC"),
    ("a_dead_letter_key_takes_the_place_of_all_keys_for_later_deaths_too", "it removes CC"),
    ("the_keys_of_an_entry_of_x_death_have_this_order_on_the_wire", "it has original-expiration last"),
    ("any_other_delivery_mode_is_transient_and_comes_back_as_it_was", "it refuses other numbers with 406"),
    ("the_requeue_bit_of_a_nack_to_a_publisher_is_0", "it is 1"),
    ("an_empty_or_undefined_queue_type_is_the_default", "it refuses both"),
    ("any_queue_mode_is_accepted", "it knows default and lazy"),
    ("a_newcomer_of_higher_priority_becomes_the_single_active_consumer", "the newcomer waits"),
    ("redeliveries_count_in_x_delivery_count_which_the_first_does_not_have", "the first delivery has it as 0"),
    ("the_delivery_limit_is_20_by_default", "it has none"),
    ("a_negative_delivery_limit_is_none", "it allows no redelivery then"),
    ("other_reasons_of_the_same_queue_have_entries_of_their_own", "it puts the entries of one queue together"),
    ("a_leader_locator_is_one_of_four_on_every_type_of_queue", "a classic queue has none"),
    ("another_queue_type_is_reported_against_the_default", "it says that there was none"),
    ("a_very_long_cascade_is_only_long", "it takes too long for the chain"),
    ("a_newly_bound_exchange_gets_the_history_too", "its plugin fails with 541"),
    ("an_exchange_that_chooses_and_has_no_binding_routes_nowhere", "it has no x-local-random"),
    ("local_random_refuses_a_binding_key", "it has no x-local-random"),
    ("local_random_refuses_an_exchange", "it has no x-local-random"),
    ("local_random_takes_one_queue_by_chance", "it has no x-local-random"),
    (
        "unknown_arguments_are_no_reason_to_refuse_and_none_but_alternate_exchange_is_compared",
        "it shows a type with a hyphen in two pairs of quotes",
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
