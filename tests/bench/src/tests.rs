//! The load generator against its own upstream is what `tests/end_to_end/the_bench_measures_what_it_says.rs` tests; here is
//! what needs no gateway.

use serde_json::json;

use crate::outcome::Outcome;
use crate::relay::Hellos;

#[test]
fn hellos_are_counted_however_they_are_cut() {
    let record = |kind: u8, body: &[u8]| {
        let mut record = vec![kind, 3, 3, 0, body.len() as u8];
        record.extend_from_slice(body);
        record
    };
    let sent = [
        record(22, &[1, 0, 0]),
        record(20, &[1]),
        record(22, &[1, 0, 0]),
        record(23, &[1, 2, 3]),
    ]
    .concat();
    let mut hellos = Hellos::default();
    for byte in &sent {
        hellos.read(&[*byte]);
    }
    assert_eq!(hellos.count(), 2);
}

#[test]
fn percentiles_are_of_what_succeeded() {
    let outcome = Outcome::begin();
    for micros in 1..=101 {
        assert!(outcome.keep(std::time::Duration::from_micros(micros), Ok(())));
    }
    assert!(!outcome.keep(
        std::time::Duration::from_secs(9),
        Err(anyhow::anyhow!("late"))
    ));
    let report = outcome.report();
    assert_eq!(report["operations"], json!(101));
    assert_eq!(report["errors"], json!(1));
    assert_eq!(report["first_error"], json!("late"));
    assert_eq!(report["p50_us"], json!(51));
    assert_eq!(report["p99_us"], json!(100));
    assert_eq!(report["max_us"], json!(101));
}
