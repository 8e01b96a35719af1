//! What the fuzz targets (`targets/`) share: second readers of the formats that the product reads, written for
//! comparison and not for speed, and mutations that keep a format's outer shape.
//!
//! `tests/fuzz/run` builds and runs the targets; see there.

pub mod der;
pub mod http1;
pub mod random;
pub mod seeds;
