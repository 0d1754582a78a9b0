//! Connect options: from Lua tables to typed values, once, with every conflict named.

use std::path::PathBuf;
use std::sync::Arc;

use mlua::{FromLua, Table, UserDataRef, Value};

use super::ProfileHandle;
use crate::client::{Destination, Proxy, TlsTarget};
use crate::error::{Error, Result};
use crate::http1;
use crate::net::Endpoint;
use crate::tls::{self, IdentitySource, ProfileOptions, Source, TrustSource};

/// The TLS profile that `options` ask for.
pub fn profile(options: &Table) -> Result<ProfileOptions> {
    Ok(ProfileOptions {
        identity: identity(options)?,
        trust: trust(options)?,
        // As in resty.http: only an explicit false turns verification off.
        verify: !matches!(get(options, "ssl_verify")?, Value::Boolean(false)),
    })
}

/// The destination that `given` describes. Where it comes from, `lua/resty/mtls/destination.lua`,
/// the options of the caller have been told apart.
pub fn destination(given: &Table) -> Result<Destination> {
    let endpoint = endpoint(given)?;
    let server_name: Option<String> = field(given, "server_name")?;
    let tls = tls_target(given, &endpoint, server_name.as_deref())?;
    let proxy = match field::<Option<Table>>(given, "proxy")? {
        Some(given) => Some(proxy(&given)?),
        None => None,
    };
    Ok(Destination {
        endpoint,
        tls,
        proxy,
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

/// The client identity: the fork's options, or ledgetech's, never both, and never half of one.
fn identity(options: &Table) -> Result<Option<IdentitySource>> {
    let certificate = either(options, "ssl_cert", "ssl_cert_path")?;
    let key = either(options, "ssl_key", "ssl_key_path")?;
    let client_certificate = text(options, "ssl_client_cert")?;
    let client_key = text(options, "ssl_client_priv_key")?;
    if (certificate.is_some() || key.is_some())
        && (client_certificate.is_some() || client_key.is_some())
    {
        return Err(Error::bad_argument(
            "cannot specify both 'ssl_cert' and 'ssl_client_cert': they are two spellings of \
             one client certificate",
        ));
    }
    match (certificate, key, client_certificate, client_key) {
        (None, None, None, None) => Ok(None),
        (Some(certificate), Some(key), ..) | (.., Some(certificate), Some(key)) => {
            Ok(Some(IdentitySource { certificate, key }))
        }
        (Some(_), None, ..) => Err(Error::bad_argument(
            "missing 'ssl_key_path' or 'ssl_key' when 'ssl_cert_path' or 'ssl_cert' is given",
        )),
        (None, Some(_), ..) => Err(Error::bad_argument(
            "missing 'ssl_cert_path' or 'ssl_cert' when 'ssl_key_path' or 'ssl_key' is given",
        )),
        (.., Some(_), None) => Err(Error::bad_argument(
            "missing 'ssl_client_priv_key' when 'ssl_client_cert' is given",
        )),
        (.., None, Some(_)) => Err(Error::bad_argument(
            "missing 'ssl_client_cert' when 'ssl_client_priv_key' is given",
        )),
    }
}

fn trust(options: &Table) -> Result<TrustSource> {
    const OPTION: &str = "ssl_trusted_certificate";
    match text(options, OPTION)? {
        None => Ok(TrustSource::System),
        Some(Source::Text(_, text)) if *text == *b"system" => Ok(TrustSource::System),
        Some(Source::Text(_, text)) if is_pem(&text) => {
            Ok(TrustSource::Given(Source::Text(OPTION, text)))
        }
        Some(source) => Ok(TrustSource::Given(path(source)?)),
    }
}

fn is_pem(text: &[u8]) -> bool {
    const BEGIN: &[u8] = b"-----BEGIN";
    text.windows(BEGIN.len()).any(|part| part == BEGIN)
}

/// PEM text under one name or a path under the other.
fn either(
    options: &Table,
    text_name: &'static str,
    path_name: &'static str,
) -> Result<Option<Source>> {
    match (text(options, text_name)?, text(options, path_name)?) {
        (Some(_), Some(_)) => Err(Error::bad_argument(format!(
            "cannot specify both '{text_name}' and '{path_name}'"
        ))),
        (Some(text), None) => Ok(Some(text)),
        (None, Some(given)) => path(given).map(Some),
        (None, None) => Ok(None),
    }
}

fn path(source: Source) -> Result<Source> {
    match source {
        Source::Text(option, text) => match String::from_utf8(text.to_vec()) {
            Ok(path) if !path.is_empty() && !path.contains('\0') => {
                Ok(Source::Path(option, PathBuf::from(path)))
            }
            _ => Err(Error::bad_argument(format!("bad '{option}': not a path"))),
        },
        path => Ok(path),
    }
}

fn text(options: &Table, name: &'static str) -> Result<Option<Source>> {
    match get(options, name)? {
        Value::Nil => Ok(None),
        Value::String(text) => Ok(Some(Source::Text(name, Arc::from(&*text.as_bytes())))),
        // LuaJIT's cdata, which mlua has no name for: an object of ngx.ssl's.
        Value::Other(_) => Err(Error::bad_argument(format!(
            "bad '{name}': expected a string, got cdata"
        ))
        .with_hint("give the PEM text itself, not what ngx.ssl.parse_pem_cert made of it")),
        other => Err(Error::bad_argument(format!(
            "bad '{name}': expected a string, got {}",
            other.type_name()
        ))),
    }
}

fn get(options: &Table, name: &str) -> Result<Value> {
    // An __index metamethod of the caller's table may raise an error.
    options
        .get(name)
        .map_err(|error| Error::bad_argument(format!("cannot read option '{name}': {error}")))
}
