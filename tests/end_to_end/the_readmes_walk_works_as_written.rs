//! The five minutes of the README, copied line by line into a shell, on the ports that it names.

use crate::harness::page::Page;

#[test]
fn the_walk_from_start_to_revocation() {
    let directory = tempfile::tempdir().unwrap();
    let walk = Page::read("README.md").section("Five minutes");
    let steps = walk.follow(directory.path(), &[], 60);
    let printed: String = steps.iter().map(|step| step.printed.as_str()).collect();
    let shown = printed.matches("X-Device-Id: thermostat-7").count();
    assert_eq!(shown, 2, "by keybound-device and by curl:\n{printed}");
    assert!(
        printed.contains("thermostat-7 revoked: 1 of 1 gateways"),
        "{printed}"
    );
    assert!(printed.contains("(revoked, HTTP 403)"), "{printed}");
    let explained = printed.split("thermostat-7 is revoked").nth(1).unwrap();
    assert!(explained.contains("lost in transit"), "{explained}");
}
