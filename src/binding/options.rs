//! Connect options: from Lua tables to typed values, once, with every conflict named.

use std::path::PathBuf;
use std::sync::Arc;

use mlua::{FromLua, Table, UserDataRef, Value};

use super::ProfileHandle;
use crate::client::{Destination, Proxy, TlsTarget};
use crate::error::{Error, Result};
use crate::http1;
use crate::net::Endpoint;
use crate::tls::{
    self, IdentityFiles, IdentitySource, Passphrase, Pins, ProfileOptions, Protocols, Source,
    TrustSource, Version,
};
use crate::vault;

/// The TLS profile that `options` ask for.
pub fn profile(options: &Table, allow_keylog: bool) -> Result<ProfileOptions> {
    let min_version = version(options, "ssl_min_version")?.unwrap_or(Version::Tls12);
    let max_version = version(options, "ssl_max_version")?.unwrap_or(Version::Tls13);
    if min_version > max_version {
        return Err(Error::bad_argument(
            "bad 'ssl_min_version': above 'ssl_max_version'",
        ));
    }
    Ok(ProfileOptions {
        identity: vault::within(|| identity(options))?,
        trust: trust(options)?,
        revocation: text_or_path(options, "ssl_crl")?,
        // As in resty.http: only an explicit false turns verification off.
        verify: !matches!(get(options, "ssl_verify")?, Value::Boolean(false)),
        pins: pins(options)?,
        min_version,
        max_version,
        resume: !matches!(get(options, "ssl_session_reuse")?, Value::Boolean(false)),
        allow_keylog,
        protocols: protocols(options)?,
    })
}

/// The destination that `given` describes. Where it comes from, `lua/resty/mtls/destination.lua`,
/// the options of the caller have been told apart.
pub fn destination(given: &Table) -> Result<Destination> {
    let endpoint = endpoint(given)?;
    let server_name: Option<String> = field(given, "server_name")?;
    let tls = tls_target(given, &endpoint, server_name.as_deref())?;
    let proxy = match field::<Option<Table>>(given, "proxy")? {
        Some(given) => Some(Box::new(proxy(&given)?)),
        None => None,
    };
    let protocols = protocols(given)?;
    if protocols != Protocols::Http1 && proxy.as_ref().is_some_and(|proxy| !proxy.tunnels) {
        return Err(Error::bad_argument(
            "bad 'http_version': a proxy that passes requests on speaks HTTP/1.1",
        ));
    }
    Ok(Destination {
        endpoint,
        tls,
        proxy,
        protocols,
        pool: field(given, "pool")?,
    })
}

fn proxy(given: &Table) -> Result<Proxy> {
    let endpoint = endpoint(given)?;
    let authorization: Option<mlua::LuaString> = field(given, "authorization")?;
    let authorization = authorization.map(|text| text.as_bytes().to_vec());
    if let Some(value) = &authorization
        && !http1::is_field_value(value)
    {
        return Err(Error::bad_argument(
            "invalid characters found in the proxy's authorization",
        ));
    }
    Ok(Proxy {
        tls: tls_target(given, &endpoint, None)?,
        endpoint,
        authorization,
        tunnels: field(given, "tunnels")?,
    })
}

fn endpoint(given: &Table) -> Result<Endpoint> {
    let host: String = field(given, "host")?;
    Ok(match field::<Option<u16>>(given, "port")? {
        Some(port) => Endpoint::Tcp(host, port),
        None => Endpoint::Unix(host.into()),
    })
}

fn tls_target(
    given: &Table,
    endpoint: &Endpoint,
    server_name: Option<&str>,
) -> Result<Option<TlsTarget>> {
    let host = match endpoint {
        Endpoint::Tcp(host, _) => Some(host.as_str()),
        Endpoint::Unix(_) => None,
    };
    match field::<Option<UserDataRef<ProfileHandle>>>(given, "profile")? {
        None => Ok(None),
        Some(profile) => Ok(Some(TlsTarget {
            server_name: tls::server_name(server_name.or(host), profile.0.verifies())?,
            profile: profile.0.clone(),
        })),
    }
}

fn field<T: FromLua>(given: &Table, name: &str) -> Result<T> {
    given
        .get(name)
        .map_err(|error| Error::bad_argument(format!("bad '{name}': {error}")))
}

