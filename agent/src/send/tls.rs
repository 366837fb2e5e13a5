//! TLS to the store: what is trusted, who we are, and errors that say what to do.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

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
    let roots = Arc::new(roots(ca)?);
    let floor = pair.as_ref().and_then(|(chain, _)| begins(chain.first()?)).max(begins_of_file(ca));
    let inner = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider));
    let inner = inner.build().map_err(|e| format!("{}: {e}", ca.display()))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier {
            inner,
            floor: floor.unwrap_or(UnixTime::since_unix_epoch(Duration::ZERO)),
        }));
    let mut config = match pair {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|e| format!("the client certificate does not fit its key: {e}; enroll again"))?,
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

/// The store's certificate is checked as usual, but for one thing: devices without a battery start in 1970. A clock that
/// shows less than a certificate which we hold already has proved to be wrong, and says nothing about whether another is
/// valid yet; that one's own beginning takes its place. A clock that is ahead is believed.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    floor: UnixTime,
}

impl Verifier {
    fn time(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> UnixTime {
        if now >= self.floor {
            now
        } else {
            begins(certificate).map_or(self.floor, |begins| begins.max(self.floor))
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let now = self.time(end_entity, now);
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// From when on a certificate is valid.
fn begins(certificate: &CertificateDer<'_>) -> Option<UnixTime> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let seconds = u64::try_from(parsed.validity().not_before.timestamp()).ok()?;
    Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
}

/// The latest beginning in a PEM file.
fn begins_of_file(file: &Path) -> Option<UnixTime> {
    let certificates = CertificateDer::pem_file_iter(file).ok()?;
    certificates.flatten().filter_map(|certificate| begins(&certificate)).max()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_proved_to_be_behind_gives_way_and_one_that_is_ahead_does_not() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["store".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 6, 1);
        params.not_after = rcgen::date_time_ymd(2026, 9, 1);
        let certificate = params.self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let begin = begins(certificate.der()).unwrap();
        let time = |floor, now| {
            Verifier { inner: Arc::clone(&inner), floor: at(floor) }.time(certificate.der(), at(now))
        };
        assert_eq!(time(1_700_000_000, 0), begin, "behind what we hold");
        assert_eq!(time(1_700_000_000, 1_700_000_001), at(1_700_000_001), "nothing against it");
        assert_eq!(time(1_900_000_000, 5), at(1_900_000_000), "the certificate is older than what we hold");
        assert_eq!(time(1_700_000_000, 2_400_000_000), at(2_400_000_000), "ahead");
    }
}
