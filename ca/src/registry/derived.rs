//! What the tables must say because of what stands elsewhere: in the certificates themselves, and in the journal.
//!
//! The journal tells statuses and standings word for word, and the rest follows from it: which keys are blocked, how
//! many tokens are void or spent, which indexes are used up. Of that nothing may be taken on trust either.

use identity::{Serial, TrustDomain};
use rusqlite::Connection;
use x509_parser::extensions::GeneralName;

use super::schema::RegistryFault;
use super::values;
use crate::pure::enroll::BY_TOKEN;

/// Fails with what contradicts something else.
pub(super) fn check(
    connection: &Connection,
    trust_domain: &TrustDomain,
) -> Result<(), RegistryFault> {
    for (what, violations) in RULES {
        let found: bool =
            connection.query_row(&format!("SELECT EXISTS ({violations})"), [], |row| {
                row.get(0)
            })?;
        if found {
            return Err(RegistryFault::Contradiction((*what).to_owned()));
        }
    }
    spent_tokens(connection)?;
    readable(
        connection,
        "SELECT number, id, standing, created_at, last_seen_at, last_seen_address FROM device",
        "device",
        |row| {
            values::device_id(row, 1)?;
            values::standing(row, 2)?;
            values::timestamp(row, 3)?;
            values::optional(row, 4, values::timestamp)?;
            row.get::<_, Option<String>>(5).map(drop)
        },
    )?;
    readable(
        connection,
        "SELECT device, hash, created_at, expires_at, voided, spent_key, spent_index FROM token",
        "a token of device",
        |row| {
            values::fingerprint(row, 1)?;
            values::timestamp(row, 2)?;
            values::timestamp(row, 3)?;
            row.get::<_, bool>(4)?;
            values::optional(row, 5, values::fingerprint)?;
            values::optional(row, 6, values::index).map(drop)
        },
    )?;
    certificates(connection, trust_domain)
}

/// What contradicts something, and a query that finds rows which do.
const RULES: &[(&str, &str)] = &[
    (
        "the entry by which a certificate was issued",
        "SELECT 1 FROM certificate c LEFT JOIN journal j ON j.seq = c.issued_seq
         WHERE j.idx IS NOT c.idx OR j.action IS NOT 'certificate-issued'",
    ),
    (
        "the device of an entry",
        "SELECT 1 FROM journal j LEFT JOIN device d ON d.number = j.device
             LEFT JOIN certificate c ON c.idx = j.idx
         WHERE (j.idx IS NOT NULL AND j.device IS NOT c.device)
            OR ((j.idx IS NULL OR j.device IS NOT NULL) AND d.folded IS NOT lower(j.subject))",
    ),
    (
        "a device's id",
        "SELECT 1 FROM device WHERE folded <> lower(id)",
    ),
    // Withdrawing a device blocks all its keys and revokes all its certificates; nothing else does either.
    (
        "a device's keys",
        "SELECT 1 FROM certificate c LEFT JOIN device_key k ON k.sha256 = c.key_sha256
         WHERE c.device IS NOT NULL AND (k.device IS NOT c.device OR k.blocked IS NOT (c.status = 7))",
    ),
    // It voids all tokens made before it, and no others.
    (
        "a device's tokens",
        "WITH withdrawn AS (
             SELECT device, max(seq) AS seq FROM journal
             WHERE action IN ('device-revoked', 'device-replaced') GROUP BY device),
         told AS (
             SELECT j.device, count(*) AS made, sum(j.seq < coalesce(w.seq, 0)) AS void
             FROM journal j LEFT JOIN withdrawn w ON w.device = j.device
             WHERE j.action = 'token-created' GROUP BY j.device),
         kept AS (
             SELECT device, count(*) AS made, sum(voided) AS void FROM token GROUP BY device)
         SELECT 1 FROM (
             SELECT device, made, void FROM told
             UNION ALL
             SELECT device, -made, -void FROM kept)
         GROUP BY device HAVING sum(made) <> 0 OR sum(void) <> 0",
    ),
    (
        "what a token was spent for",
        "SELECT 1 FROM token t LEFT JOIN certificate c ON c.idx = t.spent_index
         WHERE (t.spent_key IS NULL) <> (t.spent_index IS NULL)
            OR (t.spent_index IS NOT NULL
                AND (c.device IS NOT t.device OR c.key_sha256 IS NOT t.spent_key))",
    ),
    (
        "the indexes that are used up",
        "SELECT 1 FROM lease l JOIN certificate c ON c.idx >= l.next AND c.idx < l.end
         UNION ALL
         SELECT 1 FROM certificate WHERE idx >= (SELECT coalesce(max(end), 0) FROM lease)
         UNION ALL
         SELECT 1 FROM lease WHERE next > end OR next < 0",
    ),
];

