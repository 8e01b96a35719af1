//! The checks of `[[gateway.trusted_gateway]]`, and of the routes on which these gateways speak for others.

use std::path::Path;
use std::sync::Arc;

use gateway::{ClientMode, IdentityHeader, KeySet, Route, TrustedGateway};
use identity::{DeviceId, Name, SpiffeId};

use super::check::Notes;
use super::file_policy::TrustedGatewayTable;
use super::{Located, Place};
use crate::files;

/// The gateways that routes may name. Of those with mistakes only the name is known, so that routes may name them.
#[derive(Default)]
pub(super) struct TrustedGateways(Vec<(String, Option<Arc<TrustedGateway>>)>);

impl TrustedGateways {
    /// Whether one has this name, in whichever letter case.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(one, _)| one.eq_ignore_ascii_case(name))
    }
}

impl Notes {
    pub(super) fn trusted_gateways(&mut self, tables: Vec<TrustedGatewayTable>) -> TrustedGateways {
        let mut gateways = TrustedGateways::default();
        for table in tables {
            let place = table.place;
            let name = self.required(table.name, place, "name");
            let device = self.required(table.device, place, "device");
            let issuer = self.required(table.issuer, place, "issuer");
            let audience = self.required(table.audience, place, "audience");
            let key_set = self.required(table.key_set, place, "key_set");
            let Some(name) = name else { continue };
            if gateways.0.iter().any(|(other, _)| *other == name.value) {
                self.note(
                    name.place,
                    "another [[gateway.trusted_gateway]] has the same name",
                );
                continue;
            }
            let parsed = (|| {
                let parse = |kind: &str, fault: &dyn std::fmt::Display, value: &str| {
                    format!("the trusted gateway's {kind} {value:?} is refused: {fault}")
                };
                let own = self.take(
                    name.place,
                    Name::parse(&name.value).map_err(|fault| parse("name", &fault, &name.value)),
                );
                let device = device.and_then(|Located { place, value }| {
                    let id = DeviceId::parse(&value);
                    self.take(place, id.map_err(|fault| parse("device", &fault, &value)))
                });
                let issuer = issuer.and_then(|Located { place, value }| {
                    let id = SpiffeId::parse(&value);
                    self.take(place, id.map_err(|fault| parse("issuer", &fault, &value)))
                });
                let keys = key_set.and_then(|file| self.key_set(&file));
                Some(TrustedGateway {
                    name: own?,
                    device: device?,
                    issuer: issuer?,
                    audience: audience?.value,
                    keys: keys?,
                })
            })();
            gateways.0.push((name.value, parsed.map(Arc::new)));
        }
        gateways
    }

    fn required(
        &mut self,
        written: Option<Located<String>>,
        table: Place,
        key: &str,
    ) -> Option<Located<String>> {
        if written.is_none() {
            self.note(table, format!("the trusted gateway has no {key}; write name, device (the id with which it is enrolled here), issuer, audience and key_set"));
        }
        written
    }

    fn key_set(&mut self, file: &Located<String>) -> Option<KeySet> {
        let read = files::read_at_most(Path::new(&file.value), LONGEST_KEY_SET)
            .map_err(|error| format!("{} cannot be read: {error}", file.value))
            .and_then(|json| {
                KeySet::parse(&json).map_err(|fault| {
                    format!(
                        "{} is refused: {fault}; fetch /.well-known/jwks.json from the gateway's health listener",
                        file.value
                    )
                })
            });
        self.take(file.place, read)
    }

    /// Judges who may speak for others on a route, which is judged but for this.
    pub(super) fn via(
        &mut self,
        written: Option<Vec<Located<String>>>,
        route: &mut Route,
        gateways: &TrustedGateways,
    ) {
        let Some(written) = written else { return };
        let Some(first) = written.first().map(|first| first.place) else {
            return;
        };
        match route.policy.client {
            ClientMode::Require | ClientMode::ReportOnly => {}
            ClientMode::Request | ClientMode::Anonymous => self.note(
                first,
                "via asks for a gateway's certificate, and client lets requests pass without one; write client = \"require\", or leave via out",
            ),
        }
        let tells_certificate = |form: &&IdentityHeader| {
            !matches!(form, IdentityHeader::DeviceId | IdentityHeader::Assertion)
        };
        if let Some(form) = route.identity.iter().find(tells_certificate) {
            self.note(
                first,
                format!(
                    "the certificates of devices behind a gateway stay there, so {:?} cannot be told; write identity = [\"device-id\"], \"assertion\" or both",
                    form.as_str()
                ),
            );
        }
        for Located { place, value } in written {
            let found = gateways.0.iter().find(|(name, _)| *name == value);
            let Some((_, gateway)) = found else {
                self.note(
                    place,
                    format!("no [[gateway.trusted_gateway]] has the name {value:?}"),
                );
                continue;
            };
            let Some(gateway) = gateway else { continue };
            if (route.policy.via.iter())
                .any(|other| other.device.folded() == gateway.device.folded())
            {
                self.note(
                    place,
                    format!("{value:?} is written twice, or another gateway is the same device"),
                );
            } else {
                route.policy.via.push(Arc::clone(gateway));
            }
        }
    }
}

const LONGEST_KEY_SET: usize = 64 * 1024;

#[cfg(test)]
#[path = "check_hop_tests.rs"]
mod tests;
