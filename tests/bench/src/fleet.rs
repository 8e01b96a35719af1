//! A large registry, made by the authority itself: every certificate is signed and recorded, every revocation is journaled.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use ca::{Actor, Authority, Options};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use identity::DeviceId;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ED25519};
use serde_json::{Value, json};

use crate::cli::Fleet;

/// Issues to devices that are called `fleet-…`, and then revokes some of them, spread evenly over the registry.
pub(crate) fn run(options: Fleet) -> anyhow::Result<Value> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let authority = Arc::new(open(&options.data)?);
    let operator = Actor::Operator("bench".into());
    runtime.block_on(async {
        let started = Instant::now();
        stream::iter(0..options.devices)
            .map(|number| tokio::spawn(issue(Arc::clone(&authority), operator.clone(), number)))
            .buffer_unordered(AT_ONCE)
            .map(|joined| joined.map_err(anyhow::Error::from)?)
            .try_collect::<()>()
            .await?;
        let issued = started.elapsed();
        let started = Instant::now();
        let every = options.devices.checked_div(options.revoked).unwrap_or(1);
        stream::iter((0..options.devices).step_by(every.max(1)))
            .take(options.revoked)
            .map(|number| tokio::spawn(revoke(Arc::clone(&authority), operator.clone(), number)))
            .buffer_unordered(AT_ONCE)
            .map(|joined| joined.map_err(anyhow::Error::from)?)
            .try_collect::<()>()
            .await?;
        Ok(json!({
            "devices": options.devices,
            "revoked": options.revoked,
            "issuing_seconds": issued.as_secs_f64(),
            "revoking_seconds": started.elapsed().as_secs_f64(),
        }))
    })
}

fn open(data: &Path) -> anyhow::Result<Authority> {
    let options = Options {
        directory: data.join("ca"),
        trust_domain: None,
        passphrase: None,
        device_certificate_life: Duration::from_secs(90 * 24 * 60 * 60),
    };
    Ok(Authority::open(options)?)
}

async fn issue(authority: Arc<Authority>, operator: Actor, number: usize) -> anyhow::Result<()> {
    let id = device_id(number)?;
    // Ed25519, which is quicker to make; the status table sees no difference.
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let mut parameters = CertificateParams::default();
    parameters
        .distinguished_name
        .push(DnType::CommonName, id.as_str());
    let csr = parameters.serialize_request(&key)?;
    let issued = authority.sign(&operator, &id, csr.der()).await;
    issued.map(drop).map_err(|error| anyhow!("{id}: {error}"))
}

async fn revoke(authority: Arc<Authority>, operator: Actor, number: usize) -> anyhow::Result<()> {
    let id = device_id(number)?;
    let changed = authority.revoke(&operator, &id, Some("bench")).await;
    changed.map(drop).map_err(|error| anyhow!("{id}: {error}"))
}

fn device_id(number: usize) -> anyhow::Result<DeviceId> {
    let id = format!("fleet-{number:07}");
    DeviceId::parse(&id).map_err(|error| anyhow!("{id}: {error}"))
}

/// So that the registry's writer always has a whole group to commit.
const AT_ONCE: usize = 512;
