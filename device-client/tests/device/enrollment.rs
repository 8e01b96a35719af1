//! From a code to a certificate, and what must not happen on the way.

use std::sync::Arc;

use device_client::{
    AcceptanceFault, AnswerFault, EnrollError, EstError, ExchangeError, Existing, KeyStore, Roots,
    RootsError, State, StoreError, TlsFault, Trust, enroll, status,
};
use identity::{DeviceId, EnrollmentCode, Fingerprint, Token};
use tokio::net::{TcpListener, TcpStream};

use crate::server::{Fault, Server, TOKEN, public_key, quickly};
use crate::test_authority::TestAuthority;

#[tokio::test]
async fn a_code_is_enough() {
    let server = Server::start().await;
    let code = EnrollmentCode {
        server: server.address(),
        device: DeviceId::parse("a").unwrap(),
        token: Token::new(TOKEN),
        root: Fingerprint::of(&server.authority.root),
    };
    let code: EnrollmentCode = code.expose().parse().unwrap();
    let enrollment = device_client::Enrollment::from_code(&code);
    let enrolled = enroll(&server.uri("store"), &enrollment, quickly())
        .await
        .unwrap();

    let csrs = server.csrs();
    assert_eq!(csrs.len(), 1);
    assert_eq!(csrs[0].public_key, public_key(&enrolled.credentials));
    assert_eq!((csrs[0].subject.as_str(), &csrs[0].uri), ("CN=a", &None));
    assert_eq!(
        enrolled.credentials.leaf.spiffe_id.to_string(),
        "spiffe://keybound.local/device/a"
    );
    // The token went with the enrollment itself and with nothing before it.
    let seen = server.state().seen.clone();
    let paths: Vec<_> = seen
        .iter()
        .map(|seen| {
            (
                seen.path.rsplit('/').next().unwrap(),
                seen.authorization.is_some(),
            )
        })
        .collect();
    assert_eq!(
        paths,
        [
            ("cacerts", false),
            ("cacerts", false),
            ("simpleenroll", true)
        ]
    );

    let store = KeyStore::open(&server.uri("store")).unwrap();
    let status = status(&store).unwrap();
    assert_eq!(status.state, State::Valid);
    assert_eq!(status.roots, [Fingerprint::of(&server.authority.root)]);
    assert_eq!(status.server, server.address());
    assert!(!status.pending);
}

#[tokio::test]
async fn roots_from_a_file_need_no_unverified_connection() {
    let server = Server::start().await;
    let mut enrollment = server.enrollment();
    let pem = server.authority.root_pem();
    enrollment.trust = Trust::Roots(Roots::from_pem(pem.as_bytes(), device_client::now()).unwrap());
    enrollment.server = format!("127.0.0.1:{}", server.port).parse().unwrap();
    enroll(&server.uri("store"), &enrollment, quickly())
        .await
        .unwrap();
    assert_eq!(server.state().seen.len(), 2);
}

#[tokio::test]
async fn a_server_with_another_root_gets_no_token_and_leaves_no_store() {
    let server = Server::start().await;
    let mut enrollment = server.enrollment();
    enrollment.trust = Trust::Fingerprint(Fingerprint::of(b"the operator's root"));
    let error = enroll(&server.uri("store"), &enrollment, quickly())
        .await
        .unwrap_err();
    let EnrollError::Root { fault, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(**fault, RootsError::NoneMatches);
    assert!(error.is_unreachable());
    assert!(error.to_string().contains("in between"), "{error}");
    assert!(!error.to_string().contains("abab"), "{error}");
    assert_eq!(server.state().seen.len(), 1);
    assert_eq!(server.authorizations(), [""; 0]);
    assert!(!server.path("store").exists());
}

/// Whoever is in between can show the right root, which is public, but not a server certificate under it.
#[tokio::test]
async fn a_server_that_shows_the_right_root_but_is_not_under_it_gets_no_token() {
    let genuine = Server::start().await;
    let imposter = Server::start().await;
    let mut enrollment = genuine.enrollment();
    enrollment.server = imposter.address();
    let pem = genuine.authority.root_pem();
    enrollment.trust = Trust::Roots(Roots::from_pem(pem.as_bytes(), device_client::now()).unwrap());
    let error = enroll(&genuine.uri("store"), &enrollment, quickly())
        .await
        .unwrap_err();
    let EnrollError::Est(EstError::Exchange(ExchangeError::Tls { fault, .. })) = &error else {
        panic!("{error:?}");
    };
    assert!(matches!(fault, TlsFault::ServerNotTrusted(_)), "{fault:?}");
    assert!(imposter.state().seen.is_empty());
    assert!(!genuine.path("store").exists());
}

#[tokio::test]
async fn a_server_under_the_root_with_another_name_gets_no_token() {
    let server = Server::start().await;
    let mut enrollment = server.enrollment();
    // The certificate names localhost and 127.0.0.1 only.
    enrollment.server = relay("127.0.0.2:0", vec![server.port])
        .await
        .parse()
        .unwrap();
    let error = enroll(&server.uri("store"), &enrollment, quickly())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("does not name this host"),
        "{error}"
    );
    assert_eq!(server.authorizations(), [""; 0]);
}

