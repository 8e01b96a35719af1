//! One module per behaviour under load, crash or fault.

mod honest;
mod process;
#[path = "../../../gateway/tests/end_to_end/raw_http2.rs"]
#[allow(dead_code, reason = "the gateway's own tests use all of it")]
mod raw_http2;
mod rig;

mod a_clock_that_is_set_takes_nothing_back;
mod a_device_killed_at_any_moment_is_never_bricked;
mod a_failing_disk_stops_issuance_and_nothing_else;
mod a_large_fleet_is_served_soon_after_a_crash;
mod a_log_that_nobody_reads_blocks_nobody;
mod a_reload_under_load_loses_no_request;
mod a_restart_refuses_nobody;
mod a_terminated_server_cuts_no_answer_short;
mod an_answer_leaves_after_the_sync;
mod broken_handshakes_leave_nothing_behind;
mod floods_at_tcp_routes_cost_no_memory;
mod floods_cost_no_memory;
mod handshakes_in_vain_do_not_starve_devices;
mod memory_comes_back;
mod silent_and_garbled_clients_disturb_nobody;
mod slow_devices_hold_nothing;
mod what_was_answered_survives_every_kill;
mod without_descriptors_it_waits_and_recovers;
