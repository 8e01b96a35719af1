use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};

use super::*;
use crate::assertion::AssertionSigner;
use crate::pure::assertion::Holder;

const NOW: Timestamp = Timestamp(1_000_000);
const ISSUER: &str = "spiffe://edge.test/gateway/edge-1";
const AUDIENCE: &str = "https://api.test/";

struct Edge {
    key: EcdsaKeyPair,
    signer: AssertionSigner,
}

impl Edge {
    fn new() -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
        let pkcs8 = pkcs8.expect("a key");
        Self {
            key: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref())
                .expect("a key"),
            signer: AssertionSigner::from_pkcs8(pkcs8.as_ref(), ISSUER.into()).expect("a signer"),
        }
    }

    fn trusted(&self) -> TrustedGateway {
        TrustedGateway {
            name: Name::parse("edge").expect("legal"),
            device: DeviceId::parse("edge-1").expect("legal"),
            issuer: SpiffeId::parse(ISSUER).expect("legal"),
            audience: AUDIENCE.into(),
            keys: KeySet::parse(self.signer.key_set().as_bytes()).expect("keys"),
        }
    }

    fn key_id(&self) -> String {
        let set: Value = serde_json::from_str(&self.signer.key_set()).expect("JSON");
        set["keys"][0]["kid"].as_str().expect("an id").to_owned()
    }

    /// What no honest gateway would sign.
    fn sign(&self, header: &Value, claims: &Value) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(signature.expect("a signature"));
        format!("{signed}.{signature}")
    }
}

fn claims() -> Value {
    json!({
        "iss": ISSUER,
        "sub": "spiffe://edge.test/device/thermostat-7",
        "aud": AUDIENCE,
        "iat": NOW.0,
        "nbf": NOW.0,
        "exp": NOW.0 + 60,
        "jti": "x",
        "cnf": { "x5t#S256": URL_SAFE_NO_PAD.encode([7; 32]) },
        "device_id": "thermostat-7",
        "serial": "0a1b",
    })
}

#[test]
fn what_a_gateway_signs_is_read_by_the_next_and_the_one_after_it() {
    let edge = Edge::new();
    let holder = |subject, device, via, not_after| Holder {
        subject,
        device,
        serial: "0a1b",
        certificate: Fingerprint([7; 32]),
        not_after,
        via,
    };
    let subject = "spiffe://edge.test/device/thermostat-7";
    let first = holder(subject, "thermostat-7", &[], Timestamp(NOW.0 + 1_000));
    let (token, _) = edge.signer.sign(&first, AUDIENCE, NOW);
    let found = behind(token.as_bytes(), &edge.trusted(), NOW).expect("believed");
    let expected = Behind {
        id: "edge:thermostat-7".into(),
        subject: subject.into(),
        serial: "0a1b".into(),
        certificate: Fingerprint([7; 32]),
        via: vec![ISSUER.into()],
        until: Timestamp(NOW.0 + 59),
    };
    assert_eq!(found, expected);

    // The second one says what it was told, and by whom.
    let middle = Edge::new();
    let second = holder(&found.subject, &found.id, &found.via, found.until);
    let (token, life) = middle.signer.sign(&second, AUDIENCE, Timestamp(NOW.0 + 20));
    assert_eq!(life.until, Timestamp(NOW.0 + 60));
    let trusted = TrustedGateway {
        name: Name::parse("middle").expect("legal"),
        ..middle.trusted()
    };
    let found = behind(token.as_bytes(), &trusted, Timestamp(NOW.0 + 20)).expect("believed");
    assert_eq!(found.id, "middle:edge:thermostat-7");
    assert_eq!(found.via, [ISSUER, ISSUER]);
    // In its own words it would be somebody else.
    let alone = holder(&found.subject, &found.id, &[], found.until);
    let (token, _) = middle.signer.sign(&alone, AUDIENCE, NOW);
    assert_eq!(
        behind(token.as_bytes(), &trusted, NOW),
        Err(HopFault::Malformed)
    );
}

