//! What the server's process uses, as the kernel counts it.

use std::time::{Duration, Instant};

use crate::harness::Server;

/// Resident memory in KiB.
pub fn memory(server: &Server) -> u64 {
    let status = read(server, "status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let mut words = line.unwrap().split_whitespace();
    words.nth(1).unwrap().parse().unwrap()
}

/// Open descriptors.
pub fn descriptors(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.process()))
        .unwrap()
        .count()
}

/// Connections that the gateway counts as open.
pub fn open_connections(server: &Server) -> usize {
    let url = format!("http://{}/metrics", server.health());
    let output = std::process::Command::new("curl")
        .args(["--silent", &url])
        .output()
        .unwrap();
    let metrics = String::from_utf8(output.stdout).unwrap();
    let gauge = metrics
        .lines()
        .find_map(|line| line.strip_prefix("keybound_gateway_connections_open "));
    gauge.unwrap().parse().unwrap()
}

/// Processor time so far, in the kernel and outside of it.
pub fn processor(server: &Server) -> Duration {
    let stat = read(server, "stat");
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().unwrap())
        .sum();
    // Linux says that a tick is 10 ms to everybody.
    Duration::from_millis(10 * ticks)
}

fn read(server: &Server, name: &str) -> String {
    std::fs::read_to_string(format!("/proc/{}/{name}", server.process())).unwrap()
}

/// Waits until descriptors are back to `before`, a few more apart; how long that took.
pub async fn settle(server: &Server, before: usize, limit: Duration) -> Duration {
    let started = Instant::now();
    while descriptors(server) > before + 8 {
        assert!(
            started.elapsed() < limit,
            "{} descriptors are open, {before} were before",
            descriptors(server)
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    started.elapsed()
}

/// The highest memory while `during` runs, in KiB, and what it gave.
pub async fn peak<T>(server: &Server, during: impl Future<Output = T>) -> (u64, T) {
    let mut highest = memory(server);
    let mut during = std::pin::pin!(during);
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    loop {
        tokio::select! {
            done = &mut during => return (highest.max(memory(server)), done),
            _ = tick.tick() => highest = highest.max(memory(server)),
        }
    }
}