/// The client identity: the fork's options, or ledgetech's, or a PKCS#12 file; one of them only, and
/// never half of one.
fn identity(options: &Table) -> Result<Option<IdentitySource>> {
    let certificate = either(options, "ssl_cert", "ssl_cert_path")?;
    let key = either(options, "ssl_key", "ssl_key_path")?;
    let client_certificate = given(options, "ssl_client_cert")?;
    let client_key = given(options, "ssl_client_priv_key")?;
    let pkcs12 = pkcs12(options)?;
    let passphrase = passphrase(options)?;
    let is_pem = certificate.is_some() || key.is_some();
    let is_client_pem = client_certificate.is_some() || client_key.is_some();
    if is_pem && is_client_pem {
        return Err(Error::bad_argument(
            "cannot specify both 'ssl_cert' and 'ssl_client_cert': they are two spellings of \
             one client certificate",
        ));
    }
    if pkcs12.is_some() && (is_pem || is_client_pem) {
        return Err(Error::bad_argument(
            "cannot specify both 'ssl_pkcs12' and another client certificate or key",
        ));
    }
    let files = match (certificate, key, client_certificate, client_key, pkcs12) {
        (.., Some(source)) => IdentityFiles::Pkcs12(source),
        (Some(certificate), Some(key), ..) | (_, _, Some(certificate), Some(key), _) => {
            IdentityFiles::Pem { certificate, key }
        }
        (None, None, None, None, None) if passphrase.is_some() => {
            return Err(Error::bad_argument(
                "missing 'ssl_key', 'ssl_key_path', 'ssl_client_priv_key' or 'ssl_pkcs12' when \
                 'ssl_key_password' is given",
            ));
        }
        (None, None, None, None, None) => return Ok(None),
        (Some(_), None, ..) => {
            return Err(Error::bad_argument(
                "missing 'ssl_key_path' or 'ssl_key' when 'ssl_cert_path' or 'ssl_cert' is given",
            ));
        }
        (None, Some(_), ..) => {
            return Err(Error::bad_argument(
                "missing 'ssl_cert_path' or 'ssl_cert' when 'ssl_key_path' or 'ssl_key' is given",
            ));
        }
        (_, _, Some(_), None, _) => {
            return Err(Error::bad_argument(
                "missing 'ssl_client_priv_key' when 'ssl_client_cert' is given",
            ));
        }
        (_, _, None, Some(_), _) => {
            return Err(Error::bad_argument(
                "missing 'ssl_client_cert' when 'ssl_client_priv_key' is given",
            ));
        }
    };
    Ok(Some(IdentitySource { files, passphrase }))
}

fn passphrase(options: &Table) -> Result<Option<Passphrase>> {
    const OPTION: &str = "ssl_key_password";
    match string(options, OPTION)? {
        None => Ok(None),
        Some(bytes) => match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(Some(Passphrase(text.into()))),
            Err(_) => Err(Error::bad_argument(format!("bad '{OPTION}': not UTF-8"))),
        },
    }
}

/// A PKCS#12 file begins with a SEQUENCE of more than 127 bytes, or of a length to be seen (X.690,
/// 8.1.3), as no path does. What is no path either is taken for a file that is broken.
fn pkcs12(options: &Table) -> Result<Option<Source>> {
    const OPTION: &str = "ssl_pkcs12";
    let Some(bytes) = string(options, OPTION)? else {
        return Ok(None);
    };
    let is_der = matches!(*bytes, [0x30, 0x80..=0xff, ..]);
    Ok(Some(match path(OPTION, &bytes) {
        Ok(path) if !is_der => path,
        Err(error) if bytes.is_empty() => return Err(error),
        _ => Source::Given(OPTION, bytes),
    }))
}

fn protocols(options: &Table) -> Result<Protocols> {
    const OPTION: &str = "http_version";
    match get(options, OPTION)? {
        Value::Nil | Value::Number(1.1) => Ok(Protocols::Http1),
        Value::Integer(2) | Value::Number(2.0) => Ok(Protocols::Http2),
        Value::String(text) if &*text.as_bytes() == b"auto" => Ok(Protocols::Either),
        _ => Err(Error::bad_argument(format!(
            "bad '{OPTION}': 1.1, 2 or \"auto\""
        ))),
    }
}

fn pins(options: &Table) -> Result<Pins> {
    const OPTION: &str = "ssl_pinned_pubkey";
    let Some(bytes) = string(options, OPTION)? else {
        return Ok(Pins::default());
    };
    let pins = std::str::from_utf8(&bytes).ok().and_then(Pins::parse);
    pins.ok_or_else(|| {
        Error::bad_argument(format!(
            "bad '{OPTION}': expected sha256//BASE64, or several of them with ';' in between"
        ))
    })
}

