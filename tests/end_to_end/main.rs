//! The whole product, with the tools that people use as its peers. One module per behaviour.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub
)] // In a test a panic is the report.

mod harness;

mod a_clock_that_was_wrong_does_no_lasting_harm;
mod a_collector_gets_spans_of_requests;
mod a_configuration_with_mistakes_starts_nothing;
mod a_device_enrolls_connects_is_identified_and_is_revoked;
mod a_fleet_moves_from_nginx_and_back;
mod a_folder_of_requests_is_signed_and_signed_again;
mod a_gateway_speaks_for_the_devices_behind_it;
mod a_load_balancer_says_where_devices_are;
mod a_panic_ends_one_request_only;
mod a_reload_with_a_mistake_changes_nothing;
mod a_renewal_loses_no_request;
mod a_saved_session_cannot_be_resumed;
mod alarms_of_lists_last_as_long_as_the_fault;
mod an_mqtt_broker_learns_which_device_is_there;
mod an_older_list_comes_back_by_no_way;
mod another_ca_stands_beside_ours;
mod certificates_from_files_are_chosen_by_name_and_replaced;
mod certificates_from_files_are_tried_again;
mod clients_of_every_kind_do_as_the_page_says;
mod envoy_carries_websockets_over_http2;
mod files_that_are_not_as_they_were_left_stop_the_start;
mod forged_identity_never_reaches_an_upstream;
mod grpc_calls_pass_and_are_refused_in_their_words;
mod ids_stand_where_the_anchor_says;
mod nginx_is_an_upstream_over_tls_http2_and_a_socket;
mod nginx_receives_what_the_device_sent;
mod no_list_waits_for_a_reload;
mod no_list_waits_for_another;
mod no_port_lets_a_stranger_in;
mod no_revocation_slips_between_entering_and_reading;
mod nobody_is_locked_out_by_a_device_that_holds_connections;
mod revocation_ends_every_kind_of_connection;
mod routes_ask_for_groups_and_certificates;
mod secrets_stay_where_they_were_made;
mod server_sent_events_arrive_at_once;
mod strangers_and_strays_are_told_apart;
mod strongswan_enrolls_and_reenrolls;
mod the_access_log_tells_every_request;
mod the_bench_measures_what_it_says;
mod the_doctor_speaks_both_versions_of_http;
mod the_enrollment_listener_is_nobodys_own;
mod the_house_keeps_its_plan;
mod the_readmes_walk_works_as_written;
mod the_service_files_are_whole;
mod the_tables_of_the_docs_are_whole;
mod token_guessing_is_slow_and_locks_nobody_out;
mod uploads_wait_for_100_and_answers_come_early;
mod upstreams_check_assertions;
mod upstreams_files_are_read_by_a_reload;
mod upstreams_refuse_whoever_goes_around;
mod what_harms_enrollment_is_refused_on_the_wire;
mod what_is_measured_is_documented;

/// Tests that measure, or that take what the machine has: `tests/run` runs them one after the other.
mod alone;
