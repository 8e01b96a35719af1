//! Why the gateway decided as it did, told to operators. What the device is told is the gateway's own.

use gateway::{Code, Outcome};

/// The gateway's outcomes as an operator reads them: what it means, and what to do.
pub(crate) fn reason(outcome: Outcome) -> &'static str {
    let code = match outcome {
        Outcome::Forwarded => return "The device is in good standing; the upstream answered.",
        Outcome::ForwardedAnonymously => {
            return "The route lets requests pass without a certificate; the upstream answered, and was told no identity.";
        }
        Outcome::Abandoned => return "The connection ended before the request was answered.",
        Outcome::HandshakeRefused(fault) => return fault.detail(),
        Outcome::Refused(code) => code,
    };
    match code {
        Code::IdentityInvalid => {
            "The certificate is ours but does not name exactly one device for client authentication, or has a name that the form of identity of the route cannot hold. Find out how it was made."
        }
        Code::NotYetValid => {
            "The certificate is not valid yet. Compare the clocks of the CA and the gateway."
        }
        Code::Expired => {
            "The certificate has expired; the device did not renew in time. Give it a new enrollment code: keybound token new."
        }
        Code::Unregistered => {
            "The certificate bears our CA's signature, but the registry does not have it. Either the registry was restored from an old backup, or somebody else uses the CA's key."
        }
        Code::Retired => {
            "The device has used a newer certificate, so this one is refused. If the device itself still uses it, it went back to an old copy of its key."
        }
        Code::Suspended => "The device is suspended; `keybound device restore` lets it go on.",
        Code::Quarantined => {
            "The device was set aside because of suspicious use. Look into it, then restore or revoke it."
        }
        Code::Restricted => "The device is restricted, and the route admits no restricted devices.",
        Code::Revoked => {
            "The device or its certificate is revoked; `keybound device replace` frees the id for a new device. Of a device of another CA, that CA's list says so."
        }
        Code::RegistryStale => {
            "The gateway had not heard from the registry for longer than max_staleness. Look at /readyz and the server's log."
        }
        Code::HostMismatch => {
            "The Host of the request is not the server name of its connection. A client that shares connections between hosts must connect anew."
        }
        Code::NoRoute => {
            "No route has this host and path. Look at the routes in the configuration."
        }
        Code::CertificateRequired => {
            "The connection has no certificate, and the route is for devices. Other routes of this name let requests pass without one."
        }
        Code::CertificateUntrusted => {
            "No CA that the gateway believes issued the certificate. Enroll the device here, or add its CA as an anchor."
        }
        Code::GroupNotAllowed => {
            "The device is in none of the groups that the route admits; `keybound device label ID --group NAME` puts it in one. Devices of other CAs are in none."
        }
        Code::WebsocketNotAllowed => {
            "The request asked for a WebSocket, and the route has websocket = false. Whoever sent it may send requests there."
        }
        Code::AnchorRemoved => {
            "The anchor that vouched for the device has been taken out of the configuration, or its id_from or table names the device otherwise now. Its connection was ended."
        }
        Code::AnchorExpired => {
            "The certificate of the CA that issued the device's is not valid now. Put the CA's new certificate into the anchor's file and reload."
        }
        Code::CrlMissing => {
            "The certificate was issued by a CA that the device sent along, and no list of revoked certificates speaks for it. Put that CA's certificate and its list into the anchor."
        }
        Code::CrlStale => {
            "The list of revoked certificates that speaks for the device's CA is past its nextUpdate, so nobody knows what was withdrawn since. Get a new list to where the anchor's crl points; look at /readyz and the log."
        }
        Code::AssertionInvalid => {
            "The gateway in front did not say, or not credibly, for which device it asked. Compare issuer, audience and key_set of [[gateway.trusted_gateway]] with what it has, and the clocks."
        }
        Code::PathRefused => {
            "The path has a form that the upstream could read as another path. Correct the client."
        }
        Code::MethodRefused => "CONNECT and TRACE are not forwarded.",
        Code::HostRefused => {
            "The request names no host, several, or one that is none. Correct the client."
        }
        Code::HeaderRefused => {
            "Connection or Trailer lists something that is no header name. Correct the client."
        }
        Code::IdentityHeaderSpelling => {
            "The request carries a header that some upstreams would read as one of the identity headers, which only the gateway sets. Somebody may try to forge an identity."
        }
        Code::MalformedRequest => {
            "What was sent breaks the rules of HTTP framing. Correct the client; if it is not yours, somebody may try to smuggle a request."
        }
        Code::HeadTooLarge => {
            "The request's head is larger than the gateway or the route (max_head) accepts."
        }
        Code::BodyTooLarge => "The request's body is larger than the route (max_body) accepts.",
        Code::RateLimited => {
            "The device sent requests more often than rate and burst allow. Find out what it does, or raise them."
        }
        Code::AnswerNotRead => {
            "The device did not read its answer within the time allowed, and lost it. If many do, somebody may try to hold connections."
        }
        Code::TooManyFrames => {
            "The device sent many HTTP/2 frames that bring no request forward, and its connection was ended. Correct the client; if it is not yours, it is a flood."
        }
        Code::TooManyRequests => {
            "The device had too many requests under way at a time. Find out what it does with them."
        }
        Code::Overloaded => {
            "The gateway had as many requests under way as its limit on open files allows. Raise that limit, or look for slow upstreams."
        }
        Code::RequestTimeout => "The request did not arrive completely in the time allowed.",
        Code::UpstreamUnreachable => {
            "The device was let through, but no upstream of the route accepted a connection or kept it. Check that the upstream runs."
        }
        Code::UpstreamUntrusted => {
            "The device was let through, but the upstream's certificate is expired, names another server, or is not vouched for by the upstream's roots. Nothing was sent. Look at both."
        }
        Code::UpstreamTimeout => {
            "The device was let through, but the upstream did not answer in time. Look at its load."
        }
        Code::UpstreamInvalid => {
            "The device was let through, but the upstream's answer was not well-formed HTTP. Correct the upstream."
        }
        Code::InternalError => {
            "The gateway failed on this request. Report it with the request's id."
        }
    }
}
