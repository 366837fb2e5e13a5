//! Which store, and as whom: a URL, the authority to trust, a certificate to show. Never: sockets.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol::native::url::StoreUrl;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::ClientError;
use crate::auth::{files, tls};

/// A certificate to show, with its key.
#[derive(Debug, Clone)]
pub struct Identity {
    /// For messages: where it came from.
    pub name: String,
    /// The certificate in PEM.
    pub certificate_pem: String,
    /// Its key in PEM.
    pub key_pem: String,
}

/// Which store, and as whom.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where it is.
    pub url: StoreUrl,
    /// For messages: where the authority's certificate came from.
    pub ca_name: String,
    /// The authority to trust, in PEM.
    pub ca_pem: String,
    /// What to show; `None` for a client that wants to enrol.
    pub identity: Option<Identity>,
}

/// Where a running store writes its address, in its data folder.
#[must_use]
pub fn endpoint_file(data_dir: &Path) -> PathBuf {
    data_dir.join("endpoint")
}

impl Target {
    /// The store of a data folder on this machine, as its operator.
    ///
    /// # Errors
    /// When a file is missing: no store has run there, or it is somebody else's.
    pub fn of_data_dir(data_dir: &Path) -> Result<Target, ClientError> {
        let file = endpoint_file(data_dir);
        let url = files::read_text(&file).map_err(ClientError::file)?.ok_or_else(|| {
            let dir = data_dir.display();
            ClientError::Setup(format!(
                "no store has run in {dir} (no {}): start one with `kinesin serve --data {dir}`",
                file.display()
            ))
        })?;
        let url = StoreUrl::parse(url.trim())
            .map_err(|e| ClientError::Setup(format!("{}: {e}", file.display())))?;
        let identity = (data_dir.join("admin.pem"), data_dir.join("admin.key"));
        Target::of_files(url, &data_dir.join("ca.pem"), Some((&identity.0, &identity.1)))
    }

    /// A store by URL, with the files to use.
    ///
    /// # Errors
    /// When a file can't be read.
    pub fn of_files(
        url: StoreUrl,
        ca: &Path,
        identity: Option<(&Path, &Path)>,
    ) -> Result<Target, ClientError> {
        let identity = identity
            .map(|(certificate, key)| {
                Ok::<_, ClientError>(Identity {
                    name: certificate.display().to_string(),
                    certificate_pem: need(certificate)?,
                    key_pem: need(key)?,
                })
            })
            .transpose()?;
        Ok(Target { url, ca_name: ca.display().to_string(), ca_pem: need(ca)?, identity })
    }

    pub(super) fn server_name(&self) -> Result<ServerName<'static>, ClientError> {
        ServerName::try_from(self.url.host.clone())
            .map_err(|_| ClientError::Setup(format!("{}: {:?} is no host name", self.url, self.url.host)))
    }

    pub(super) fn tls(&self, alpn: &[u8]) -> Result<Arc<ClientConfig>, ClientError> {
        let ca_bad = |e: &dyn std::fmt::Display| {
            ClientError::Setup(format!("{}: no certificate of an authority: {e}", self.ca_name))
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.ca_pem.as_bytes()) {
            roots.add(certificate.map_err(|e| ca_bad(&e))?).map_err(|e| ca_bad(&e))?;
        }
        if roots.is_empty() {
            return Err(ca_bad(&"it is empty"));
        }
        let builder = ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|e| ClientError::Setup(format!("TLS: {e}")))?
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let bad = |e: &dyn std::fmt::Display| {
                    ClientError::Setup(format!("{} can't be used with its key: {e}", identity.name))
                };
                let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes())
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|e| bad(&e))?;
                let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(|e| bad(&e))?;
                builder.with_client_auth_cert(chain, key).map_err(|e| bad(&e))?
            }
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }
}

fn need(path: &Path) -> Result<String, ClientError> {
    let text = files::read_text(path).map_err(ClientError::file)?;
    text.ok_or_else(|| ClientError::Setup(format!("there is no {}", path.display())))
}
