//! What a certificate says about itself: for explanations, and to tell keys and issuers apart.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use rustls::pki_types::UnixTime;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{
    ExtendedKeyUsage, FromDer, GeneralName, ParsedExtension, X509Certificate,
};
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Name};

/// The facts of one certificate.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// Subject, in the order of the certificate.
    pub subject: String,
    /// Issuer.
    pub issuer: String,
    /// Serial number in hexadecimal.
    pub serial: String,
    /// Start of its validity.
    pub not_before: Moment,
    /// End of its validity.
    pub not_after: Moment,
    /// DNS names and IP addresses of its subjectAltName.
    pub names: Vec<String>,
    /// SHA-256 of its DER, in hexadecimal.
    pub sha256: String,
    /// Kind and size of its key: `RSA 2048`, `ECDSA P-256`, `Ed25519`.
    pub key: String,
    /// Whether it may vouch for others (RFC 5280, 4.2.1.3 and 4.2.1.9).
    pub is_ca: bool,
    /// Whether it says that it was issued by itself.
    pub self_signed: bool,
    /// Extended key usages; `None` allows all of them (RFC 5280, 4.2.1.12).
    pub usages: Option<Vec<String>>,
    /// DER of its public key (SubjectPublicKeyInfo).
    pub public_key: Vec<u8>,
    subject_der: Vec<u8>,
    issuer_der: Vec<u8>,
    key_id: Option<Vec<u8>>,
    authority_key_id: Option<Vec<u8>>,
}

/// A moment in time of X.509.
#[derive(Debug, Clone, Copy)]
pub struct Moment(ASN1Time);

impl Certificate {
    /// Reads a certificate, of any version of X.509. `None` if it is not one.
    pub fn parse(der: &[u8]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let (subject, issuer) = (parsed.subject(), parsed.issuer());
        let mut certificate = Self {
            subject: printable(&subject.to_string()),
            issuer: printable(&issuer.to_string()),
            serial: serial(parsed.raw_serial()),
            not_before: Moment(parsed.validity().not_before),
            not_after: Moment(parsed.validity().not_after),
            names: Vec::new(),
            sha256: HEXLOWER.encode(&Sha256::digest(der)),
            key: kind_of(parsed.public_key()),
            // Before version 3 there was no way to say so: roots of those days are trusted as such.
            is_ca: parsed.version().0 < 2 && subject == issuer,
            self_signed: subject == issuer,
            usages: None,
            public_key: parsed.public_key().raw.to_vec(),
            subject_der: subject.as_raw().to_vec(),
            issuer_der: issuer.as_raw().to_vec(),
            key_id: None,
            authority_key_id: None,
        };
        let mut signs_certificates = true;
        for extension in parsed.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(constraints) => {
                    certificate.is_ca = constraints.ca;
                }
                ParsedExtension::KeyUsage(usage) => signs_certificates = usage.key_cert_sign(),
                ParsedExtension::ExtendedKeyUsage(usage) => {
                    certificate.usages = Some(usage_names(usage));
                }
                ParsedExtension::SubjectAlternativeName(names) => {
                    certificate.names = names.general_names.iter().filter_map(name).collect();
                }
                ParsedExtension::SubjectKeyIdentifier(id) => {
                    certificate.key_id = Some(id.0.to_vec());
                }
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    certificate.authority_key_id =
                        id.key_identifier.as_ref().map(|id| id.0.to_vec());
                }
                _ => {}
            }
        }
        certificate.is_ca &= signs_certificates;
        Some(certificate)
    }

    /// Whether it was valid at no moment up to now, but will be.
    pub fn is_not_yet_valid(&self) -> bool {
        self.not_before.is_to_come()
    }

    /// Whether it has expired by now.
    pub fn has_expired(&self) -> bool {
        !self.not_after.is_to_come()
    }

    /// Whether its issuer has the key of `issuer`, as far as identifiers tell.
    pub fn names_key_of(&self, issuer: &Self) -> bool {
        self.authority_key_id.is_some() && self.authority_key_id == issuer.key_id
    }

    /// Whether its issuer has the name of `issuer`. Names may be encoded in two ways (RFC 5280, 7.1).
    pub fn names_issuer(&self, issuer: &Self) -> bool {
        self.issuer_der == issuer.subject_der || self.issuer == issuer.subject
    }

    /// Whether its issuer has this name.
    pub fn issuer_is(&self, name: &DistinguishedName) -> bool {
        self.issuer_der == name.der || self.issuer == name.text
    }

    /// Whether its key is too small for rustls.
    pub fn has_small_key(&self) -> bool {
        let bits = self.key.strip_prefix("RSA ");
        bits.and_then(|bits| bits.parse::<u32>().ok())
            .is_some_and(|bits| bits < 2048)
    }

    /// Whether a client may show it (RFC 5280, 4.2.1.12).
    pub fn allows_client_auth(&self) -> bool {
        let allows = |usage: &String| usage == "clientAuth" || usage == "anyExtendedKeyUsage";
        let usages = self.usages.as_ref();
        usages.is_none_or(|usages| usages.iter().any(allows))
    }
}