/// Verifying one connection says nothing about the next one.
#[tokio::test]
async fn somebody_who_steps_in_between_late_gets_no_token() {
    let genuine = Server::start().await;
    let imposter = Server::start().await;
    let mut enrollment = genuine.enrollment();
    let ports = vec![genuine.port, genuine.port, imposter.port];
    let port = relay("127.0.0.1:0", ports).await;
    enrollment.server = port.replace("127.0.0.1", "localhost").parse().unwrap();
    let error = enroll(&genuine.uri("store"), &enrollment, quickly())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("not issued under the roots"),
        "{error}"
    );
    assert_eq!(genuine.state().seen.len(), 2);
    assert!(imposter.state().seen.is_empty());
}

/// Listens on `address`; the first connection goes to the first port, and so on, all further ones to the last.
async fn relay(address: &str, ports: Vec<u16>) -> String {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut number = 0;
        while let Ok((mut near, _)) = listener.accept().await {
            let port = ports[number.min(ports.len() - 1)];
            number += 1;
            let mut far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_with_the_same_key() {
    let server = Server::start().await;
    server.state().lose_answers = 2;
    let enrolled = server.enrolled("store").await;
    let asked: Vec<_> = server
        .csrs()
        .into_iter()
        .map(|csr| csr.public_key)
        .collect();
    assert_eq!(asked, vec![public_key(&enrolled.credentials); 3]);
}

#[tokio::test]
async fn when_every_answer_is_lost_the_next_run_continues_with_the_same_key() {
    let server = Server::start().await;
    server.state().lose_answers = 4;
    let uri = server.uri("store");
    let error = enroll(&uri, &server.enrollment(), quickly())
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            EnrollError::Est(EstError::Exchange(ExchangeError::Lost { .. }))
        ),
        "{error:?}"
    );
    let store = KeyStore::open(&uri).unwrap();
    assert!(matches!(
        store.credentials(),
        Err(StoreError::NotEnrolled { .. })
    ));
    let seen = status(&store).unwrap();
    assert_eq!((seen.state, seen.pending), (State::NotEnrolled, true));

    let enrolled = server.enrolled("store").await;
    let asked: Vec<_> = server
        .csrs()
        .into_iter()
        .map(|csr| csr.public_key)
        .collect();
    assert_eq!(asked, vec![public_key(&enrolled.credentials); 5]);
    assert!(!status(&store).unwrap().pending);
}

#[tokio::test]
async fn a_certificate_that_was_not_asked_for_is_not_taken() {
    for fault in [
        Fault::OtherKey,
        Fault::OtherName,
        Fault::OtherAuthority,
        Fault::Expired,
    ] {
        let server = Server::start().await;
        server.state().fault = fault;
        let uri = server.uri("store");
        let error = enroll(&uri, &server.enrollment(), quickly())
            .await
            .unwrap_err();
        let EnrollError::NotAccepted { fault: found, .. } = error else {
            panic!("{error:?}");
        };
        let right = match found {
            AcceptanceFault::OtherKey => Fault::OtherKey,
            AcceptanceFault::OtherName { .. } => Fault::OtherName,
            AcceptanceFault::NotVouchedFor(_) => Fault::OtherAuthority,
            AcceptanceFault::Expired { .. } => Fault::Expired,
            AcceptanceFault::Unreadable(_) | AcceptanceFault::NotYetValid { .. } => Fault::None,
        };
        assert!(right == fault, "{found:?}");
        let store = KeyStore::open(&uri).unwrap();
        assert!(matches!(
            store.credentials(),
            Err(StoreError::NotEnrolled { .. })
        ));
        assert_eq!(server.csrs().len(), 1, "it is not asked for again");
    }
}

