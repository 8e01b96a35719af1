//! What somebody who means harm sends to the authority: refused with its reason, and nothing comes of it.
#![allow(clippy::unwrap_used, clippy::print_stdout, unreachable_pub)] // In a test a panic is the report.

mod rig;

mod enrollment_tells_nobody_which_devices_exist;
mod keys_that_prove_nothing_are_not_certified;
mod only_a_good_certificate_renews;
mod requests_in_no_der_are_refused;
mod tokens_are_spent_by_their_device_alone;
mod what_a_request_asks_for_is_never_copied;
