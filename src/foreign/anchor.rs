//! What all anchors of a configuration come to, and what may not be put in force.

use std::sync::Arc;

use gateway::ForeignAnchors;
use identity::{CaCertificate, TrustDomain};

use crate::config::AnchorConfig;

/// What the gateway judges by, beside the CA of this trust domain. The error says what is wrong with which anchor.
pub(crate) fn gateway_anchors(
    anchors: &[AnchorConfig],
    own: &TrustDomain,
) -> Result<Arc<ForeignAnchors>, String> {
    let written: Vec<_> = anchors.iter().map(AnchorConfig::to_gateway).collect();
    ForeignAnchors::new(&written)
        .map(|anchors| Arc::new(anchors.beside(own.clone())))
        .map_err(|faults| {
            let faults = faults.iter().map(|(position, fault)| {
                let name = anchors.get(*position).map_or("", |one| one.name.as_str());
                format!("the anchor {name}: {fault}")
            });
            faults.collect::<Vec<_>>().join("; ")
        })
}

/// Fails if one of the anchors is a CA of ours: the registry alone says who its devices are.
pub(crate) fn refuse_own(anchors: &[AnchorConfig], own: &[CaCertificate]) -> Result<(), String> {
    for anchor in anchors {
        let mut authorities = anchor.authorities.iter();
        if authorities.any(|ca| own.iter().any(|own| own.is_same_authority(ca))) {
            return Err(format!(
                "the anchor {}: certificates has a CA of this server itself, whose devices are in its registry; take it out",
                anchor.name
            ));
        }
    }
    Ok(())
}