#[tokio::test]
async fn answers_that_are_not_est_are_refused() {
    let check = async |fault, expected: AnswerFault| {
        let server = Server::start().await;
        server.state().fault = fault;
        let result = enroll(&server.uri("store"), &server.enrollment(), quickly()).await;
        let Err(EnrollError::Est(EstError::Answer { fault: found, .. })) = result else {
            panic!("{result:?}");
        };
        assert_eq!(found, expected);
    };
    check(
        Fault::TwoCertificates,
        AnswerFault::Certificates { count: 2 },
    )
    .await;
    check(Fault::NotBase64, AnswerFault::NotBase64).await;
    check(Fault::Html, AnswerFault::MediaType).await;

    let server = Server::start().await;
    server.state().fault = Fault::Endless;
    let error = enroll(&server.uri("store"), &server.enrollment(), quickly())
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            EnrollError::Est(EstError::Exchange(ExchangeError::TooLong { .. }))
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn refusals_are_shown_and_only_a_busy_server_is_asked_again() {
    let server = Server::start().await;
    let attempt = async |fault| {
        let before = server.csrs().len();
        server.state().fault = fault;
        let error = enroll(&server.uri("store"), &server.enrollment(), quickly())
            .await
            .unwrap_err();
        (error, server.csrs().len() - before)
    };
    let (error, asked) = attempt(Fault::Refuse(401, "token-expired")).await;
    assert!(
        error
            .to_string()
            .contains("Refused (token-expired, HTTP 401). Ask the operator."),
        "{error}"
    );
    assert_eq!((asked, error.is_unreachable()), (1, false));
    let (error, asked) = attempt(Fault::Refuse(503, "unavailable")).await;
    assert!(error.to_string().contains("unavailable"), "{error}");
    assert_eq!(asked, 4);
    let (error, asked) = attempt(Fault::Later).await;
    assert!(
        matches!(error, EnrollError::Est(EstError::Later { .. })),
        "{error:?}"
    );
    assert_eq!(asked, 1);

    let (error, _) = attempt(Fault::Refuse(403, "key-blocked")).await;
    assert!(matches!(error, EnrollError::KeyGivenUp(_)), "{error:?}");
    server.state().fault = Fault::None;
    let enrolled = server.enrolled("store").await;
    let csrs = server.csrs();
    let (last, earlier) = csrs.split_last().unwrap();
    assert_eq!(last.public_key, public_key(&enrolled.credentials));
    assert!(
        earlier.iter().all(|csr| *csr == earlier[0]),
        "one key until it was blocked"
    );
    assert_ne!(last.public_key, earlier[0].public_key);
}

#[tokio::test]
async fn a_certificate_is_not_overwritten_by_accident() {
    let server = Server::start().await;
    let first = server.enrolled("store").await;
    let uri = server.uri("store");
    let seen = server.state().seen.len();
    let error = enroll(&uri, &server.enrollment(), quickly())
        .await
        .unwrap_err();
    assert!(
        matches!(error, EnrollError::AlreadyEnrolled { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("renew"), "{error}");
    assert_eq!(server.state().seen.len(), seen, "nothing was sent");

    let mut replacing = server.enrollment();
    replacing.existing = Existing::Replace;
    let second = enroll(&uri, &replacing, quickly()).await.unwrap();
    assert_ne!(
        public_key(&second.credentials),
        public_key(&first.credentials)
    );

    replacing.device = DeviceId::parse("b").unwrap();
    let error = enroll(&uri, &replacing, quickly()).await.unwrap_err();
    assert!(
        matches!(error, EnrollError::OtherDevice { .. }),
        "{error:?}"
    );

    let elsewhere = Server::start().await;
    let mut replacing = elsewhere.enrollment();
    replacing.existing = Existing::Replace;
    let error = enroll(&uri, &replacing, quickly()).await.unwrap_err();
    assert!(matches!(error, EnrollError::OtherRoots { .. }), "{error:?}");
    assert_eq!(elsewhere.authorizations(), [""; 0]);
    let kept = KeyStore::open(&uri).unwrap().credentials().unwrap();
    assert_eq!(kept.certificate, second.credentials.certificate);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_reported_at_once() {
    let authority = Arc::new(TestAuthority::new());
    let server = Server::start_for_strangers(authority).await;
    let mut enrollment = server.enrollment();
    let unused = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    enrollment.server = unused.to_string().parse().unwrap();
    let started = std::time::Instant::now();
    let result = enroll(
        &server.uri("store"),
        &enrollment,
        device_client::Retry::default(),
    )
    .await;
    let error = result.unwrap_err();
    assert!(
        matches!(
            error,
            EnrollError::Est(EstError::Exchange(ExchangeError::Unreachable { .. }))
        ),
        "{error:?}"
    );
    assert!(error.is_unreachable());
    assert!(started.elapsed().as_secs() < 5);
}
