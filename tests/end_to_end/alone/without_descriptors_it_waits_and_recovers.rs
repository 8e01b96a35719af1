//! More connections than descriptors: the server does not spin, and devices are served again as soon as there is
//! room. With a few more of them the operator is heard at once, whatever strangers hold.

use std::time::{Duration, Instant};

use super::honest::Honest;
use super::process::{descriptors, processor};
use crate::harness::{Server, Setup, figure};

/// Three hundred silent connections to each listener. Enrollment has a bound of its own, far above what is there.
async fn crowd(server: &Server) -> Vec<tokio::net::TcpStream> {
    let mut held = Vec::new();
    for address in [server.enrollment(), server.gateway(), server.health()] {
        for _ in 0..300 {
            held.push(tokio::net::TcpStream::connect(address).await.unwrap());
        }
    }
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn with_eighty_descriptors() {
    // So few that those set aside do not suffice for what the listeners hold.
    let setup = Setup::default().wrapper(&["bash", "-c", "ulimit -n 80; exec \"$@\"", "-"]);
    let server = Server::start(setup);
    let mut honest = Honest::new(&server, &server.device("honest")).await;
    let held = crowd(&server).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (open, used) = (descriptors(&server), processor(&server));
    let started = Instant::now();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let used = processor(&server).saturating_sub(used);
    let share = used.as_secs_f64() / started.elapsed().as_secs_f64();
    figure(
        "descriptors open of 80, and processor time used while there are none",
        format!("{open}, {:.1} %", 100.0 * share),
    );
    assert!(open >= 78, "{open}: the descriptors are not exhausted");
    assert!(share < 0.25, "it spins: {used:?}");

    drop(held);
    let started = Instant::now();
    honest.times(1).await;
    let recovered = started.elapsed();
    figure(
        "served again after the descriptors came back",
        format!("{recovered:.1?}"),
    );
    assert!(recovered < Duration::from_secs(1), "{recovered:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_is_heard_through_a_crowd() {
    let setup = Setup::default().wrapper(&["bash", "-c", "ulimit -n 160; exec \"$@\"", "-"]);
    let server = Server::start(setup);
    server.device("lost");
    let _held = crowd(&server).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let started = Instant::now();
    server.run(&["device", "revoke", "lost"]);
    let took = started.elapsed();
    figure(
        "a revocation with 160 descriptors and 900 silent strangers",
        format!("{took:.1?}"),
    );
    assert!(took < Duration::from_secs(2), "{took:?}");
}
