"""Reads identity headers with parsers that are not Keybound's, and compares what they say with the certificate.

Standard input: a JSON list of {"name", "leaf", "issuers", "headers"}, certificates in base64. Every header must name
exactly that certificate. Prints how many headers were read.
"""

import base64
import datetime
import hashlib
import json
import re
import sys
import urllib.parse

import http_sfv
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import NameOID, ObjectIdentifier

SHORT_NAMES = {
    "SN": NameOID.SURNAME,
    "serialNumber": NameOID.SERIAL_NUMBER,
    "street": NameOID.STREET_ADDRESS,
    "title": NameOID.TITLE,
    "GN": NameOID.GIVEN_NAME,
    "emailAddress": NameOID.EMAIL_ADDRESS,
    "organizationIdentifier": NameOID.ORGANIZATION_IDENTIFIER,
}


def main() -> None:
    read = 0
    for case in json.load(sys.stdin):
        leaf = base64.b64decode(case["leaf"], validate=True)
        issuers = [base64.b64decode(one, validate=True) for one in case["issuers"]]
        certificate = x509.load_der_x509_certificate(leaf)
        for name, value in case["headers"].items():
            try:
                READERS[name](value, leaf, issuers, certificate)
            except Exception as error:
                raise SystemExit(f"{case['name']}: {name}: {value!r}: {error!r}")
            read += 1
    print(read)


def same(found, expected) -> None:
    assert found == expected, f"{found!r} is not {expected!r}"


def client_cert(value, leaf, _issuers, _certificate) -> None:
    item = http_sfv.Item()
    item.parse(value.encode())
    same(item.value, leaf)


def client_cert_chain(value, _leaf, issuers, _certificate) -> None:
    chain = http_sfv.List()
    chain.parse(value.encode())
    same([item.value for item in chain], issuers)


def pem_chain(value: str) -> list[bytes]:
    text = urllib.parse.unquote(value)
    certificates = x509.load_pem_x509_certificates(text.encode())
    return [one.public_bytes(encoding=Encoding.DER) for one in certificates]


def xfcc(value, leaf, issuers, certificate) -> None:
    # Two readings of backslashes, and one that knows none: they must agree but for the quotation marks.
    fields = quoted_fields(value, lambda escaped: '"' if escaped == '"' else "\\" + escaped)
    same(fields, quoted_fields(value, lambda escaped: escaped))
    same("\\" in value.replace('\\"', ""), False)
    keys = [key for key, _ in fields]
    same(keys[:4], ["Hash", "Cert", "Chain", "Subject"])
    single = dict(fields[:4])
    same(single["Hash"], hashlib.sha256(leaf).hexdigest())
    same(pem_chain(single["Cert"]), [leaf])
    same(pem_chain(single["Chain"]), [leaf, *issuers])
    check_name(single["Subject"], certificate.subject)
    names = alternative_names(certificate)
    same([v for k, v in fields[4:] if k == "URI"], names(x509.UniformResourceIdentifier))
    same([v for k, v in fields[4:] if k == "DNS"], names(x509.DNSName))
    same(set(keys[4:]) <= {"URI", "DNS"}, True)


def quoted_fields(value: str, unescape) -> list[tuple[str, str]]:
    fields, at = [], 0
    while True:
        key = re.compile(r'([A-Za-z]+)="').match(value, at)
        assert key, f"no key at {at}"
        at, text = key.end(), ""
        while value[at] != '"':
            if value[at] == "\\":
                at += 1
                text += unescape(value[at])
            else:
                text += value[at]
            at += 1
        fields.append((key[1], text))
        at += 1
        if at == len(value):
            return fields
        same(value[at], ";")
        at += 1


def alternative_names(certificate):
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return lambda kind: []
    return extension.value.get_values_for_type


def check_name(text: str, expected: x509.Name) -> None:
    """RFC 4514, the last RDN first; `#` and digits are the DER of a value."""
    found = []
    for rdn in split(text, ",") if text else []:
        attributes = []
        for attribute in split(rdn, "+"):
            key, written = attribute.split("=", 1)
            if re.fullmatch(r"[0-9.]+", key):
                oid = ObjectIdentifier(key)
                value = string_of(bytes.fromhex(written.removeprefix("#")))
            elif re.fullmatch(r"#([0-9A-F]{2})+", written):
                oid = oid_of(key)
                value = string_of(bytes.fromhex(written[1:]))
            else:
                parsed = x509.Name.from_rfc4514_string(attribute, SHORT_NAMES)
                [parsed] = list(parsed)
                oid, value = parsed.oid, parsed.value
            attributes.append((oid.dotted_string, value))
        found.append(attributes)
    wanted = [[(a.oid.dotted_string, a.value) for a in rdn] for rdn in expected.rdns]
    ordered = lambda rdns: [sorted(rdn) for rdn in rdns]
    same(ordered(reversed(found)), ordered(wanted))


