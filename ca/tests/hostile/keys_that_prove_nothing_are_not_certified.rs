//! Keys that somebody else may hold: weak ones, the CA's own, and bytes that are no key.

use std::path::Path;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

use crate::rig::{
    Csr, ECDSA_SHA256, Fixture, Key, P256, ec_spki, fixture, oid, openssl, openssl_request,
    request, spki, tlv,
};

const REFUSED: (u16, &str) = (400, "key-not-accepted");
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// A request by OpenSSL for a new key.
fn generated(fixture: &Fixture, algorithm: &str, options: &[&str], more: &[&str]) -> Vec<u8> {
    let key = fixture.path("generated.key");
    let mut arguments = vec!["genpkey", "-algorithm", algorithm, "-out", &key];
    for option in options {
        arguments.extend(["-pkeyopt", option]);
    }
    openssl(&arguments, b"");
    openssl_request(Path::new(&key), more)
}

#[tokio::test]
async fn kinds_and_sizes_that_are_not_accepted() {
    let fixture = fixture().await;
    for (algorithm, options, says) in [
        ("RSA", vec!["rsa_keygen_bits:1024"], "1024 bits"),
        ("RSA", vec!["rsa_keygen_bits:2047"], "2047 bits"),
        ("RSA", vec!["rsa_keygen_pubexp:3"], "exponent is not 65537"),
        (
            "RSA",
            vec!["rsa_keygen_pubexp:65539"],
            "exponent is not 65537",
        ),
        ("EC", vec!["ec_paramgen_curve:P-521"], "curve 1.3.132.0.35"),
        ("EC", vec!["ec_paramgen_curve:P-224"], "curve 1.3.132.0.33"),
        (
            "EC",
            vec!["ec_paramgen_curve:P-192"],
            "curve 1.2.840.10045.3.1.1",
        ),
        (
            "EC",
            vec!["ec_paramgen_curve:secp256k1"],
            "curve 1.3.132.0.10",
        ),
        (
            "EC",
            vec!["ec_paramgen_curve:brainpoolP256r1"],
            "curve 1.3.36",
        ),
        (
            "EC",
            vec!["ec_paramgen_curve:P-256", "ec_param_enc:explicit"],
            "malformed",
        ),
        ("ED448", vec![], "algorithm 1.3.101.113"),
        (
            "RSA-PSS",
            vec!["rsa_keygen_bits:2048"],
            "algorithm 1.2.840.113549.1.1.10",
        ),
    ] {
        let what = format!("{algorithm} {options:?}");
        let csr = generated(&fixture, algorithm, &options, &[]);
        let problem = fixture.refuses(&what, &csr, REFUSED).await;
        assert!(problem.detail.contains(says), "{what}: {problem:?}");
    }
    for (algorithm, option, digest) in [
        ("RSA", "rsa_keygen_bits:2048", "-sha1"),
        ("RSA", "rsa_keygen_bits:2048", "-sha224"),
        ("EC", "ec_paramgen_curve:P-256", "-sha1"),
        ("EC", "ec_paramgen_curve:P-384", "-sha512"),
    ] {
        let csr = generated(&fixture, algorithm, &[option], &[digest]);
        let problem = fixture.refuses(digest, &csr, REFUSED).await;
        assert!(problem.detail.contains("is signed with"), "{problem:?}");
    }
    let csr = generated(&fixture, "RSA", &["rsa_keygen_bits:2048"], &[]);
    assert_eq!(fixture.answer(&csr).await.decision.outcome, "issued");
}

#[tokio::test]
async fn rsa_keys_that_others_can_factor() {
    let fixture = fixture().await;
    for (file, says) in [
        ("rsa-2048-neighbouring-primes.csr", "so close"),
        ("rsa-2048-close-primes.csr", "so close"),
        ("rsa-2048-roca.csr", "CVE-2017-15361"),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/requests")
            .join(file);
        let pem = std::fs::read(path).unwrap();
        // They are requests with a proof of possession, as OpenSSL sees it.
        openssl(&["req", "-verify", "-noout"], &pem);
        let der = pem::parse(&pem).unwrap().into_contents();
        let problem = fixture.refuses(file, &der, REFUSED).await;
        assert!(problem.detail.contains(says), "{file}: {problem:?}");
    }
    // The longest key that is accepted is looked at within a bound, too.
    let csr = generated(&fixture, "RSA", &["rsa_keygen_bits:2048"], &[]);
    let started = std::time::Instant::now();
    for _ in 0..20 {
        ca::VerifiedCsr::from_der(&csr).unwrap();
    }
    println!(
        "figure: checking an RSA-2048 request, weak keys included: {:?}",
        started.elapsed() / 20
    );
    assert_eq!(fixture.answer(&csr).await.decision.outcome, "issued");
}

