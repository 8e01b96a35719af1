//! Chains that are made to cost: refused before anything in them is read.

use gateway::Outcome;
use gateway::tls::HandshakeFault;
use rustls::AlertDescription;
use rustls_pki_types::CertificateDer;

use crate::authority::{Authority, SUBJECT_ALT_NAME, tlv};
use crate::client::{Verdict, config_of_chain, verdict};
use crate::rig::Rig;

#[tokio::test]
async fn what_no_device_has_is_refused_by_its_size() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let ours = rig.authority.certificate.clone();
    let subordinates: Vec<_> = (0..50)
        .map(|number| rig.authority.subordinate(&format!("Subordinate {number}")))
        .map(|ca| ca.certificate)
        .collect();
    // Each vouches for the next, and the last for the first.
    let (left, right) = (Authority::named("Left"), Authority::named("Right"));
    let cycle: Vec<_> = ["Left", "Right"]
        .iter()
        .cycle()
        .take(40)
        .map(|name| match *name {
            "Left" => right.subordinate("Left").certificate,
            _ => left.subordinate("Right").certificate,
        })
        .collect();
    let large = CertificateDer::from(vec![0x30; 13 * 1024]);
    let many_names = rig.authority.rebuilt("a", 1, |fields| {
        let names = tlv(0x86, b"a").repeat(20_000);
        fields.replace(SUBJECT_ALT_NAME, false, &tlv(0x30, &names));
    });
    let many_units = rig.authority.rebuilt("a", 1, |fields| {
        let unit = tlv(
            0x30,
            &[tlv(0x06, &[0x55, 4, 11]), tlv(0x0c, b"unit")].concat(),
        );
        fields.subject = tlv(0x30, &tlv(0x31, &unit).repeat(400));
    });
    let long_leaf = rig.authority.rebuilt("a", 1, |fields| {
        fields.extend(&[0x2a, 3], false, &[5; 4_000]);
    });
    let own = device.certificate.clone();
    let chain = |others: Vec<CertificateDer<'static>>| [vec![own.clone()], others].concat();
    for (what, chain) in [
        ("50 certificates", chain(subordinates)),
        ("a cycle", chain(cycle)),
        ("one of 13 KiB", chain(vec![large.clone()])),
        ("its own CA 60 times", chain(vec![ours.clone(); 60])),
        ("its own CA 4 times", chain(vec![ours.clone(); 4])),
        ("20,000 names", vec![many_names.certificate]),
        ("400 units", vec![many_units.certificate]),
        ("a long leaf", vec![long_leaf.certificate]),
    ] {
        let config = config_of_chain(&rig, Some((chain, device.key())), "http/1.1");
        let unknown = Verdict::Alert(AlertDescription::CertificateUnknown);
        assert_eq!(verdict(&rig, config).await, unknown, "{what}");
        let too_large = Outcome::HandshakeRefused(HandshakeFault::CertificatesTooLarge);
        assert_eq!(rig.next_outcome().await, too_large, "{what}");
    }
    // More than the library takes in at all.
    let config = config_of_chain(
        &rig,
        Some((chain(vec![large; 5]), device.key())),
        "http/1.1",
    );
    assert_eq!(verdict(&rig, config).await, Verdict::Closed);
    let protocol = Outcome::HandshakeRefused(HandshakeFault::Protocol);
    assert_eq!(rig.next_outcome().await, protocol);
    assert_eq!(rig.upstream.take(), "");
    // The issuing CA and two more are what a device may add.
    let root = Authority::named("Root");
    let others = vec![ours, root.certificate.clone(), root.certificate];
    let config = config_of_chain(&rig, Some((chain(others), device.key())), "http/1.1");
    assert_eq!(verdict(&rig, config).await, Verdict::Answer(200, None));
}
