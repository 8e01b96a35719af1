//! Bytes that are no request, or one in another spelling.

use bytes::Bytes;
use ca::VerifiedCsr;

use crate::rig::{
    Csr, EXTENSION_REQUEST, Key, enroll_request, extension, fixture, names, oid, openssl,
    openssl_request, signed, tlv,
};

const MALFORMED: (u16, &str) = (400, "csr-malformed");

/// A tag and what is in it.
enum Node {
    Primitive(u8, Vec<u8>),
    Constructed(u8, Vec<Node>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Spelling {
    /// The length in one byte more than it needs.
    LongLength,
    /// A length that is only told by an end (X.690, section 8.1.3.6).
    Indefinite,
}

impl Node {
    fn parse(der: &mut &[u8]) -> Self {
        let (tag, first) = (der[0], usize::from(der[1]));
        let (start, length) = match first {
            0..=0x7f => (2, first),
            0x81 => (3, usize::from(der[2])),
            0x82 => (4, usize::from(der[2]) << 8 | usize::from(der[3])),
            _ => panic!("a longer length than any here"),
        };
        let mut content = &der[start..start + length];
        *der = &der[start + length..];
        if tag & 0x20 == 0 {
            return Self::Primitive(tag, content.to_vec());
        }
        let mut nodes = Vec::new();
        while !content.is_empty() {
            nodes.push(Self::parse(&mut content));
        }
        Self::Constructed(tag, nodes)
    }

    /// In DER, but for the node of this number, counted down from the root.
    fn encode(&self, number: &mut usize, spelling: Spelling) -> Vec<u8> {
        let here = *number == 0;
        *number = number.wrapping_sub(1);
        let (tag, content) = match self {
            Self::Primitive(tag, content) => (*tag, content.clone()),
            Self::Constructed(tag, nodes) => {
                let encoded = nodes.iter().flat_map(|node| node.encode(number, spelling));
                (*tag, encoded.collect())
            }
        };
        if !here {
            return tlv(tag, &content);
        }
        match spelling {
            Spelling::LongLength => {
                let length = content.len().to_be_bytes();
                let short = content.len() < 0x80;
                let digits = if short { &length[7..] } else { &length[5..] };
                [&[tag, 0x80 | digits.len() as u8], digits, &content].concat()
            }
            Spelling::Indefinite => [&[tag, 0x80], content.as_slice(), &[0, 0]].concat(),
        }
    }

    fn count(&self) -> usize {
        match self {
            Self::Primitive(..) => 1,
            Self::Constructed(_, nodes) => 1 + nodes.iter().map(Self::count).sum::<usize>(),
        }
    }
}

fn good(key: &Key) -> Vec<u8> {
    let uri = "spiffe://keybound.local/device/a".to_owned();
    Csr::new(key)
        .common_name("a")
        .extensions(&[names(&[uri])])
        .der()
}

#[tokio::test]
async fn every_part_of_a_request_and_every_excess_is_refused() {
    let fixture = fixture().await;
    let good = good(&Key::new());
    for length in 0..good.len() {
        let what = format!("{length} of {} bytes", good.len());
        fixture.refuses(&what, &good[..length], MALFORMED).await;
    }
    for excess in [&[0][..], &[0x30, 0], &good] {
        let bytes = [&good, excess].concat();
        fixture.refuses("an excess", &bytes, MALFORMED).await;
    }
    fixture
        .refuses("a wrapped one", &tlv(0x30, &good), MALFORMED)
        .await;
    let answer = fixture.answer(&good).await;
    assert_eq!(answer.decision.outcome, "issued", "the whole one");
}

#[tokio::test]
async fn every_length_has_one_spelling() {
    let fixture = fixture().await;
    let key = Key::new();
    let good = good(&key);
    let tree = Node::parse(&mut good.as_slice());
    let canonical = tree.encode(&mut usize::MAX.clone(), Spelling::LongLength);
    assert_eq!(canonical, good);
    assert!(tree.count() > 20);
    for spelling in [Spelling::LongLength, Spelling::Indefinite] {
        for number in 0..tree.count() {
            let bytes = tree.encode(&mut number.clone(), spelling);
            assert_ne!(bytes, good);
            let what = format!("{spelling:?} of node {number}");
            let before = fixture.head().await;
            let answer = fixture.answer(&bytes).await;
            assert_eq!(answer.response.status(), 400, "{what}");
            assert_eq!(fixture.head().await, before, "{what}");
        }
        // The same with a signature over the very bytes: nothing but their spelling is wrong.
        let Node::Constructed(_, parts) = &tree else {
            panic!("a request is a SEQUENCE");
        };
        for number in 0..parts[0].count() {
            let info = parts[0].encode(&mut number.clone(), spelling);
            let bytes = signed(&info, &key.sign(&info));
            let what = format!("{spelling:?} of node {number} of what is signed");
            fixture.refuses(&what, &bytes, MALFORMED).await;
        }
    }
    fixture.still_enrolls().await;
}

#[tokio::test]
async fn no_flipped_bit_is_overlooked() {
    let fixture = fixture().await;
    let good = good(&Key::new());
    for position in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[position] ^= 1 << bit;
            let before = fixture.head().await;
            let answer = fixture.answer(&bytes).await;
            let what = format!("bit {bit} of byte {position}: {:?}", answer.decision);
            assert_eq!(answer.response.status(), 400, "{what}");
            assert_eq!(fixture.head().await, before, "{what}");
        }
    }
    fixture.still_enrolls().await;
    println!(
        "figure: flipped bits of a P-256 request, all refused: {}",
        good.len() * 8
    );
    for (algorithm, option) in [("RSA", "rsa_keygen_bits:2048"), ("ED25519", "")] {
        let key = fixture.directory.path().join(algorithm);
        let mut arguments = vec!["genpkey", "-algorithm", algorithm, "-out"];
        arguments.push(key.to_str().unwrap());
        if !option.is_empty() {
            arguments.extend(["-pkeyopt", option]);
        }
        openssl(&arguments, b"");
        let good = openssl_request(&key, &[]);
        VerifiedCsr::from_der(&good).unwrap();
        for position in 0..good.len() {
            let mut bytes = good.clone();
            bytes[position] ^= 1 << (position % 8);
            let verified = VerifiedCsr::from_der(&bytes);
            verified.expect_err(&format!("{algorithm}, byte {position}"));
        }
    }
}