#[tokio::test]
async fn points_that_are_none() {
    let fixture = fixture().await;
    let key = Key::new();
    let mut off_the_curve = key.point();
    off_the_curve[64] ^= 1;
    let mut beyond_the_field = vec![0xff; 65];
    beyond_the_field[0] = 4;
    let hybrid = [&[6 | key.point()[64] & 1], &key.point()[1..]].concat();
    for (what, point, says) in [
        ("off the curve", off_the_curve, "malformed"),
        ("all zero", [vec![4], vec![0; 64]].concat(), "malformed"),
        ("beyond the field", beyond_the_field, "malformed"),
        ("at infinity", vec![0], "uncompressed"),
        ("nothing", vec![], "malformed"),
        ("too short", key.point()[..64].to_vec(), "malformed"),
        ("too long", [key.point(), vec![0]].concat(), "malformed"),
        ("compressed", key.compressed_point(), "uncompressed"),
        ("hybrid", hybrid, "uncompressed"),
    ] {
        let csr = Csr::new(&key).spki(ec_spki(P256, &point)).der();
        let problem = fixture.refuses(what, &csr, REFUSED).await;
        assert!(problem.detail.contains(says), "{what}: {problem:?}");
    }
    let ec = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    for (what, algorithm) in [
        ("no curve", oid(&ec)),
        ("NULL for a curve", [oid(&ec), tlv(5, &[])].concat()),
        ("another key's curve", [oid(ED25519), oid(P256)].concat()),
    ] {
        let csr = Csr::new(&key).spki(spki(&algorithm, &key.point())).der();
        fixture.refuses(what, &csr, REFUSED).await;
    }
    fixture.still_enrolls().await;
}

/// A made-up signature `(R, S) = (neutral element, 0)` verifies for a key of small order whenever the hash of
/// the message is a multiple of the order: nobody needs a private key for that, only a few tries.
#[tokio::test]
async fn ed25519_points_for_which_anybody_can_sign() {
    let fixture = fixture().await;
    let key = Key::new();
    let forged = |point: &[u8; 32], try_number: u8| {
        let info = Csr::new(&key)
            .spki(spki(&oid(ED25519), point))
            .attribute(&[0x2a, 3, 6], &[tlv(0x02, &[try_number])])
            .info();
        let mut signature = [0; 64];
        signature[0] = 1;
        request(&info, &tlv(0x30, &oid(ED25519)), &signature)
    };
    let hex = |text: &str| -> [u8; 32] {
        let byte = |index| u8::from_str_radix(&text[2 * index..2 * index + 2], 16).unwrap();
        std::array::from_fn(byte)
    };
    let eighth = hex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05");
    let other_eighth = hex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a");
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let mut minus_one = [0xff; 32];
    (minus_one[0], minus_one[31]) = (0xec, 0x7f);
    let mut prime = minus_one;
    prime[0] = 0xed;
    let mut prime_and_one = minus_one;
    prime_and_one[0] = 0xee;
    for point in [
        [0; 32],
        neutral,
        eighth,
        other_eighth,
        minus_one,
        prime,
        prime_and_one,
    ] {
        for sign in [0, 0x80] {
            let mut point = point;
            point[31] |= sign;
            for try_number in 0..64 {
                let csr = forged(&point, try_number);
                let what = format!("{point:02x?}, {try_number}");
                fixture.refuses(&what, &csr, REFUSED).await;
            }
        }
    }
    let honest = Ed25519KeyPair::generate().unwrap();
    let info = Csr::new(&key)
        .spki(spki(&oid(ED25519), honest.public_key().as_ref()))
        .info();
    let signature = honest.sign(&info);
    let csr = request(&info, &tlv(0x30, &oid(ED25519)), signature.as_ref());
    assert_eq!(fixture.answer(&csr).await.decision.outcome, "issued");
}

#[tokio::test]
async fn signatures_of_another_kind_than_the_key() {
    let fixture = fixture().await;
    let key = Key::new();
    let csr = Csr::new(&key);
    for (what, algorithm) in [
        ("Ed25519", oid(ED25519)),
        ("nothing known", oid(&[0x2a, 3, 4])),
        (
            "RSA with SHA-256",
            oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b]),
        ),
        (
            "ECDSA with SHA-1",
            oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01]),
        ),
    ] {
        let bytes = request(&csr.info(), &tlv(0x30, &algorithm), &[0; 64]);
        fixture.refuses(what, &bytes, REFUSED).await;
    }
    let with_parameters = tlv(0x30, &[oid(ECDSA_SHA256), tlv(5, &[])].concat());
    let signature = key.sign(&csr.info());
    let bytes = request(&csr.info(), &with_parameters, &signature);
    let problem = fixture.refuses("parameters", &bytes, REFUSED).await;
    assert!(problem.detail.contains("parameters"), "{problem:?}");
    let algorithm = tlv(0x30, &oid(ECDSA_SHA256));
    for signature in [
        &[][..],
        &[0; 64],
        &[0x30, 6, 2, 1, 0, 2, 1, 0],
        &[0x30, 6, 2, 1, 1, 2, 1, 1],
    ] {
        let bytes = request(&csr.info(), &algorithm, signature);
        let expected = (400, "proof-of-possession");
        fixture.refuses("made up", &bytes, expected).await;
    }
    fixture.still_enrolls().await;
}

#[tokio::test]
async fn the_authorities_own_keys_are_no_devices() {
    let fixture = fixture().await;
    for name in ["root", "device-ca", "infrastructure-ca"] {
        let key = fixture.path(&format!("ca/{name}.key"));
        let csr = openssl_request(Path::new(&key), &[]);
        let expected = (403, "key-reserved");
        fixture.refuses(name, &csr, expected).await;
        let signed = fixture.sign("a", &csr).await;
        assert_eq!(signed.unwrap_err().code(), "key-reserved");
    }
    fixture.still_enrolls().await;
}
