//! Renewal under load: requests go on, with the old certificate until the new one has been used.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::{Device, Server, Setup, eventually, text};

#[test]
fn requests_go_on_while_the_certificate_is_renewed() {
    let server = Server::start(Setup::default());
    let device = server.device("a");
    let url = server.url("/");
    device.run(&["request", &url]);
    let old = Device {
        store: server.path("old"),
    };
    std::fs::create_dir(&old.store).unwrap();
    std::fs::copy(device.key_file(), old.key_file()).unwrap();
    std::fs::copy(device.certificate_file(), old.certificate_file()).unwrap();

    let done = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let requests: Vec<_> = (0..3)
            .map(|_| {
                let (device, url, done) = (&device, &url, Arc::clone(&done));
                scope.spawn(move || {
                    let mut count = 0;
                    while !done.load(Ordering::Relaxed) {
                        device.run(&["request", url]);
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(300));
            device.run(&["renew"]);
        }
        std::thread::sleep(Duration::from_millis(300));
        done.store(true, Ordering::Relaxed);
        for request in requests {
            assert!(request.join().unwrap() > 0);
        }
    });

    eventually(
        Duration::from_secs(2),
        "the old certificate is refused as retired",
        || text(&old.curl(&server, &[&url]).stdout).contains("\"code\":\"retired\""),
    );
    device.run(&["request", &url]);
    let shown = server.json(&["device", "show", "a", "--json"]);
    let statuses: Vec<_> = shown["certificates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|certificate| certificate["status"].as_str().unwrap())
        .collect();
    assert_eq!(statuses, ["active", "retired", "retired", "retired"]);
}