#[tokio::test]
async fn attributes_are_in_order_and_each_is_there_once() {
    let fixture = fixture().await;
    let key = Key::new();
    let text = |text: &str| vec![tlv(0x0c, text.as_bytes())];
    // unstructuredName and challengePassword's neighbour, localKeyID: 1.2.840.113549.1.9.2 and 9.21.
    let first: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x02];
    let second: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x15];
    let uri = || names(&["spiffe://keybound.local/device/a".to_owned()]);
    let requested = || tlv(0x30, &uri());
    let unknown = |value: u8| extension(&[0x2a, 3, 4], &[5, value]);
    let csr = || Csr::new(&key);
    for (what, csr) in [
        (
            "the same attribute twice",
            csr()
                .attribute(first, &text("a"))
                .attribute(first, &text("b")),
        ),
        (
            "attributes that are out of order",
            Csr {
                in_order: false,
                ..csr()
                    .attribute(first, &text("a"))
                    .attribute(second, &text("a"))
            },
        ),
        (
            "two lists of extensions",
            csr().extensions(&[uri()]).extensions(&[uri(), unknown(0)]),
        ),
        (
            "two lists in one attribute",
            csr().attribute(
                EXTENSION_REQUEST,
                &[requested(), tlv(0x30, &[uri(), unknown(0)].concat())],
            ),
        ),
        (
            "a subjectAltName twice",
            csr().extensions(&[uri(), names(&[])]),
        ),
        (
            "an unknown extension twice",
            csr().extensions(&[unknown(0), unknown(0)]),
        ),
        ("no extensions in the list", csr().extensions(&[])),
        (
            "no list in the attribute",
            csr().attribute(EXTENSION_REQUEST, &[]),
        ),
        (
            "a list that is none",
            csr().attribute(EXTENSION_REQUEST, &[tlv(0x04, b"x")]),
        ),
        (
            "a default that is written out",
            csr().extensions(&[tlv(
                0x30,
                &[oid(&[0x2a, 3, 4]), tlv(0x01, &[0]), tlv(0x04, &[5, 0])].concat(),
            )]),
        ),
        (
            "an extension without a value",
            csr().extensions(&[tlv(0x30, &oid(&[0x55, 0x1d, 0x11]))]),
        ),
    ] {
        fixture.refuses(what, &csr.der(), MALFORMED).await;
    }
    let honest = csr()
        .attribute(first, &text("a"))
        .attribute(second, &text("a"));
    let answer = fixture.answer(&honest.der()).await;
    assert_eq!(answer.decision.outcome, "issued", "in order and once each");
}

