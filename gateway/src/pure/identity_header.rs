//! The forms in which a route's upstream may be told who calls.

/// A form in which an upstream is told who the device is; each stands for one header or a few.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IdentityHeader {
    /// `X-Device-Id`: the device id.
    DeviceId,
    /// `Client-Cert` (RFC 9440, section 2.2): the certificate.
    ClientCert,
    /// `Client-Cert`, and `Client-Cert-Chain` (RFC 9440, section 2.3): the CA certificates of the verified path.
    ClientCertChain,
    /// `X-Forwarded-Client-Cert`, as Envoy writes it.
    Xfcc,
    /// `X-SSL-Client-Verify`, `-S-DN`, `-I-DN`, `-Serial`, `-Fingerprint` and `-Cert`, from nginx's `$ssl_client_*`.
    Nginx,
    /// `X-Forwarded-Tls-Client-Cert` and `-Info`, as Traefik's PassTLSClientCert writes them.
    Traefik,
    /// `X-Amzn-Mtls-Clientcert-*`, as an AWS Application Load Balancer writes them when it verifies.
    AwsAlb,
    /// `Cf-Client-Cert-Der-Base64` and `Cf-Client-Cert-Sha256`, as Cloudflare writes them.
    Cloudflare,
    /// `X-Device-Assertion`: a short-lived JWT, signed by the gateway.
    Assertion,
}

impl IdentityHeader {
    /// Every form, in the order of their declaration.
    pub const ALL: [Self; 9] = [
        Self::DeviceId,
        Self::ClientCert,
        Self::ClientCertChain,
        Self::Xfcc,
        Self::Nginx,
        Self::Traefik,
        Self::AwsAlb,
        Self::Cloudflare,
        Self::Assertion,
    ];

    /// Its name in a configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeviceId => "device-id",
            Self::ClientCert => "client-cert",
            Self::ClientCertChain => "client-cert-chain",
            Self::Xfcc => "xfcc",
            Self::Nginx => "nginx",
            Self::Traefik => "traefik",
            Self::AwsAlb => "aws-alb",
            Self::Cloudflare => "cloudflare",
            Self::Assertion => "assertion",
        }
    }

    /// The form of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|form| form.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_listed_once_and_found_by_its_name() {
        for (position, form) in IdentityHeader::ALL.into_iter().enumerate() {
            assert_eq!(form as usize, position);
            assert_eq!(IdentityHeader::named(form.as_str()), Some(form));
        }
        assert_eq!(IdentityHeader::named("XFCC"), None);
    }
}
