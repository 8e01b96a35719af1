//! Lists of other CAs come from places that hang, never end, or are written just now; none of these holds up another, and
//! none takes more than one thread, one connection, or the memory of the largest list.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::harness::anchor::{
    SOON, anchor, configure, is_told, ok, put, readiness, refused, start, start_as_configured,
    whole,
};
use crate::harness::pki::Pki;
use crate::harness::upstream::Upstream;
use crate::harness::{Server, Setup, eventually, figure, text};

/// A list `x.crl` hangs while there is a file `x.hangs` beside it, after it was read and before it is used.
fn hanging() -> Setup {
    Setup::default().environment("FAILPOINTS", "crl::read=return(hangs)")
}

/// A number of /proc/PID/status.
fn status(server: &Server, field: &str) -> usize {
    let path = format!("/proc/{}/status", server.process());
    let status = fs::read_to_string(path).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn place(path: &Path) -> String {
    format!("'{}'", path.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_hangs_holds_one_thread_and_no_other_list() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let (factory, depot) = (Pki::new(&path, "Factory CA"), Pki::new(&path, "Depot CA"));
    let (pump, lift) = (factory.client("/CN=pump"), depot.client("/CN=lift"));
    let (slow, quick) = (path.join("factory.crl"), path.join("depot.crl"));
    put(&slow, &factory.list(&[]));
    put(&quick, &depot.list(&[]));
    let anchors = anchor("factory", &factory.path("ca.pem"), &place(&slow), "'cn'")
        + &anchor("depot", &depot.path("ca.pem"), &place(&quick), "'cn'");
    configure(&path, &upstream, &anchors);
    let server = start_as_configured(directory, hanging());
    assert_eq!(pump.asks(&server, "/"), ok());
    assert_eq!(lift.asks(&server, "/"), ok());

    let hangs = path.join("factory.hangs");
    fs::write(&hangs, "").unwrap();
    factory.revoke(&pump.certificate);
    put(&slow, &factory.list(&[]));
    let began = Instant::now();
    std::thread::sleep(Duration::from_secs(3));
    let threads = status(&server, "Threads:");
    depot.revoke(&lift.certificate);
    let list = depot.list(&[]);
    let put_at = Instant::now();
    put(&quick, &list);
    eventually(Duration::from_secs(5), "the other list", || {
        lift.asks(&server, "/") == refused(403, "revoked")
    });
    figure(
        "a list of another CA is in force, beside one that hangs, after",
        format!("{:.1} s", put_at.elapsed().as_secs_f64()),
    );
    // Whoever reloads has to wait, and is told; that takes four more, however often it is done.
    for number in 1..=8 {
        let output = server.keybound(&["reload"]);
        assert_eq!(output.status.code(), Some(1));
        let told = text(&output.stderr);
        let words = if number <= 4 {
            "could not be read within 10 s"
        } else {
            "4 earlier reloads are still reading it"
        };
        assert!(told.contains(words), "{number}: {told}");
    }
    let more = status(&server, "Threads:").saturating_sub(threads);
    assert!(more <= 5, "{more} threads more after {:?}", began.elapsed());
    eventually(SOON, "an alarm", || is_told(&server, "has not ended"));
    assert_eq!(pump.asks(&server, "/"), ok());

    fs::remove_file(&hangs).unwrap();
    eventually(SOON, "the list that hung", || {
        pump.asks(&server, "/") == refused(403, "revoked")
    });
    server.run(&["reload"]);
    assert_eq!(readiness(&server)["degraded"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_being_written_is_read_when_it_is_whole() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let factory = Pki::new(&path, "Factory CA");
    let (pump, fan) = (factory.client("/CN=pump"), factory.client("/CN=fan"));
    let crl = path.join("factory.crl");
    let anchors = anchor("factory", &factory.path("ca.pem"), &place(&crl), "'cn'");
    configure(&path, &upstream, &anchors);
    // In its place, as `cp` does it, and slowly.
    let write_slowly = |list: Vec<u8>| {
        fs::write(&crl, &list[..list.len() / 2]).unwrap();
        let (crl, hangs) = (crl.clone(), path.join("factory.hangs"));
        fs::write(&hangs, "").unwrap();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(3));
            fs::write(crl, list).unwrap();
            fs::remove_file(hangs).unwrap();
        })
    };
    factory.revoke(&pump.certificate);
    let writing = write_slowly(factory.list(&[]));
    let server = start_as_configured(directory, hanging());
    writing.join().unwrap();
    assert_eq!(pump.asks(&server, "/"), refused(403, "revoked"));
    assert_eq!(fan.asks(&server, "/"), ok());
    factory.revoke(&fan.certificate);
    let writing = write_slowly(factory.list(&[]));
    server.run(&["reload"]);
    writing.join().unwrap();
    assert_eq!(fan.asks(&server, "/"), refused(403, "revoked"));
    assert_eq!(readiness(&server)["degraded"], false);
    assert!(
        !server.log().contains("was not replaced"),
        "{}",
        server.log()
    );
}

/// What a server behind a URL does with everybody who asks.
#[derive(Clone)]
enum Answer {
    Whole(Vec<u8>),
    /// Until there is another answer.
    Nothing,
    /// This head, and then as much as is taken.
    Endless(&'static str),
}

/// How many are being answered at once, at the most.
struct Asked {
    port: u16,
    most: Arc<AtomicUsize>,
}

async fn serve(answers: watch::Receiver<Answer>) -> Asked {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (most, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let asked = Asked {
        port,
        most: Arc::clone(&most),
    };
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mut answers, most, open) = (answers.clone(), Arc::clone(&most), Arc::clone(&open));
            tokio::spawn(async move {
                most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let mut head = [0; 2048];
                let _ = stream.read(&mut head).await;
                let mut answer = answers.borrow_and_update().clone();
                if matches!(answer, Answer::Nothing) && answers.changed().await.is_ok() {
                    answer = answers.borrow().clone();
                }
                match answer {
                    Answer::Whole(answer) => {
                        let _ = stream.write_all(&answer).await;
                    }
                    Answer::Nothing => {}
                    Answer::Endless(head) => {
                        let chunk = [&b"100000\r\n"[..], &vec![b'x'; 1 << 20], b"\r\n"].concat();
                        let mut sent = stream.write_all(head.as_bytes()).await;
                        let mut chunks = 0;
                        while sent.is_ok() && chunks < 1024 {
                            sent = stream.write_all(&chunk).await;
                            chunks += 1;
                        }
                    }
                }
                open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_that_hangs_is_asked_once_and_holds_up_no_other() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let (factory, depot) = (Pki::new(&path, "Factory CA"), Pki::new(&path, "Depot CA"));
    let (pump, lift) = (factory.client("/CN=pump"), depot.client("/CN=lift"));
    let url = |asked: &Asked, name: &str| {
        format!("'http://localhost:{}/{name}'\nrefresh = '1s'", asked.port)
    };
    let (hanging, answers) = watch::channel(Answer::Whole(whole(&factory.list(&[]))));
    let factory_url = serve(answers).await;
    let (quick, answers) = watch::channel(Answer::Whole(whole(&depot.list(&[]))));
    let depot_url = serve(answers).await;
    let anchors = anchor(
        "factory",
        &factory.path("ca.pem"),
        &url(&factory_url, "a"),
        "'cn'",
    ) + &anchor(
        "depot",
        &depot.path("ca.pem"),
        &url(&depot_url, "b"),
        "'cn'",
    );
    let server = start(directory, &upstream, &anchors);
    assert_eq!(pump.asks(&server, "/"), ok());
    hanging.send_replace(Answer::Nothing);
    // Due six times.
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(factory_url.most.load(Ordering::SeqCst), 1);
    depot.revoke(&lift.certificate);
    quick.send_replace(Answer::Whole(whole(&depot.list(&[]))));
    eventually(Duration::from_secs(5), "the other URL", || {
        lift.asks(&server, "/") == refused(403, "revoked")
    });
    factory.revoke(&pump.certificate);
    hanging.send_replace(Answer::Whole(whole(&factory.list(&[]))));
    eventually(SOON, "the URL that hung", || {
        pump.asks(&server, "/") == refused(403, "revoked")
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_long_is_refused_at_the_limit() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let factory = Pki::new(directory.path(), "Factory CA");
    let pump = factory.client("/CN=pump");
    let good = Answer::Whole(whole(&factory.list(&[])));
    let (answer, answers) = watch::channel(good.clone());
    let asked = serve(answers).await;
    let url = format!("'http://localhost:{}/a'\nrefresh = '1s'", asked.port);
    let anchors = anchor("factory", &factory.path("ca.pem"), &url, "'cn'");
    let server = start(directory, &upstream, &anchors);
    let words = "the answer has more than 256 MiB";
    let peak = || status(&server, "VmHWM:") / 1024;
    let before = peak();
    answer.send_replace(Answer::Endless(
        "HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n",
    ));
    eventually(SOON, "a gigabyte", || is_told(&server, words));
    let announced = peak() - before;
    answer.send_replace(good.clone());
    eventually(SOON, "the end of the alarm", || {
        readiness(&server)["degraded"] == false
    });
    answer.send_replace(Answer::Endless(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    ));
    eventually(SOON * 3, "a gigabyte in chunks", || is_told(&server, words));
    answer.send_replace(good);
    let in_chunks = peak() - before;
    eventually(SOON * 3, "the end of the alarm", || {
        readiness(&server)["degraded"] == false
    });
    figure(
        "a list of 1 GB behind a URL, announced and in chunks: memory at its peak grows by",
        format!("{announced} and {in_chunks} MiB"),
    );
    // What is announced is not even begun, and of what is not no more is held than of the largest list.
    assert!(announced < 32, "{announced} MiB");
    assert!(in_chunks < 320, "{in_chunks} MiB");
    // The allocator gives memory back when it is next asked for some.
    eventually(SOON * 2, "the memory again", || {
        assert_eq!(pump.asks(&server, "/"), ok());
        status(&server, "VmRSS:") / 1024 < before + 64
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_comes_while_a_reload_waits_stays_in_force() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let (factory, depot) = (Pki::new(&path, "Factory CA"), Pki::new(&path, "Depot CA"));
    let (pump, lift) = (factory.client("/CN=pump"), depot.client("/CN=lift"));
    let crl = path.join("factory.crl");
    put(&crl, &factory.list(&[]));
    let from = |crl: &Path| anchor("factory", &factory.path("ca.pem"), &place(crl), "'cn'");
    let (answer, answers) = watch::channel(Answer::Nothing);
    let asked = serve(answers).await;
    let url = format!("'http://localhost:{}/b'", asked.port);
    let with_url = anchor("depot", &depot.path("ca.pem"), &url, "'cn'");
    let server = start(directory, &upstream, &from(&crl));
    configure(&path, &upstream, &(from(&crl) + &with_url));
    std::thread::scope(|scope| {
        let reloading = scope.spawn(|| server.keybound(&["reload"]));
        eventually(SOON, "somebody who asks", || {
            asked.most.load(Ordering::SeqCst) == 1
        });
        factory.revoke(&pump.certificate);
        put(&crl, &factory.list(&[]));
        eventually(SOON, "its revocation", || {
            pump.asks(&server, "/") == refused(403, "revoked")
        });
        answer.send_replace(Answer::Whole(whole(&depot.list(&[]))));
        let output = reloading.join().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    });
    assert_eq!(pump.asks(&server, "/"), refused(403, "revoked"));
    assert_eq!(lift.asks(&server, "/"), ok());
    assert_eq!(readiness(&server)["degraded"], false);
    eventually(SOON, "what is kept of the URL", || kept_in(&path) == 1);
}

/// How many URLs something was kept of.
fn kept_in(path: &Path) -> usize {
    let files = fs::read_dir(path.join("data/crl")).unwrap();
    let names = files.map(|file| file.unwrap().file_name());
    names
        .filter(|name| {
            name.to_string_lossy().ends_with(".crl") && !name.to_string_lossy().starts_with('.')
        })
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_of_what_a_refused_reload_asked_for() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let (factory, depot) = (Pki::new(&path, "Factory CA"), Pki::new(&path, "Depot CA"));
    let (crl, old) = (path.join("factory.crl"), path.join("old.crl"));
    put(&old, &factory.list(&[]));
    put(&crl, &factory.list(&[]));
    let from = |crl: &Path| anchor("factory", &factory.path("ca.pem"), &place(crl), "'cn'");
    let (_answer, answers) = watch::channel(Answer::Whole(whole(&depot.list(&[]))));
    let asked = serve(answers).await;
    let url = format!("'http://localhost:{}/b'", asked.port);
    let with_url = anchor("depot", &depot.path("ca.pem"), &url, "'cn'");
    let server = start(directory, &upstream, &from(&crl));
    configure(&path, &upstream, &(from(&old) + &with_url));
    let told = text(&server.keybound(&["reload"]).stderr);
    assert!(told.contains("older than the one in force"), "{told}");
    // The next look would have kept it.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(kept_in(&path), 0);
    configure(&path, &upstream, &(from(&crl) + &with_url));
    server.run(&["reload"]);
    // As much as the end leaves.
    let _directory = server.stop();
    assert_eq!(kept_in(&path), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_keeps_no_url_from_being_asked() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let depot = Pki::new(&path, "Depot CA");
    let (lift, ramp) = (depot.client("/CN=lift"), depot.client("/CN=ramp"));
    let (answer, answers) = watch::channel(Answer::Whole(whole(&depot.list(&[]))));
    let asked = serve(answers).await;
    let url = format!("'http://localhost:{}/b'\nrefresh = '1s'", asked.port);
    let anchors = anchor("depot", &depot.path("ca.pem"), &url, "'cn'");
    configure(&path, &upstream, &anchors);
    let setup = Setup::default().environment("FAILPOINTS", "files::put=return(hangs)");
    let server = start_as_configured(directory, setup);
    let mut files = fs::read_dir(path.join("data/crl"))
        .unwrap()
        .map(|file| file.unwrap().path());
    let kept = files.find(|file| file.extension().is_some_and(|end| end == "crl"));
    let hangs = kept.unwrap().with_extension("hangs");
    fs::write(&hangs, "").unwrap();
    for device in [&lift, &ramp] {
        depot.revoke(&device.certificate);
        answer.send_replace(Answer::Whole(whole(&depot.list(&[]))));
        eventually(SOON, "a revocation in spite of the disk", || {
            device.asks(&server, "/") == refused(403, "revoked")
        });
    }
    eventually(SOON * 3, "an alarm", || {
        is_told(&server, "writing it has taken 30 s and has not ended")
    });
    fs::remove_file(&hangs).unwrap();
    eventually(SOON, "the end of the alarm", || {
        readiness(&server)["degraded"] == false
    });
    // The last answer is what is kept.
    let directory = server.stop();
    answer.send_replace(Answer::Whole(
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec(),
    ));
    let server = start_as_configured(directory, Setup::default());
    assert_eq!(ramp.asks(&server, "/"), refused(403, "revoked"));
}