#[test]
fn nothing_else_is_believed() {
    use HopFault::{Malformed, OtherParties, Signature, Time, TooFar};
    let edge = Edge::new();
    let trusted = edge.trusted();
    let header = json!({ "alg": "ES256", "typ": "JWT", "kid": edge.key_id() });
    let check = |what: &str, header: &Value, claims: &Value, expected: HopFault| {
        let token = edge.sign(header, claims);
        let found = behind(token.as_bytes(), &trusted, NOW);
        assert_eq!(found, Err(expected), "{what}");
    };
    assert!(behind(edge.sign(&header, &claims()).as_bytes(), &trusted, NOW).is_ok());
    let set = |value: &Value, key: &str, to: Value| {
        let mut value = value.clone();
        value[key] = to;
        value
    };
    let without = |value: &Value, key: &str| {
        let mut value = value.clone();
        value.as_object_mut().expect("an object").remove(key);
        value
    };
    for (key, to, expected) in [
        ("alg", json!("none"), Malformed),
        ("alg", json!("HS256"), Malformed),
        ("alg", json!("es256"), Malformed),
        ("typ", json!("at+jwt"), Malformed),
        ("kid", json!("another"), Signature),
        ("crit", json!(["b64"]), Malformed),
        ("jwk", json!({}), Malformed),
        ("jku", json!("https://evil.test/"), Malformed),
    ] {
        check(key, &set(&header, key, to), &claims(), expected);
    }
    for key in ["alg", "typ", "kid"] {
        check(key, &without(&header, key), &claims(), Malformed);
    }
    let actor = |depth: usize| {
        (0..depth).fold(
            Value::Null,
            |before, _| json!({ "sub": ISSUER, "act": before }),
        )
    };
    for (key, to, expected) in [
        (
            "iss",
            json!("spiffe://edge.test/gateway/edge-2"),
            OtherParties,
        ),
        ("aud", json!("https://api.test/v1"), OtherParties),
        ("aud", json!([AUDIENCE]), Malformed),
        ("exp", json!(NOW.0), Time),
        ("exp", json!(NOW.0 + 301), Time),
        ("exp", json!(u64::MAX), Time),
        ("exp", json!(-1), Malformed),
        ("exp", json!(1e9), Malformed),
        ("nbf", json!(NOW.0 + 6), Time),
        ("iat", json!(NOW.0 + 6), Time),
        ("sub", json!("spiffe://edge.test/device/other"), Malformed),
        (
            "sub",
            json!("spiffe://edge.test/gateway/thermostat-7"),
            Malformed,
        ),
        ("sub", json!("thermostat-7"), Malformed),
        ("device_id", json!("other"), Malformed),
        ("device_id", json!("Thermostat-7"), Malformed),
        ("device_id", json!("edge:thermostat-7"), Malformed),
        ("device_id", json!("thermostat-7\r\nX-Admin: 1"), Malformed),
        ("device_id", json!(""), Malformed),
        ("serial", json!("0A"), Malformed),
        ("serial", json!("0".repeat(41)), Malformed),
        ("cnf", json!({}), Malformed),
        ("cnf", json!({ "x5t#S256": "AAAA" }), Malformed),
        ("act", json!({ "sub": "evil\r\n" }), Malformed),
        ("act", actor(1), Malformed),
        ("act", json!("edge"), Malformed),
    ] {
        check(key, &header, &set(&claims(), key, to), expected);
    }
    let far = set(&claims(), "device_id", json!("a:b:c:d:thermostat-7"));
    check("far", &header, &set(&far, "act", actor(4)), TooFar);
    for key in [
        "iss",
        "sub",
        "aud",
        "iat",
        "nbf",
        "exp",
        "cnf",
        "device_id",
        "serial",
    ] {
        check(key, &header, &without(&claims(), key), Malformed);
    }
}

#[test]
fn every_altered_byte_is_noticed() {
    let edge = Edge::new();
    let trusted = edge.trusted();
    let header = json!({ "alg": "ES256", "typ": "JWT", "kid": edge.key_id() });
    let token = edge.sign(&header, &claims()).into_bytes();
    for position in 0..token.len() {
        for bit in 0..8 {
            let mut altered = token.clone();
            altered[position] ^= 1 << bit;
            assert!(behind(&altered, &trusted, NOW).is_err(), "{position} {bit}");
        }
        assert!(behind(&token[..position], &trusted, NOW).is_err());
        assert!(behind(&token[position + 1..], &trusted, NOW).is_err());
    }
    let stranger = Edge::new().trusted();
    assert_eq!(behind(&token, &stranger, NOW), Err(HopFault::Signature));
    // A stranger's key under the id of ours.
    let mut usurper = stranger;
    usurper.keys.0[0].0 = edge.key_id();
    assert_eq!(behind(&token, &usurper, NOW), Err(HopFault::Signature));
    let long = [&token[..], &[b'A'; LONGEST]].concat();
    assert_eq!(behind(&long, &trusted, NOW), Err(HopFault::Malformed));
}

#[test]
fn sets_of_keys() {
    let edge = Edge::new();
    let set = edge.signer.key_set();
    let parse = |text: &str| KeySet::parse(text.as_bytes()).map(|set| set.0.len());
    assert_eq!(parse(&set), Ok(1));
    let key: Value = serde_json::from_str::<Value>(&set).expect("JSON")["keys"][0].clone();
    let with = |name: &str, value: Value| {
        let mut key = key.clone();
        key[name] = value;
        key
    };
    let of = |keys: &[Value]| parse(&json!({ "keys": keys }).to_string());
    let other = with("kid", json!("other"));
    assert_eq!(of(&[key.clone(), other]), Ok(2));
    assert_eq!(of(&[key.clone(), key.clone()]), Err(KeySetFault::SameId));
    assert_eq!(of(&[]), Err(KeySetFault::NoKey));
    for unusable in [
        with("kty", json!("RSA")),
        with("crv", json!("P-384")),
        with("x", json!("AAAA")),
        with("y", json!("!")),
        with("use", json!("enc")),
        with("kid", Value::Null),
    ] {
        assert_eq!(of(std::slice::from_ref(&unusable)), Err(KeySetFault::NoKey));
        assert_eq!(of(&[unusable, key.clone()]), Ok(1));
    }
    for text in ["", "[]", "{}", "{\"keys\":{}}", "null", "{\"keys\":[]"] {
        assert_eq!(parse(text), Err(KeySetFault::NotASet), "{text}");
    }
}
