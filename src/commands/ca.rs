//! `keybound ca`

use super::{Failure, output};
use crate::admin::api::{CertificateAuthorities, Crl};
use crate::admin::client::Client;
use crate::cli::CaCommand;

pub(super) async fn run(client: &Client, command: CaCommand) -> Result<(), Failure> {
    match command {
        CaCommand::Root { json } => {
            let authorities: CertificateAuthorities = client.get("/v1/ca").await?;
            if json {
                return output::json(&authorities);
            }
            output::hint(format!(
                "The root of {}, SHA-256 {}:",
                authorities.trust_domain, authorities.root.fingerprint
            ));
            output::print(authorities.root.pem.trim_end())
        }
        CaCommand::Crl { json } => {
            let crl: Crl = client.get("/v1/ca/crl").await?;
            if json {
                return output::json(&crl);
            }
            let entries = output::count(crl.entries as u64, "certificate", "certificates");
            output::hint(format!(
                "CRL {} with {entries}, to be renewed by {}:",
                crl.number, crl.next_update
            ));
            output::print(crl.pem.trim_end())
        }
    }
}