/// As many tokens are spent as certificates were issued for one, device by device.
fn spent_tokens(connection: &Connection) -> Result<(), RegistryFault> {
    let differs: bool = connection.query_row(
        "SELECT EXISTS (
             SELECT 1 FROM (
                 SELECT device, 1 AS spent FROM journal
                 WHERE action = 'certificate-issued' AND reason = ?1
                 UNION ALL
                 SELECT device, -1 FROM token WHERE spent_index IS NOT NULL)
             GROUP BY device HAVING sum(spent) <> 0)",
        [BY_TOKEN],
        |row| row.get(0),
    )?;
    if differs {
        let what = "the tokens that were spent".to_owned();
        return Err(RegistryFault::Contradiction(what));
    }
    Ok(())
}

/// Every row as whoever needs it later will read it: what stands there may be no value at all, such as a negative
/// time, also where no other table tells what it should be. The first column is the number of the row's device.
fn readable(
    connection: &Connection,
    rows: &str,
    what: &str,
    read: impl Fn(&rusqlite::Row<'_>) -> Result<(), rusqlite::Error>,
) -> Result<(), RegistryFault> {
    let mut statement = connection.prepare(rows)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let number: i64 = row.get(0)?;
        read(row).map_err(|error| {
            RegistryFault::Damaged(format!("{what} {number} cannot be read: {error}"))
        })?;
    }
    Ok(())
}

/// Every certificate against its own row. That it is the one that was issued, the journal tells.
fn certificates(connection: &Connection, trust_domain: &TrustDomain) -> Result<(), RegistryFault> {
    let mut statement = connection.prepare(
        "SELECT c.idx, c.sha256, c.tbs_sha256, c.key_sha256, c.serial, c.not_before, c.not_after, d.id, v.der,
             c.changed_at
         FROM certificate c LEFT JOIN device d ON d.number = c.device
             LEFT JOIN certificate_der v ON v.idx = c.idx
         ORDER BY c.idx",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let index = values::index(row, 0)?;
        if !says_what_stands_beside_it(row, trust_domain).unwrap_or(false) {
            return Err(RegistryFault::Contradiction(format!("certificate {index}")));
        }
    }
    Ok(())
}

fn says_what_stands_beside_it(
    row: &rusqlite::Row<'_>,
    trust_domain: &TrustDomain,
) -> Result<bool, rusqlite::Error> {
    let der = row.get_ref(8)?.as_blob_or_null()?.unwrap_or_default();
    let Ok((_, x509)) = x509_parser::parse_x509_certificate(der) else {
        return Ok(false);
    };
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).ok();
    let validity = x509.validity();
    let uri = x509
        .subject_alternative_name()
        .ok()
        .flatten()
        .and_then(|names| {
            names.value.general_names.iter().find_map(|name| {
                if let GeneralName::URI(uri) = name {
                    Some(*uri)
                } else {
                    None
                }
            })
        });
    let named = match (values::optional(row, 7, values::device_id)?, uri) {
        (_, None) => false,
        (Some(device), Some(uri)) => uri == format!("spiffe://{trust_domain}/device/{device}"),
        (None, Some(uri)) => uri.starts_with(&format!("spiffe://{trust_domain}/gateway/")),
    };
    // Nothing else tells it, but it must be a time.
    values::timestamp(row, 9)?;
    let hash = identity::Fingerprint::of;
    Ok(named
        && hash(der) == values::fingerprint(row, 1)?
        && hash(x509.tbs_certificate.as_ref()) == values::fingerprint(row, 2)?
        && hash(x509.public_key().raw) == values::fingerprint(row, 3)?
        && Serial::from_der_content(x509.raw_serial()) == Some(values::serial(row, 4)?)
        && seconds(validity.not_before) == Some(values::timestamp(row, 5)?.0)
        && seconds(validity.not_after) == Some(values::timestamp(row, 6)?.0))
}
