//! The PROXY protocol, version 2 (HAProxy's `proxy-protocol.txt`): what a TCP upstream is told about a device,
//! and what a load balancer in front of the gateway tells about a client.

use std::net::{IpAddr, SocketAddr};

use proxy_header::{ParseConfig, Protocol, ProxiedAddress, ProxyHeader, SslInfo, Tlv};
use rustls_pki_types::CertificateDer;

/// What an upstream is told, before the first byte of the device.
#[derive(Debug)]
pub(crate) struct Announcement<'a> {
    /// The device's end of the connection.
    pub(crate) source: SocketAddr,
    /// The gateway's end.
    pub(crate) destination: SocketAddr,
    /// The application protocol that was agreed on.
    pub(crate) alpn: Option<&'a [u8]>,
    /// The server name that the device asked for.
    pub(crate) authority: &'a str,
    /// The id of the connection in the gateway's records.
    pub(crate) unique_id: &'a [u8],
    /// As OpenSSL writes it: `TLSv1.3`.
    pub(crate) tls_version: &'static str,
    /// As OpenSSL writes it: `TLS_AES_128_GCM_SHA256`.
    pub(crate) cipher: &'a str,
    /// Who the device is: written as the common name, which is where back ends look for it.
    pub(crate) device: &'a str,
    /// The certificate whose key the device proved to hold.
    pub(crate) certificate: &'a CertificateDer<'a>,
}

impl Announcement<'_> {
    /// The header, with the TLVs ALPN, authority, unique id and SSL; the last one with version, common name,
    /// cipher and certificate. `None` if it would be longer than a header can be.
    pub(crate) fn to_bytes(&self) -> Option<Vec<u8>> {
        let (source, destination) = same_family(self.source, self.destination);
        let mut header = ProxyHeader::with_address(ProxiedAddress::stream(source, destination));
        if let Some(alpn) = self.alpn {
            header.append_tlv(Tlv::Alpn(alpn.into()));
        }
        header.append_tlv(Tlv::Authority(self.authority.into()));
        header.append_tlv(Tlv::UniqueId(self.unique_id.into()));
        let mut tls = SslInfo::new(
            OVER_TLS,
            CERTIFICATE_ON_CONNECTION,
            CERTIFICATE_IN_SESSION,
            VERIFIED,
        );
        tls.append_tlv(Tlv::SslVersion(self.tls_version.into()));
        tls.append_tlv(Tlv::SslCn(self.device.into()));
        tls.append_tlv(Tlv::SslCipher(self.cipher.into()));
        tls.append_tlv(Tlv::Custom(
            PP2_SUBTYPE_SSL_CLIENT_CERT,
            self.certificate.as_ref().into(),
        ));
        header.append_tlv(Tlv::Ssl(tls));
        let mut bytes = Vec::with_capacity(MAX_LENGTH);
        header.encode_v2(&mut bytes).ok()?;
        Some(bytes)
    }
}

/// How many bytes follow these first [`PREFIX`] of a header.
pub(crate) fn length_after(prefix: &[u8; PREFIX]) -> Result<usize, ProxyFault> {
    if !prefix.starts_with(SIGNATURE) {
        return Err(ProxyFault::NotVersion2);
    }
    let length = usize::from(u16::from_be_bytes([prefix[PREFIX - 2], prefix[PREFIX - 1]]));
    if length > MAX_LENGTH - PREFIX {
        return Err(ProxyFault::TooLong);
    }
    Ok(length)
}

/// Reads a whole header: the client's address, or `None` if the sender speaks for itself (LOCAL), as health checks do.
pub(crate) fn client(header: &[u8]) -> Result<Option<SocketAddr>, ProxyFault> {
    let (parsed, length) = ProxyHeader::parse(
        header,
        ParseConfig {
            include_tlvs: true,
            allow_v1: false,
            allow_v2: true,
        },
    )
    .map_err(|_| ProxyFault::Malformed)?;
    if length != header.len() || parsed.tlvs().any(|tlv| tlv.is_err()) {
        return Err(ProxyFault::Malformed);
    }
    match parsed.proxied_address() {
        Some(address) if address.protocol == Protocol::Stream => Ok(Some(address.source)),
        Some(_) => Err(ProxyFault::NotTcp),
        None if header[SIGNATURE.len()] == LOCAL => Ok(None),
        None => Err(ProxyFault::NotTcp),
    }
}

/// Why what came first is no header of the PROXY protocol that says where a TCP connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProxyFault {
    /// It does not begin like one.
    #[error("it is no header of the PROXY protocol, version 2")]
    NotVersion2,
    /// More than any sender has to say.
    #[error("the header is longer than {MAX_LENGTH} bytes")]
    TooLong,
    /// Its parts do not fit together.
    #[error("the header is malformed")]
    Malformed,
    /// It is about something else than TCP over IP.
    #[error("the header is not about TCP over IP")]
    NotTcp,
}

/// Both as they are usually written, or both as IPv6 addresses: a header has one family.
fn same_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let canonical =
        |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (source, destination) = (canonical(source), canonical(destination));
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    (mapped(source), mapped(destination))
}

