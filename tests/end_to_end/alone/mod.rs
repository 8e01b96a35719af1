//! One module per behaviour under load, crash or fault.

mod a_large_fleet_is_served_soon_after_a_crash;
mod rig;

mod a_clock_that_is_set_takes_nothing_back;
mod a_device_killed_at_any_moment_is_never_bricked;
mod a_failing_disk_stops_issuance_and_nothing_else;
mod a_log_that_nobody_reads_blocks_nobody;
mod a_terminated_server_cuts_no_answer_short;
mod an_answer_leaves_after_the_sync;
mod what_was_answered_survives_every_kill;
