//! TLS as the store speaks it, and who a certificate says somebody is. Never: connections, tokens.

use std::io;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{CertificateError, RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

use super::AuthError;
use super::ca::{Authority, Identity, URI_PREFIX, check_name};
use crate::principal::{Principal, Role};

/// The cryptography of every connection, chosen here and nowhere else.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The store's side of TLS. A client may show a certificate; if it does, it must be one of ours.
///
/// No session is ever resumed: a resumed session would skip the check of the client's certificate.
///
/// # Errors
/// When certificate and key do not fit.
pub fn server_config(
    authority: &Authority,
    identity: Identity,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, AuthError> {
    let broken = |e: &dyn std::fmt::Display| AuthError(format!("can't set up TLS: {e}"));
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone()).map_err(|e| broken(&e))?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|e| broken(&e))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|e| broken(&e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![identity.certificate], identity.key)
        .map_err(|e| broken(&e))?;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// Who a connection is, by the certificate that TLS has already verified.
///
/// # Errors
/// When the certificate says no role and name.
pub fn principal_of(chain: Option<&[CertificateDer<'_>]>) -> Result<Principal, AuthError> {
    let Some(certificate) = chain.and_then(<[_]>::first) else { return Ok(Principal::anonymous()) };
    let unreadable = |why: String| AuthError(format!("the client's certificate can't be used: {why}"));
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|e| unreadable(e.to_string()))?;
    let names = parsed.subject_alternative_name().map_err(|e| unreadable(e.to_string()))?;
    let mut uris = names.iter().flat_map(|ext| &ext.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(URI_PREFIX),
        _ => None,
    });
    let uri = uris.next().ok_or_else(|| unreadable(format!("it has no {URI_PREFIX}… name")))?;
    let (role, name) = uri.split_once(':').unwrap_or((uri, ""));
    let role = match role {
        "admin" => Role::Admin,
        "agent" => Role::Agent,
        other => return Err(unreadable(format!("it has the unknown role {other:?}"))),
    };
    check_name(name)?;
    Ok(Principal { name: name.to_owned(), role })
}

/// Why a handshake failed, as far as the two sides can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// The other side's certificate is not (or no longer) valid in time.
    Expired,
    /// The other side's certificate is from another authority.
    OtherAuthority,
    /// The other side's certificate can't be used for another reason.
    BadCertificate,
    /// The other side does not trust our certificate.
    RefusedByPeer,
    /// No protocol in common inside TLS.
    NoCommonProtocol,
    /// The other side does not speak TLS.
    NotTls,
    /// No version or cipher in common.
    Incompatible,
    /// The connection broke.
    Broken,
}

impl HandshakeFailure {
    /// Reads the reason out of what the TLS library says.
    #[must_use]
    pub fn of(error: &io::Error) -> HandshakeFailure {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        inner.map_or(HandshakeFailure::Broken, HandshakeFailure::of_tls)
    }

    fn of_tls(error: &rustls::Error) -> HandshakeFailure {
        use HandshakeFailure as F;
        use rustls::Error as E;
        match error {
            E::InvalidCertificate(why) => match why {
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => F::Expired,
                CertificateError::UnknownIssuer | CertificateError::BadSignature => F::OtherAuthority,
                _ => F::BadCertificate,
            },
            E::AlertReceived(_) => F::RefusedByPeer,
            E::NoApplicationProtocol => F::NoCommonProtocol,
            E::InvalidMessage(_) | E::InappropriateMessage { .. } => F::NotTls,
            E::PeerIncompatible(_) => F::Incompatible,
            E::NoCertificatesPresented => F::BadCertificate,
            _ => F::Broken,
        }
    }

    /// For the operator of the store, about a client.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            HandshakeFailure::Expired => "the client's certificate has expired, or a clock is wrong",
            HandshakeFailure::OtherAuthority => "the client's certificate is from another authority",
            HandshakeFailure::BadCertificate => "the client's certificate can't be used",
            HandshakeFailure::RefusedByPeer => "the client does not trust this store's certificate",
            HandshakeFailure::NoCommonProtocol => "the client speaks none of this store's protocols",
            HandshakeFailure::NotTls => "the client does not speak TLS",
            HandshakeFailure::Incompatible => "no TLS version or cipher in common with the client",
            HandshakeFailure::Broken => "the connection broke during the handshake",
        }
    }
}
