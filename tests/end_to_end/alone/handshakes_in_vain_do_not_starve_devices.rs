//! Strangers with certificates of their own make the server do whole handshakes for nothing. An established
//! connection goes on meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::honest::{Honest, Waits};
use crate::harness::client::{config_of, connect_as};
use crate::harness::{Server, Setup, figure};

#[tokio::test(flavor = "multi_thread")]
async fn two_threads_of_them() {
    let server = Server::start(Setup::default().argument("--config").argument(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/end_to_end/alone/unlimited.toml"
    )));
    let mut honest = Honest::new(&server, &server.device("honest")).await;
    let run = |seconds| Instant::now() + Duration::from_secs(seconds);
    let mut calm = Waits::default();
    let until = run(3);
    while Instant::now() < until {
        honest.once(&mut calm).await;
    }
    let alone = calm.kept.len();
    calm.report("without a flood of handshakes");

    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["stranger".into()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let identity = (
        vec![certificate.der().clone()],
        rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
    );
    let tls = config_of(&server.root_file(), Some(identity), &["h2"]);
    let (stop, tried) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let attackers: Vec<_> = (0..2)
        .map(|_| {
            let (stop, tried) = (Arc::clone(&stop), Arc::clone(&tried));
            let (tls, address) = (tls.clone(), server.gateway());
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    let mut running = tokio::task::JoinSet::new();
                    while !stop.load(Ordering::Relaxed) {
                        while running.len() < 16 {
                            let tls = tls.clone();
                            running.spawn(async move {
                                use tokio::io::AsyncReadExt as _;
                                if let Ok(mut stream) = connect_as("localhost", address, tls).await
                                {
                                    // The refusal.
                                    assert!(stream.read(&mut [0; 16]).await.is_err());
                                }
                            });
                        }
                        running.join_next().await.unwrap().unwrap();
                        tried.fetch_add(1, Ordering::Relaxed);
                    }
                });
            })
        })
        .collect();
    let mut waits = Waits::default();
    let until = run(5);
    while Instant::now() < until {
        honest.once(&mut waits).await;
    }
    stop.store(true, Ordering::Relaxed);
    for attacker in attackers {
        attacker.join().unwrap();
    }
    let beside = waits.kept.len();
    let worst = waits.report("beside a flood of handshakes");
    let tried = tried.load(Ordering::Relaxed);
    figure(
        "handshakes with foreign certificates refused per second",
        tried / 5,
    );
    figure(
        "honest rounds per second, without and beside the flood (client, attackers and server on one machine)",
        format!("{} and {}", alone / 3, beside / 5),
    );
    assert!(tried > 200, "{tried} is no flood");
    assert!(worst < Duration::from_millis(250), "{worst:?}");
    // The established connection is served as if nothing were: none of its requests failed.
    assert!(beside > 50, "{beside}");
}