/// The part of a header that says how long the rest is.
pub(crate) const PREFIX: usize = 16;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const LOCAL: u8 = 0x20;
/// A certificate of 4 KiB, which is the longest that is accepted, and everything else.
const MAX_LENGTH: usize = 6 * 1024;
const OVER_TLS: bool = true;
const CERTIFICATE_ON_CONNECTION: bool = true;
const CERTIFICATE_IN_SESSION: bool = true;
/// `verify`: zero says that the certificate was verified.
const VERIFIED: u32 = 0;
const PP2_SUBTYPE_SSL_CLIENT_CERT: u8 = 0x28;

#[cfg(test)]
mod tests {
    use super::*;

    fn announced(source: &str, destination: &str) -> Vec<u8> {
        Announcement {
            source: source.parse().expect("an address"),
            destination: destination.parse().expect("an address"),
            alpn: Some(b"mqtt"),
            authority: "mqtt.test",
            unique_id: b"00ff",
            tls_version: "TLSv1.3",
            cipher: "TLS_AES_128_GCM_SHA256",
            device: "a",
            certificate: &CertificateDer::from(vec![1, 2, 3]),
        }
        .to_bytes()
        .expect("a header")
    }

    #[test]
    fn a_header_byte_by_byte() {
        let mut expected = SIGNATURE.to_vec();
        let tlv = |kind: u8, value: &[u8]| {
            let length = u16::try_from(value.len()).expect("short");
            [&[kind][..], &length.to_be_bytes(), value].concat()
        };
        let tls = [
            &[0x07, 0, 0, 0, 0][..],
            &tlv(0x21, b"TLSv1.3"),
            &tlv(0x22, b"a"),
            &tlv(0x23, b"TLS_AES_128_GCM_SHA256"),
            &tlv(0x28, &[1, 2, 3]),
        ]
        .concat();
        let body = [
            &[192, 0, 2, 1, 198, 51, 100, 2, 0x30, 0x39, 0x20, 0xfb][..],
            &tlv(0x01, b"mqtt"),
            &tlv(0x02, b"mqtt.test"),
            &tlv(0x05, b"00ff"),
            &tlv(0x20, &tls),
        ]
        .concat();
        expected.extend_from_slice(&[0x21, 0x11]);
        expected.extend_from_slice(&u16::try_from(body.len()).expect("short").to_be_bytes());
        expected.extend_from_slice(&body);
        assert_eq!(announced("192.0.2.1:12345", "198.51.100.2:8443"), expected);
        assert_eq!(
            announced("[::ffff:192.0.2.1]:12345", "198.51.100.2:8443"),
            expected
        );
        let mixed = announced("192.0.2.1:12345", "[2001:db8::1]:8443");
        assert_eq!(mixed[13], 0x21, "TCP over IPv6");
        let source = "[::ffff:192.0.2.1]:12345".parse().expect("an address");
        assert_eq!(client(&mixed), Ok(Some(source)));
    }

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("short");
        [
            &SIGNATURE[..],
            &[command, family],
            &length.to_be_bytes(),
            body,
        ]
        .concat()
    }

    #[test]
    fn headers_of_load_balancers() {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 2, 0x30, 0x39, 0x20, 0xfb];
        let source = Ok(Some("192.0.2.1:12345".parse().expect("an address")));
        assert_eq!(client(&header(0x21, 0x11, &v4)), source);
        let with_noop = [&v4[..], &[4, 0, 1, 0]].concat();
        assert_eq!(client(&header(0x21, 0x11, &with_noop)), source);
        assert_eq!(client(&header(LOCAL, 0, &[])), Ok(None));
        assert_eq!(client(&header(LOCAL, 0x11, &v4)), Ok(None));
        // UDP, Unix sockets, nothing in particular.
        assert_eq!(client(&header(0x21, 0x12, &v4)), Err(ProxyFault::NotTcp));
        assert_eq!(
            client(&header(0x21, 0x31, &[0; 216])),
            Err(ProxyFault::NotTcp)
        );
        assert_eq!(client(&header(0x21, 0x00, &[])), Err(ProxyFault::NotTcp));
        // Too short for its family, another version, another command, a TLV that is cut short, a byte too many.
        let malformed = Err(ProxyFault::Malformed);
        assert_eq!(client(&header(0x21, 0x11, &v4[..11])), malformed);
        assert_eq!(client(&header(0x11, 0x11, &v4)), malformed);
        assert_eq!(client(&header(0x22, 0x11, &v4)), malformed);
        let cut_short = [&v4[..], &[4, 0, 2, 0]].concat();
        assert_eq!(client(&header(0x21, 0x11, &cut_short)), malformed);
        let too_many = [&header(0x21, 0x11, &v4)[..], &[0]].concat();
        assert_eq!(client(&too_many), malformed);
        assert_eq!(
            client(b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\n"),
            malformed
        );
    }

    #[test]
    fn the_length_is_bounded() {
        let prefix = |length: u16| -> [u8; PREFIX] {
            let [high, low] = length.to_be_bytes();
            let prefix = [&SIGNATURE[..], &[0x21, 0x11, high, low]].concat();
            prefix.try_into().expect("16 bytes")
        };
        assert_eq!(length_after(&prefix(12)), Ok(12));
        assert_eq!(length_after(&prefix(6128)), Ok(6128));
        assert_eq!(length_after(&prefix(6129)), Err(ProxyFault::TooLong));
        assert_eq!(
            length_after(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abcde"),
            Err(ProxyFault::NotVersion2)
        );
    }
}