def oid_of(key: str) -> ObjectIdentifier:
    [attribute] = list(x509.Name.from_rfc4514_string(f"{key}=AA", SHORT_NAMES))
    return attribute.oid


def split(text: str, separator: str) -> list[str]:
    parts, part, at = [], "", 0
    while at < len(text):
        if text[at] == "\\":
            part += text[at : at + 2]
            at += 2
        elif text[at] == separator:
            parts.append(part)
            part = ""
            at += 1
        else:
            part += text[at]
            at += 1
    return [*parts, part]


def string_of(der: bytes) -> str:
    """The text of a DER string of at most 127 octets."""
    same(der[1], len(der) - 2)
    encoding = {12: "utf-8", 19: "ascii", 20: "latin-1", 22: "ascii", 30: "utf-16-be", 28: "utf-32-be"}
    return der[2:].decode(encoding[der[0]])


def subject_dn(value, _leaf, _issuers, certificate) -> None:
    check_name(value, certificate.subject)


def issuer_dn(value, _leaf, _issuers, certificate) -> None:
    check_name(value, certificate.issuer)


def serial(value, _leaf, _issuers, certificate) -> None:
    assert re.fullmatch(r"([0-9A-F]{2})+", value), value
    same(int(value, 16), certificate.serial_number)


def escaped_pem(value, leaf, _issuers, _certificate) -> None:
    same(pem_chain(value), [leaf])


def validity(value, _leaf, _issuers, certificate) -> None:
    form = "%Y-%m-%dT%H:%M:%SZ"
    before, after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    same(value, f"NotBefore={before.strftime(form)};NotAfter={after.strftime(form)}")


def base64_der(value, leaf, _issuers, _certificate) -> None:
    same(base64.b64decode(value, validate=True), leaf)


def traefik_info(value, _leaf, _issuers, certificate) -> None:
    text = urllib.parse.unquote_plus(value)
    fields = dict(part.split("=", 1) for part in text.split(";"))
    fields = {key: quoted.removeprefix('"').removesuffix('"') for key, quoted in fields.items()}
    same('"' in "".join(fields.values()), False)
    for key, name in (("Subject", certificate.subject), ("Issuer", certificate.issuer)):
        found = [tuple(part.split("=", 1)) for part in fields.get(key, "").split(",") if part]
        wanted = []
        for short, oid in TRAEFIK_NAMES:
            if key == "Issuer" and short == "OU":
                continue
            wanted += [(short, a.value) for a in name.get_attributes_for_oid(oid)]
        same(found, wanted)
    same(int(fields["SerialNumber"]), certificate.serial_number)
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    for key, time in (("NB", certificate.not_valid_before_utc), ("NA", certificate.not_valid_after_utc)):
        same(int(fields[key]), int((time - epoch).total_seconds()))
    names = alternative_names(certificate)
    wanted = names(x509.DNSName) + names(x509.RFC822Name)
    wanted += [str(address) for address in names(x509.IPAddress)]
    wanted += names(x509.UniformResourceIdentifier)
    same([name for name in fields.get("SAN", "").split(",") if name], wanted)


TRAEFIK_NAMES = [
    ("DC", NameOID.DOMAIN_COMPONENT),
    ("C", NameOID.COUNTRY_NAME),
    ("ST", NameOID.STATE_OR_PROVINCE_NAME),
    ("L", NameOID.LOCALITY_NAME),
    ("O", NameOID.ORGANIZATION_NAME),
    ("OU", NameOID.ORGANIZATIONAL_UNIT_NAME),
    ("SN", NameOID.SERIAL_NUMBER),
    ("CN", NameOID.COMMON_NAME),
]

READERS = {
    "client-cert": client_cert,
    "client-cert-chain": client_cert_chain,
    "x-forwarded-client-cert": xfcc,
    "x-ssl-client-verify": lambda value, *_: same(value, "SUCCESS"),
    "x-ssl-client-s-dn": subject_dn,
    "x-ssl-client-i-dn": issuer_dn,
    "x-ssl-client-serial": serial,
    "x-ssl-client-fingerprint": lambda value, leaf, *_: same(value, hashlib.sha1(leaf).hexdigest()),
    "x-ssl-client-cert": escaped_pem,
    "x-forwarded-tls-client-cert": base64_der,
    "x-forwarded-tls-client-cert-info": traefik_info,
    "x-amzn-mtls-clientcert-serial-number": serial,
    "x-amzn-mtls-clientcert-issuer": issuer_dn,
    "x-amzn-mtls-clientcert-subject": subject_dn,
    "x-amzn-mtls-clientcert-validity": validity,
    "x-amzn-mtls-clientcert-leaf": escaped_pem,
    "cf-client-cert-der-base64": base64_der,
    "cf-client-cert-sha256": lambda value, leaf, *_: same(value, hashlib.sha256(leaf).hexdigest()),
}

main()