/// The name of a CA, as a server announces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DistinguishedName {
    /// For people.
    pub text: String,
    der: Vec<u8>,
}

impl DistinguishedName {
    /// Reads a name. One that cannot be read is shown as such.
    pub fn parse(der: &[u8]) -> Self {
        let text = X509Name::from_der(der).map_or_else(
            |_| "(a name that cannot be read)".to_owned(),
            |(_, name)| printable(&name.to_string()),
        );
        let der = der.to_vec();
        Self { text, der }
    }
}

impl Moment {
    /// For rustls. What is before 1970 is as long ago as it gets.
    pub fn unix(self) -> UnixTime {
        let seconds = u64::try_from(self.0.timestamp()).unwrap_or(0);
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    fn is_to_come(self) -> bool {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i128::from(self.0.timestamp()) > i128::from(now.as_secs())
    }
}

impl std::fmt::Display for Moment {
    /// `2049-12-31T00:00:00Z` (RFC 3339).
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let time = self.0.to_datetime();
        let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
        let (hour, minute, second) = (time.hour(), time.minute(), time.second());
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
        )
    }
}

/// A name comes from whoever made the certificate, and goes into logs and terminals.
pub fn printable(name: &str) -> String {
    name.replace(char::is_control, "?")
}

/// Without the zero byte that DER puts in front to keep a number positive (X.690, 8.3.3).
fn serial(bytes: &[u8]) -> String {
    match bytes {
        [0, rest @ ..] if !rest.is_empty() => HEXLOWER.encode(rest),
        _ => HEXLOWER.encode(bytes),
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(printable(name)),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes)
                .ok()
                .map(|ip| IpAddr::from(ip).to_string()),
            _ => <[u8; 16]>::try_from(*bytes)
                .ok()
                .map(|ip| IpAddr::from(ip).to_string()),
        },
        _ => None,
    }
}

fn usage_names(usage: &ExtendedKeyUsage<'_>) -> Vec<String> {
    let known = [
        (usage.any, "anyExtendedKeyUsage"),
        (usage.server_auth, "serverAuth"),
        (usage.client_auth, "clientAuth"),
        (usage.code_signing, "codeSigning"),
        (usage.email_protection, "emailProtection"),
        (usage.time_stamping, "timeStamping"),
        (usage.ocsp_signing, "OCSPSigning"),
    ];
    let known = known.iter().filter(|(has, _)| *has);
    known
        .map(|(_, name)| (*name).to_owned())
        .chain(usage.other.iter().map(ToString::to_string))
        .collect()
}

fn kind_of(key: &SubjectPublicKeyInfo<'_>) -> String {
    let curve = key
        .algorithm
        .parameters
        .as_ref()
        .and_then(|parameters| parameters.as_oid().ok())
        .map(|curve| curve.to_id_string());
    match (key.parsed(), curve.as_deref()) {
        (Ok(PublicKey::RSA(rsa)), _) => format!("RSA {}", rsa.key_size()),
        (Ok(PublicKey::EC(_)), Some("1.2.840.10045.3.1.7")) => "ECDSA P-256".to_owned(),
        (Ok(PublicKey::EC(_)), Some("1.3.132.0.34")) => "ECDSA P-384".to_owned(),
        (Ok(PublicKey::EC(_)), Some("1.3.132.0.35")) => "ECDSA P-521".to_owned(),
        (Ok(PublicKey::EC(point)), _) => format!("ECDSA {}", point.key_size()),
        _ => match key.algorithm.algorithm.to_id_string().as_str() {
            "1.3.101.112" => "Ed25519".to_owned(),
            "1.3.101.113" => "Ed448".to_owned(),
            other => other.to_owned(),
        },
    }
}
