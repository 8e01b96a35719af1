//! What is wrong with a list of another CA is an alarm as long as it is wrong: no reload ends it before, and nothing else is
//! needed to end it. Lists over https are had from whom the configuration's roots vouch for, and from nobody else.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::harness::anchor::{
    MISSING, SOON, again, anchor, configure, is_told, metrics, ok, put, readiness, refused,
    refused_start, serve, start, start_as_configured, whole,
};
use crate::harness::pki::Pki;
use crate::harness::upstream::Upstream;
use crate::harness::{Server, Setup, eventually, succeed};

fn is_well(server: &Server) -> bool {
    readiness(server)["degraded"] == false
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_that_fails_is_told_of_until_it_answers() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let factory = Pki::new(directory.path(), "Factory CA");
    let pump = factory.client("/CN=pump");
    let answer = Arc::new(Mutex::new(whole(&factory.list(&[]))));
    let port = serve(Arc::clone(&answer)).await;
    let url = format!("'http://localhost:{port}/factory.crl'\nrefresh = '8s'");
    let anchors = anchor("factory", &factory.path("ca.pem"), &url, "'cn'");
    let server = start(directory, &upstream, &anchors);
    *answer.lock().unwrap() = MISSING.to_vec();
    eventually(SOON, "a 404", || is_told(&server, "answers with 404"));
    // Nobody asks again for a reload.
    server.run(&["reload"]);
    assert!(is_told(&server, "answers with 404"), "{}", server.log());
    *answer.lock().unwrap() = whole(&factory.list(&[]));
    eventually(SOON, "the end of the alarm", || is_well(&server));
    // An anchor that is gone has no alarm.
    *answer.lock().unwrap() = MISSING.to_vec();
    eventually(SOON, "a 404", || is_told(&server, "answers with 404"));
    configure(&server.path(""), &upstream, "");
    server.run(&["reload"]);
    assert!(is_well(&server), "{}", server.log());
    assert_ne!(pump.asks(&server, "/"), ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_gone_for_a_moment_is_told_of_for_that_moment() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let factory = Pki::new(&path, "Factory CA");
    let (mounted, place) = (path.join("mounted"), path.join("place"));
    fs::create_dir(&mounted).unwrap();
    put(&mounted.join("factory.crl"), &factory.list(&[]));
    // What is unmounted and mounted again is the same file, changed at the same time.
    let mount = || symlink(&mounted, &place).unwrap();
    let unmount = || fs::remove_file(&place).unwrap();
    mount();
    let crl = format!("'{}'", place.join("factory.crl").display());
    let anchors = anchor("factory", &factory.path("ca.pem"), &crl, "'cn'");
    let server = start(directory, &upstream, &anchors);
    assert!(is_well(&server));
    for times in 1..=2 {
        unmount();
        eventually(SOON, "its absence", || is_told(&server, "cannot be read"));
        // However often it was looked at.
        std::thread::sleep(std::time::Duration::from_secs(3));
        let counted = format!("keybound_crl_failures_total{{anchor=\"factory\"}} {times}\n");
        assert!(metrics(&server).contains(&counted), "{}", metrics(&server));
        mount();
        eventually(SOON, "its return", || is_well(&server));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_lacks_a_list_or_cannot_be_read_without_a_panic_is_told_of() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let root = Pki::new(&path, "Root CA");
    let factory = root.below(&path, "Factory CA");
    let (pump, fan) = (factory.client("/CN=pump"), factory.client("/CN=fan"));
    let pem = |ca: &Pki| fs::read(ca.path("ca.pem")).unwrap();
    let certificates = path.join("both.pem");
    fs::write(&certificates, [pem(&root), pem(&factory)].concat()).unwrap();
    let crl = path.join("both.crl");
    let both = || [root.list(&[]), factory.list(&[])].concat();
    put(&crl, &both());
    let place = format!("'{}'", crl.display());
    let anchors = anchor("factory", &certificates, &place, "'cn'");
    configure(&path, &upstream, &anchors);
    let setup = Setup::default().environment("FAILPOINTS", "crl::read=return(hangs)");
    let server = start_as_configured(directory, setup);
    assert_eq!(pump.asks(&server, "/"), ok());

    factory.revoke(&pump.certificate);
    put(&crl, &root.list(&[]));
    eventually(SOON, "the list that is missing", || {
        is_told(&server, "is not there any more")
    });
    assert_eq!(pump.asks(&server, "/"), ok());
    put(&crl, &both());
    eventually(SOON, "both lists", || is_well(&server));
    assert_eq!(pump.asks(&server, "/"), refused(403, "revoked"));

    fs::write(path.join("both.panics"), "").unwrap();
    factory.revoke(&fan.certificate);
    put(&crl, &both());
    eventually(SOON, "the panic", || {
        is_told(&server, "reading it failed; the server's log says more")
    });
    assert_eq!(fan.asks(&server, "/"), ok());
    fs::remove_file(path.join("both.panics")).unwrap();
    eventually(SOON, "the end of the panics", || is_well(&server));
    assert_eq!(fan.asks(&server, "/"), refused(403, "revoked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_others_could_do_without_cannot_be_left_out() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let factory = Pki::new(&path, "Factory CA");
    let pump = factory.client("/CN=pump");
    let crl = path.join("both.crl");
    let devices = || factory.list(&["-crlexts", "about_devices"]);
    let both = || [devices(), factory.list(&["-crlexts", "about_cas"])].concat();
    put(&crl, &both());
    let place = format!("'{}'", crl.display());
    let anchors = anchor("factory", &factory.path("ca.pem"), &place, "'cn'");
    let server = start(directory, &upstream, &anchors);
    assert!(is_well(&server), "{}", readiness(&server));
    // This one alone is enough for an anchor that never had the other.
    put(&crl, &devices());
    eventually(SOON, "the list that is missing", || {
        is_told(&server, "is not there any more")
    });
    assert_eq!(pump.asks(&server, "/"), ok());
    put(&crl, &both());
    eventually(SOON, "both lists", || is_well(&server));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_ends_while_the_server_runs_is_told_of_before_and_after() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let factory = Pki::new(&path, "Factory CA");
    let date = |when: &str| {
        let mut date = Command::new("date");
        succeed(date.args(["-u", "-d", when, "+%Y%m%d%H%M%SZ"]))
    };
    let (begin, end) = (date("2 seconds ago"), date("28 seconds"));
    factory.certify_itself("Factory CA", begin.trim(), end.trim(), "ca.pem");
    let pump = factory.client("/CN=pump");
    let crl = path.join("factory.crl");
    put(&crl, &factory.list(&[]));
    let place = format!("'{}'", crl.display());
    let anchors = anchor("factory", &factory.path("ca.pem"), &place, "'cn'");
    let server = start(directory, &upstream, &anchors);
    assert!(is_well(&server), "{}", readiness(&server));
    assert_eq!(pump.asks(&server, "/"), ok());
    eventually(SOON * 2, "a third of its life is left", || {
        !is_well(&server)
    });
    assert_eq!(pump.asks(&server, "/"), ok());
    let soon = "A CA certificate of the anchor factory ends soon";
    assert!(is_told(&server, soon), "{}", readiness(&server));
    eventually(SOON * 2, "its end", || {
        pump.asks(&server, "/") == refused(503, "anchor-expired")
    });
    eventually(SOON, "the alarm", || {
        is_told(&server, "factory has ended on")
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_of_a_url_is_damaged_or_cannot_be_kept() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let factory = Pki::new(&path, "Factory CA");
    let pump = factory.client("/CN=pump");
    let answer = Arc::new(Mutex::new(whole(&factory.list(&[]))));
    let port = serve(Arc::clone(&answer)).await;
    let url = format!("'http://localhost:{port}/factory.crl'\nrefresh = '1s'");
    let anchors = anchor("factory", &factory.path("ca.pem"), &url, "'cn'");
    let server = start(directory, &upstream, &anchors);
    let folder = path.join("data/crl");
    let kept = || -> PathBuf {
        let files = fs::read_dir(&folder)
            .unwrap()
            .map(|one| one.unwrap().path());
        let mut lists = files.filter(|file| file.extension().is_some_and(|end| end == "crl"));
        lists.next().unwrap()
    };

    // There is no room for it any more, and then there is.
    fs::remove_dir_all(&folder).unwrap();
    fs::write(&folder, "").unwrap();
    *answer.lock().unwrap() = whole(&factory.list(&[]));
    eventually(SOON, "nowhere to keep it", || {
        is_told(&server, "cannot be kept for the next start")
            && is_told(&server, "in force cannot be written to")
    });
    assert_eq!(pump.asks(&server, "/"), ok());
    fs::remove_file(&folder).unwrap();
    eventually(SOON, "the end of the alarms", || is_well(&server));
    assert!(kept().is_file() && folder.join("in-force.json").is_file());

    let directory = server.stop();
    let damage = || fs::write(kept(), "nonsense").unwrap();
    damage();
    *answer.lock().unwrap() = MISSING.to_vec();
    let told = refused_start(&path);
    for words in [
        "answers with 404",
        "what was kept of it cannot be used: it is no list",
    ] {
        assert!(told.contains(words), "{words} in {told}");
    }
    *answer.lock().unwrap() = whole(&factory.list(&[]));
    let server = again(directory);
    // It was told of, and is over.
    assert!(
        server.log().contains("what was kept of a list"),
        "{}",
        server.log()
    );
    assert!(is_well(&server), "{}", server.log());
    let directory = server.stop();
    *answer.lock().unwrap() = MISSING.to_vec();
    let server = again(directory);
    // The first look at it is at the start.
    assert!(is_told(&server, "answers with 404"), "{}", server.log());
    assert_eq!(pump.asks(&server, "/"), ok());
}

/// A CA of web servers.
struct WebCa {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl WebCa {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Web CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        Self {
            pem: params.self_signed(&key).unwrap().pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A server that is called so, until the beginning of a year.
    fn server(&self, name: &str, until: i32) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            );
        Arc::new(config.unwrap())
    }
}

async fn serve_tls(config: Arc<Mutex<Arc<ServerConfig>>>, answer: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (config, answer) = (Arc::clone(&config.lock().unwrap()), answer.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = TlsAcceptor::from(config).accept(tcp).await else {
                    return;
                };
                let mut head = [0; 2048];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_over_https_comes_from_whom_its_roots_vouch_for() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let factory = Pki::new(&path, "Factory CA");
    let pump = factory.client("/CN=pump");
    let (web, other) = (WebCa::new(), WebCa::new());
    fs::write(path.join("web.pem"), &web.pem).unwrap();
    let right = web.server("localhost", 2090);
    let config = Arc::new(Mutex::new(other.server("localhost", 2090)));
    let port = serve_tls(Arc::clone(&config), whole(&factory.list(&[]))).await;
    let url = format!(
        "'https://localhost:{port}/factory.crl'\nrefresh = '1s'\ncrl_roots = '{}'",
        path.join("web.pem").display()
    );
    let anchors = anchor("factory", &factory.path("ca.pem"), &url, "'cn'");
    configure(&path, &upstream, &anchors);
    let expired = web.server("localhost", 2021);
    let wrong = [
        (
            other.server("localhost", 2090),
            "there is no TLS with its host",
        ),
        (expired, "Expired"),
        (
            web.server("elsewhere.test", 2090),
            "there is no TLS with its host",
        ),
    ];
    // Without a list nobody is served.
    for (server, words) in &wrong {
        *config.lock().unwrap() = Arc::clone(server);
        let told = refused_start(&path);
        assert!(told.contains("there is no TLS with its host"), "{told}");
        assert!(
            told.to_lowercase().contains(&words.to_lowercase()),
            "{words} in {told}"
        );
    }
    *config.lock().unwrap() = Arc::clone(&right);
    let server = again(directory);
    assert_eq!(pump.asks(&server, "/"), ok());
    assert!(is_well(&server));
    for (other, _) in &wrong {
        *config.lock().unwrap() = Arc::clone(other);
        eventually(SOON, "an alarm", || {
            is_told(&server, "there is no TLS with its host")
        });
        assert_eq!(pump.asks(&server, "/"), ok());
        *config.lock().unwrap() = Arc::clone(&right);
        eventually(SOON, "its end", || is_well(&server));
    }
}
