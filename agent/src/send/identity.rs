//! Who the agent is to the store: a key and a certificate beside the spool, made once and renewed in time.
//! The key never leaves its file; nothing in here talks to the store.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use protocol::time::UnixMs;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// The folder of key and certificate, `<spool>/identity`.
#[derive(Debug, Clone)]
pub struct Identity {
    dir: PathBuf,
}

/// A certificate and its key, as TLS wants them.
pub type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Identity {
    /// In this folder, which need not exist.
    #[must_use]
    pub fn in_dir(dir: &Path) -> Identity {
        Identity { dir: dir.to_owned() }
    }

    /// The certificate's file.
    #[must_use]
    pub fn cert_file(&self) -> PathBuf {
        self.dir.join("cert.pem")
    }

    fn key_file(&self) -> PathBuf {
        self.dir.join("key.pem")
    }

    fn next_key_file(&self) -> PathBuf {
        self.dir.join("next_key.pem")
    }

    /// Key and certificate; `None` before the first contact.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn load(&self) -> Result<Option<Pair>, String> {
        self.finish_renewal().map_err(|e| format!("{}: {e}", self.dir.display()))?;
        let (cert, key) = (self.cert_file(), self.key_file());
        if !cert.exists() {
            return Ok(None);
        }
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&cert).and_then(Iterator::collect);
        let chain = chain.map_err(|e| bad(&cert, &e))?;
        let key_der = PrivateKeyDer::from_pem_file(&key).map_err(|e| bad(&key, &e))?;
        if chain.is_empty() {
            return Err(format!("{} has no certificate; remove it and enroll again", cert.display()));
        }
        Ok(Some((chain, key_der)))
    }

    /// From when to when the certificate is valid.
    #[must_use]
    pub fn validity(&self) -> Option<(UnixMs, UnixMs)> {
        let der = CertificateDer::from_pem_file(self.cert_file()).ok()?;
        let (_, cert) = x509_parser::parse_x509_certificate(&der).ok()?;
        let ms = |t: x509_parser::time::ASN1Time| UnixMs(t.timestamp().max(0) as u64 * 1000);
        Some((ms(cert.validity().not_before), ms(cert.validity().not_after)))
    }

    /// Makes a key (kept in a file of its own until its certificate is there) and a request for it, in PEM.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn request(&self, agent: &str) -> Result<String, String> {
        let made = |e: rcgen::Error| format!("a certificate request can't be made: {e}");
        let key = KeyPair::generate().map_err(made)?;
        let mut params = CertificateParams::new(Vec::<String>::new()).map_err(made)?;
        params.distinguished_name.push(DnType::CommonName, agent);
        let request = params.serialize_request(&key).and_then(|r| r.pem()).map_err(made)?;
        let named = |e: io::Error| format!("{}: {e}", self.dir.display());
        fs::create_dir_all(&self.dir).map_err(named)?;
        write_durably(&self.next_key_file(), key.serialize_pem().as_bytes(), 0o600).map_err(named)?;
        Ok(request)
    }

    /// Keeps the certificate for the last request, durably. Certificate first, then key: the pair is changed
    /// by [`finish_renewal`](Self::finish_renewal) whenever a crash comes between.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn store(&self, certificate_pem: &str) -> Result<(), String> {
        let named = |e: io::Error| format!("{}: {e}", self.dir.display());
        write_durably(&self.dir.join("next_cert.pem"), certificate_pem.as_bytes(), 0o644).map_err(named)?;
        self.finish_renewal().map_err(named)
    }

    #[expect(clippy::disallowed_methods, reason = "both files are synced, and the folder is after it")]
    fn finish_renewal(&self) -> io::Result<()> {
        let (next_cert, next_key) = (self.dir.join("next_cert.pem"), self.next_key_file());
        if !next_cert.exists() {
            return Ok(());
        }
        // The request's certificate is there, so its key is the right one from now on.
        if next_key.exists() {
            fs::rename(&next_key, self.key_file())?;
        }
        fs::rename(&next_cert, self.cert_file())?;
        fs::File::open(&self.dir)?.sync_all()
    }
}

fn bad(file: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{} can't be used: {error}; remove the folder it is in and enroll again", file.display())
}

#[expect(
    clippy::disallowed_methods,
    reason = "synced before and after; `disk` can't make a file that is closed to others"
)]
fn write_durably(file: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let tmp = file.with_extension("tmp");
    let mut out = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&tmp)?;
    out.set_permissions(fs::Permissions::from_mode(mode))?;
    out.write_all(bytes)?;
    out.sync_all()?;
    fs::rename(&tmp, file)?;
    fs::File::open(file.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "what a crash leaves behind")]
    fn the_key_is_readable_by_its_owner_only_and_the_pair_survives_a_crash_between_the_renames() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::in_dir(&dir.path().join("identity"));
        assert!(identity.load().unwrap().is_none());
        let request = identity.request("truck").unwrap();
        assert!(request.contains("CERTIFICATE REQUEST"));
        let mode = fs::metadata(identity.next_key_file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let key = KeyPair::from_pem(&fs::read_to_string(identity.next_key_file()).unwrap()).unwrap();
        let cert = CertificateParams::new(vec!["truck".to_owned()]).unwrap().self_signed(&key).unwrap();
        // As if the process had died after the key's rename.
        write_durably(&identity.dir.join("next_cert.pem"), cert.pem().as_bytes(), 0o644).unwrap();
        fs::rename(identity.next_key_file(), identity.key_file()).unwrap();
        let (chain, _) = identity.load().unwrap().unwrap();
        assert_eq!(chain[0], *cert.der());
        assert!(identity.validity().is_some());
    }
}
