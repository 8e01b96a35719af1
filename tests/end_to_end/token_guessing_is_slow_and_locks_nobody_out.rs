//! Wrong tokens in numbers: they get slower, and a right one beside them still brings its certificate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::enrollment::{Client, code_of, metric};
use crate::harness::{Server, Setup, figure};

#[tokio::test(flavor = "multi_thread")]
async fn a_right_token_passes_among_wrong_ones_from_its_own_address() {
    let server = Server::start(Setup::default());
    let code = server.run(&["token", "new", "--device", "honest"]);
    server.run(&["token", "new", "--device", "victim"]);
    let client = Client::new(&server);
    let head = metric(&server, "keybound_feed_applied_seq");

    // As many as are a mistake, then too many.
    let mut codes = Vec::new();
    for number in 0..25_u128 {
        let answer = client.enroll("victim", &format!("{number:032x}")).await;
        codes.push(code_of(&answer));
        if codes.last().is_some_and(|code| code == "rate-limited") {
            assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
            assert!(answer.contains("application/problem+json"), "{answer}");
            let seconds = answer.split("retry-after: ").nth(1).unwrap();
            let seconds: u64 = seconds.lines().next().unwrap().parse().unwrap();
            assert!((1..=6).contains(&seconds), "{answer}");
        }
    }
    assert!(
        codes[..20].iter().all(|code| code == "token-invalid"),
        "{codes:?}"
    );
    assert!(
        codes[20..].contains(&"rate-limited".to_owned()),
        "{codes:?}"
    );
    // The same is said about a device that does not exist.
    let answer = client.enroll("nobody", &"0".repeat(32)).await;
    assert_eq!(code_of(&answer), "rate-limited");
    let explained = server.run(&["explain", "victim"]);
    assert!(explained.contains("rate-limited"), "{explained}");
    // Another address is not held responsible.
    let other = client.from("127.0.0.3");
    let answer = other.enroll("victim", &"0".repeat(32)).await;
    assert_eq!(code_of(&answer), "token-invalid");

    // Somebody who does not care, on many connections, and a device with a right token in their midst.
    let done = Arc::new(AtomicBool::new(false));
    let guesses = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let guessing: Vec<_> = (0..40)
        .map(|_| {
            let (client, done, guesses) = (client.clone(), Arc::clone(&done), Arc::clone(&guesses));
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let answer = client.enroll("victim", &"1".repeat(32)).await;
                    let code = code_of(&answer);
                    assert!(
                        code == "rate-limited" || code == "token-invalid",
                        "{answer}"
                    );
                    guesses.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let asked = Instant::now();
    let device = crate::harness::Device {
        store: server.path("store-honest"),
    };
    let (device, enrolled_after) = tokio::task::spawn_blocking(move || {
        device.run(&["enroll", code.trim()]);
        (device, asked.elapsed())
    })
    .await
    .unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    done.store(true, Ordering::Relaxed);
    let guesses_until_then = guesses.load(Ordering::Relaxed);
    let lasted = started.elapsed();
    for guesser in guessing {
        guesser.await.unwrap();
    }
    assert!(device.certificate_file().exists());
    assert!(
        enrolled_after < Duration::from_secs(10),
        "{enrolled_after:?}"
    );
    let per_second = guesses_until_then as f64 / lasted.as_secs_f64();
    assert!(per_second < 25.0, "{per_second} guesses in a second");
    figure(
        "enrolling beside 40 connections that guess tokens from the same address",
        format!("{enrolled_after:?}"),
    );
    figure(
        "wrong tokens judged per second and address",
        format!("{per_second:.1}"),
    );
    assert!(metric(&server, "outcome=\"rate-limited\"") >= 5);
    // Nothing was recorded but the honest device.
    let seq = metric(&server, "keybound_feed_applied_seq");
    assert_eq!(seq, head + 1);
}