fn version(options: &Table, name: &'static str) -> Result<Option<Version>> {
    match string(options, name)?.as_deref() {
        None => Ok(None),
        Some(b"TLSv1.2") => Ok(Some(Version::Tls12)),
        Some(b"TLSv1.3") => Ok(Some(Version::Tls13)),
        Some(_) => Err(Error::bad_argument(format!(
            "bad '{name}': expected TLSv1.2 or TLSv1.3"
        ))),
    }
}

/// PEM text, a file, a folder, "system", or a list of these.
fn trust(options: &Table) -> Result<Vec<TrustSource>> {
    const OPTION: &str = "ssl_trusted_certificate";
    let sources = match get(options, OPTION)? {
        Value::Nil => return Ok(vec![TrustSource::System]),
        Value::Table(list) => list
            .sequence_values::<Value>()
            .map(|value| {
                let value = value.map_err(|error| unreadable_option(OPTION, &error))?;
                trust_source(OPTION, value)
            })
            .collect::<Result<Vec<_>>>()?,
        value => vec![trust_source(OPTION, value)?],
    };
    match sources.is_empty() {
        true => Err(Error::bad_argument(format!(
            "bad '{OPTION}': an empty list trusts nobody"
        ))),
        false => Ok(sources),
    }
}

fn trust_source(option: &'static str, value: Value) -> Result<TrustSource> {
    let bytes = to_string(option, value)?.unwrap_or_default();
    Ok(match &*bytes {
        b"system" => TrustSource::System,
        text if tls::is_pem(text) => TrustSource::Given(Source::Given(option, bytes)),
        text => TrustSource::Given(path(option, text)?),
    })
}

/// PEM text under one name or a path under the other.
fn either(
    options: &Table,
    text_name: &'static str,
    path_name: &'static str,
) -> Result<Option<Source>> {
    match (given(options, text_name)?, string(options, path_name)?) {
        (Some(_), Some(_)) => Err(Error::bad_argument(format!(
            "cannot specify both '{text_name}' and '{path_name}'"
        ))),
        (Some(text), None) => Ok(Some(text)),
        (None, Some(bytes)) => path(path_name, &bytes).map(Some),
        (None, None) => Ok(None),
    }
}

fn given(options: &Table, name: &'static str) -> Result<Option<Source>> {
    Ok(string(options, name)?.map(|bytes| Source::Given(name, bytes)))
}

fn text_or_path(options: &Table, name: &'static str) -> Result<Option<Source>> {
    match string(options, name)? {
        Some(bytes) if tls::is_pem(&bytes) => Ok(Some(Source::Given(name, bytes))),
        Some(bytes) => path(name, &bytes).map(Some),
        None => Ok(None),
    }
}

/// What cannot be a path may be a key in the wrong place, which an error must not show.
fn path(option: &'static str, bytes: &[u8]) -> Result<Source> {
    let path = std::str::from_utf8(bytes).unwrap_or_default();
    let is_plain = !path.is_empty() && !path.contains(char::is_control);
    match is_plain && !tls::is_pem(bytes) && !tls::is_base64_of_der(bytes) {
        true => Ok(Source::Path(option, PathBuf::from(path))),
        false => {
            let error = Error::bad_argument(format!("bad '{option}': not a path"));
            Err(error.with_hint(
                "give the path of a file; PEM text has options of its own: ssl_cert and ssl_key",
            ))
        }
    }
}

fn string(options: &Table, name: &'static str) -> Result<Option<Arc<[u8]>>> {
    to_string(name, get(options, name)?)
}

fn to_string(name: &'static str, value: Value) -> Result<Option<Arc<[u8]>>> {
    match value {
        Value::Nil => Ok(None),
        Value::String(text) => Ok(Some(Arc::from(&*text.as_bytes()))),
        // LuaJIT's cdata, which mlua has no name for.
        Value::Other(_) => Err(Error::bad_argument(format!(
            "bad '{name}': expected a string, got cdata"
        ))),
        other => Err(Error::bad_argument(format!(
            "bad '{name}': expected a string, got {}",
            other.type_name()
        ))),
    }
}

fn get(options: &Table, name: &str) -> Result<Value> {
    // An __index metamethod of the caller's table may raise an error.
    let value = options.get(name);
    value.map_err(|error| unreadable_option(name, &error))
}

fn unreadable_option(name: &str, error: &mlua::Error) -> Error {
    Error::bad_argument(format!("cannot read option '{name}': {error}"))
}