#[tokio::test]
async fn base64_of_der_and_nothing_else_is_a_body() {
    let fixture = fixture().await;
    let good = good(&Key::new());
    let whole = enroll_request("a", &fixture.token, &good);
    let base64 = whole.body().clone();
    let pem = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", good.clone()));
    let mut cut = base64[..base64.len() - 1].to_vec();
    for (what, body) in [
        ("nothing", Vec::new()),
        ("PEM", pem.into_bytes()),
        ("DER", good.clone()),
        ("base64 with an end missing", std::mem::take(&mut cut)),
        ("base64 twice", [&base64[..], &base64].concat()),
        ("base64 of base64", {
            use base64::Engine as _;
            let engine = base64::engine::general_purpose::STANDARD;
            engine.encode(&base64).into_bytes()
        }),
        ("a NUL before it", [&[0], &base64[..]].concat()),
    ] {
        let request = enroll_request("a", &fixture.token, &good).map(|_| Bytes::from(body));
        fixture
            .refuses_request(what, request, None, MALFORMED)
            .await;
    }
    for length in [16 * 1024 + 1, 1024 * 1024] {
        let bytes = vec![0x30; length];
        let expected = (413, "csr-too-large");
        let problem = fixture.refuses("too much", &bytes, expected).await;
        assert!(problem.detail.contains(&length.to_string()), "{problem:?}");
    }
    let answer = fixture.answer_to(whole, None).await;
    assert_eq!(answer.decision.outcome, "issued");
}

#[tokio::test]
async fn est_has_four_operations_each_with_its_method_and_media_type() {
    let fixture = fixture().await;
    let key = Key::new();
    let base = || enroll_request("a", &fixture.token, &Csr::new(&key).der());
    for path in [
        "/",
        "/.well-known/est",
        "/.well-known/est/",
        "/.well-known/est/fullcmc",
        "/.well-known/est/serverkeygen",
        "/.well-known/est/SimpleEnroll",
        "/.well-known/est/simpleenroll/",
        "/.well-known/est//simpleenroll",
        "/.well-known/est/./simpleenroll",
        "/.well-known/est/x/../simpleenroll",
        "/.well-known/est/label/simpleenroll",
        "/.well-known/est/simple%65nroll",
        "/.well-known/est/simpleenroll%00",
        "/.well-known/est/simpleenroll;x",
        "//.well-known/est/simpleenroll",
        "/.WELL-KNOWN/est/simpleenroll",
        "/metrics",
        "/healthz",
    ] {
        let mut request = base();
        *request.uri_mut() = path.parse().unwrap();
        fixture
            .refuses_request(path, request, None, (404, "unknown-operation"))
            .await;
    }
    for method in [
        "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "post",
    ] {
        let mut request = base();
        *request.method_mut() = method.parse().unwrap();
        fixture
            .refuses_request(method, request, None, (405, "method-not-allowed"))
            .await;
    }
    for operation in ["cacerts", "csrattrs"] {
        let mut request = base();
        *request.uri_mut() = format!("/.well-known/est/{operation}").parse().unwrap();
        fixture
            .refuses_request(operation, request, None, (405, "method-not-allowed"))
            .await;
    }
    for media_type in [
        "",
        "application/pkcs10x",
        "application/pkcs7-mime",
        "application/x-www-form-urlencoded",
        "text/plain; application/pkcs10",
        "application/pkcs10, text/plain",
    ] {
        let mut request = base();
        let value = media_type.parse().unwrap();
        request.headers_mut().insert("content-type", value);
        fixture
            .refuses_request(media_type, request, None, (415, "media-type"))
            .await;
    }
    let mut none = base();
    none.headers_mut().remove("content-type");
    fixture
        .refuses_request("no media type", none, None, (415, "media-type"))
        .await;
    let mut odd = base();
    let value = "Application/PKCS10 ; charset=x".parse().unwrap();
    odd.headers_mut().insert("content-type", value);
    let answer = fixture.answer_to(odd, None).await;
    assert_eq!(
        answer.decision.outcome, "issued",
        "case and parameters are nobody's harm"
    );
}
