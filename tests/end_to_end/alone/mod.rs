//! One module per behaviour under load, crash or fault.

mod a_large_fleet_is_served_soon_after_a_crash;
