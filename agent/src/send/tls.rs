//! TLS to the store: what is trusted, who we are, and errors that say what to do.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::identity::Pair;

/// The certificates in a PEM file, as what is trusted.
///
/// # Errors
/// A sentence that names the file.
pub fn roots(ca: &Path) -> Result<RootCertStore, String> {
    let bad = |e: &dyn std::fmt::Display| format!("{}: {e}; it must be the authority's PEM", ca.display());
    let certs: Result<Vec<_>, _> = CertificateDer::pem_file_iter(ca).and_then(Iterator::collect);
    let mut roots = RootCertStore::empty();
    for cert in certs.map_err(|e| bad(&e))? {
        roots.add(cert).map_err(|e| bad(&e))?;
    }
    if roots.is_empty() { Err(bad(&"there is no certificate in it")) } else { Ok(roots) }
}

/// A certificate and its key from two PEM files.
///
/// # Errors
/// A sentence that names the file.
pub fn pair(cert: &Path, key: &Path) -> Result<Pair, String> {
    let bad = |file: &Path, e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect);
    let chain = chain.map_err(|e| bad(cert, &e))?;
    Ok((chain, PrivateKeyDer::from_pem_file(key).map_err(|e| bad(key, &e))?))
}

/// How to connect: trusting `ca`, as `pair` where we are known already.
///
/// # Errors
/// A sentence that names the file.
pub fn client(ca: &Path, pair: Option<Pair>, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots(ca)?);
    let mut config = match pair {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|e| format!("the client certificate does not fit its key: {e}; enroll again"))?,
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

/// What a failed handshake means, and what to do about it.
#[must_use]
pub fn explain(error: &io::Error, ca: &Path, cert: &Path) -> String {
    use rustls::{AlertDescription as Alert, CertificateError as Bad, Error};
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature)) => format!(
            "the store's certificate was not made by the authority in {}; copy the store's ca.pem there",
            ca.display()
        ),
        Some(Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. })) => {
            "the store's certificate has expired: renew it on the store, or set this machine's clock"
                .to_owned()
        }
        Some(Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. })) => {
            "the store's certificate is not valid yet: set this machine's clock".to_owned()
        }
        Some(Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. })) => {
            "the store's certificate is for another name: use that name in store.url or set store.server_name"
                .to_owned()
        }
        Some(Error::AlertReceived(
            Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::BadCertificate
            | Alert::UnknownCA
            | Alert::CertificateRevoked
            | Alert::CertificateRequired
            | Alert::AccessDenied,
        )) => format!(
            "the store refuses the client certificate {}: {error}; get a new token with `kinesin agent enroll`, \
             put it into store.token, remove that file and restart",
            cert.display()
        ),
        Some(Error::NoApplicationProtocol) => "the store does not speak kinesin/1".to_owned(),
        _ => error.to_string(),
    }
}
