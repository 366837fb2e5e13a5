//! The store's own certificate authority: made on first start, kept in the data folder, signs the store's
//! certificate and those of agents and operators. Never in here: TLS, tokens, connections.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use protocol::time::UnixMs;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
    string::Ia5String,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};

use super::AuthError;
use super::files::{self, Access};
use crate::clock::Clock;
use crate::principal::{Principal, Role};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long the authority lives.
const CA_LIFE: Duration = Duration::from_secs(3650 * DAY.as_secs());
/// How long the store's certificate lives; it is renewed at every start and at two thirds of this.
pub const SERVER_LIFE: Duration = Duration::from_secs(90 * DAY.as_secs());
/// How long an operator's certificate lives; it is renewed by the store at two thirds of this.
pub const ADMIN_LIFE: Duration = Duration::from_secs(365 * DAY.as_secs());
/// How long an agent's certificate lives; the agent renews it.
pub const AGENT_LIFE: Duration = Duration::from_secs(30 * DAY.as_secs());
/// Certificates count from a little before they are made, because clocks differ.
const BACKDATE: Duration = Duration::from_secs(3600);

/// What starts the URI in a client certificate; `agent:` or `admin:` and the name follow.
pub const URI_PREFIX: &str = "urn:kinesin:";

/// Where the files of the authority and of the first operator are.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The authority's certificate: what others trust.
    pub ca: PathBuf,
    /// The authority's key.
    pub ca_key: PathBuf,
    /// The store's certificate.
    pub server: PathBuf,
    /// The store's key.
    pub server_key: PathBuf,
    /// The operator's certificate.
    pub admin: PathBuf,
    /// The operator's key.
    pub admin_key: PathBuf,
}

impl Paths {
    /// In a data folder.
    #[must_use]
    pub fn in_dir(dir: &Path) -> Paths {
        let tls = dir.join("tls");
        Paths {
            ca: dir.join("ca.pem"),
            ca_key: tls.join("ca.key"),
            server: tls.join("server.pem"),
            server_key: tls.join("server.key"),
            admin: dir.join("admin.pem"),
            admin_key: dir.join("admin.key"),
        }
    }
}

/// A certificate with its key, ready for TLS.
#[derive(Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

/// The authority.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
    paths: Paths,
    clock: Clock,
}

impl Authority {
    /// Opens the authority of a data folder, or makes it on first start.
    ///
    /// # Errors
    /// When its files can't be read or written, or do not belong together.
    pub fn open(dir: &Path, clock: Clock) -> Result<Authority, AuthError> {
        let paths = Paths::in_dir(dir);
        files::create_dir(&dir.join("tls"))?;
        let key = open_key(&paths)?;
        if files::read_text(&paths.ca)?.is_none() {
            make_ca(&paths, &key, clock)?;
        }
        Authority::read(&paths, clock)
    }

    /// Reads one that is there, and changes nothing.
    fn read(paths: &Paths, clock: Clock) -> Result<Authority, AuthError> {
        let named = |path: &Path, why: String| AuthError(format!("{}: {why}", path.display()));
        let text = |path: &Path| {
            files::read_text(path)?
                .ok_or_else(|| named(path, "it is missing; restore it from a backup".to_owned()))
        };
        let key =
            KeyPair::from_pem(&text(&paths.ca_key)?).map_err(|e| named(&paths.ca_key, e.to_string()))?;
        let pem = text(&paths.ca)?;
        let broken = |why: String| AuthError(format!("{}: {why}", paths.ca.display()));
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|e| broken(format!("no certificate: {e}")))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|e| broken(format!("no certificate: {e}")))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
            let key = paths.ca_key.display();
            return Err(broken(format!("it does not belong to {key}; restore both from one backup")));
        }
        if parsed.verify_signature(None).is_err()
            || rustls::RootCertStore::empty().add(certificate.clone()).is_err()
        {
            return Err(broken("it is damaged; restore it from a backup".to_owned()));
        }
        let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(|e| broken(e.to_string()))?;
        Ok(Authority { issuer, certificate, pem, paths: paths.clone(), clock })
    }

    /// Its certificate in PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Its certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Where its files are.
    #[must_use]
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// SHA-256 of its certificate, in hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.certificate)
    }

    /// Makes a new certificate for the store, good for these names, and writes it down where there is room.
    ///
    /// # Errors
    /// When a name is none, or the files can't be written.
    pub fn renew_server(&self, names: &[String]) -> Result<Identity, AuthError> {
        let key = KeyPair::generate().map_err(broken)?;
        let mut params = CertificateParams::new(names.to_vec())
            .map_err(|e| AuthError(format!("the store's names {names:?}: {e}")))?;
        params.distinguished_name = common_name("kinesin store");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let pem = self.sign(params, &key, SERVER_LIFE)?;
        // Copies: this process has both, and the next one makes its own.
        files::replace_copy(&self.paths.server_key, key.serialize_pem().as_bytes(), Access::Owner)?;
        files::replace_copy(&self.paths.server, pem.as_bytes(), Access::Everybody)?;
        identity(&pem, &key)
    }

    /// Makes the operator's certificate if it is missing, past two thirds of its life, or from another authority.
    ///
    /// # Errors
    /// When the files can't be written.
    pub fn renew_admin(&self) -> Result<(), AuthError> {
        // One that can't be read is made anew, like one that is not there.
        let key = files::read_text(&self.paths.admin_key).ok().flatten();
        let cert = files::read_text(&self.paths.admin).ok().flatten();
        if let (Some(key), Some(cert)) = (key, cert)
            && is_pair(&cert, &key)
            && self.is_fresh(&cert)
        {
            return Ok(());
        }
        let key = KeyPair::generate().map_err(broken)?;
        let admin = Principal { name: "admin".to_owned(), role: Role::Admin };
        let pem = self.sign(client_params(&admin)?, &key, ADMIN_LIFE)?;
        // The certificate last: whoever finds it finds its key.
        files::replace(&self.paths.admin_key, key.serialize_pem().as_bytes(), Access::Owner)?;
        Ok(files::replace(&self.paths.admin, pem.as_bytes(), Access::Owner)?)
    }

    /// Whether a certificate in PEM is from this authority.
    fn is_ours(&self, pem: &str) -> bool {
        let Ok(der) = CertificateDer::from_pem_slice(pem.as_bytes()) else { return false };
        let Ok((_, cert)) = x509_parser::parse_x509_certificate(&der) else { return false };
        let Ok((_, ca)) = x509_parser::parse_x509_certificate(&self.certificate) else { return false };
        cert.verify_signature(Some(ca.public_key())).is_ok()
    }

    fn is_fresh(&self, pem: &str) -> bool {
        let Ok(der) = CertificateDer::from_pem_slice(pem.as_bytes()) else { return false };
        let Ok((_, cert)) = x509_parser::parse_x509_certificate(&der) else { return false };
        let now = i64::try_from(self.clock.wall().0 / 1000).unwrap_or(i64::MAX);
        let (from, to) = (cert.validity().not_before.timestamp(), cert.validity().not_after.timestamp());
        let two_thirds = from + (to - from) / 3 * 2;
        // One from a clock that was ahead is not valid yet.
        self.is_ours(pem) && (from..two_thirds).contains(&now)
    }

    /// Signs a certificate request for a client. Of the request only the key is taken: names and purposes are
    /// the store's to say.
    ///
    /// # Errors
    /// When the request can't be read, or is not signed by its own key.
    pub fn sign_request(
        &self,
        csr_pem: &str,
        client: &Principal,
        life: Duration,
    ) -> Result<String, AuthError> {
        let request = CertificateSigningRequestParams::from_pem(csr_pem)
            .map_err(|e| AuthError(format!("the certificate request can't be used: {e}")))?;
        self.sign(client_params(client)?, &request.public_key, life)
    }

    /// Makes a client identity out of nothing: for tests and for tools that run beside the store.
    ///
    /// # Errors
    /// When the name is none.
    pub fn new_client(&self, client: &Principal, life: Duration) -> Result<(String, String), AuthError> {
        let key = KeyPair::generate().map_err(broken)?;
        Ok((self.sign(client_params(client)?, &key, life)?, key.serialize_pem()))
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        key: &impl PublicKeyData,
        life: Duration,
    ) -> Result<String, AuthError> {
        set_validity(&mut params, self.clock.wall(), life);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.is_ca = IsCa::ExplicitNoCa;
        Ok(params.signed_by(key, &self.issuer).map_err(broken)?.pem())
    }
}

/// What is wrong with the files of an authority, for `kinesin check`: which, what, and whether a start makes it anew.
#[must_use]
pub fn inspect(dir: &Path) -> Vec<(String, String, bool)> {
    let paths = Paths::in_dir(dir);
    if !paths.ca.exists() && !paths.ca_key.exists() {
        return Vec::new();
    }
    let authority = match Authority::read(&paths, Clock::start()) {
        Ok(authority) => authority,
        Err(error) => return vec![("authority".to_owned(), error.to_string(), false)],
    };
    let (cert, key) = (files::read_text(&paths.admin), files::read_text(&paths.admin_key));
    let good = match (cert, key) {
        (Ok(Some(cert)), Ok(Some(key))) => is_pair(&cert, &key) && authority.is_ours(&cert),
        _ => false,
    };
    let what = "the operator's certificate and key are missing, damaged or do not belong together";
    if good { Vec::new() } else { vec![("admin.pem".to_owned(), what.to_owned(), true)] }
}

/// Whether a key is that of a certificate, both in PEM.
fn is_pair(cert: &str, key: &str) -> bool {
    let (Ok(der), Ok(key)) = (CertificateDer::from_pem_slice(cert.as_bytes()), KeyPair::from_pem(key)) else {
        return false;
    };
    x509_parser::parse_x509_certificate(&der)
        .is_ok_and(|(_, cert)| cert.public_key().subject_public_key.data.as_ref() == key.der_bytes())
}

fn broken(error: rcgen::Error) -> AuthError {
    AuthError(format!("can't make a certificate: {error}"))
}

fn open_key(paths: &Paths) -> Result<KeyPair, AuthError> {
    if let Some(pem) = files::read_text(&paths.ca_key)? {
        return KeyPair::from_pem(&pem).map_err(|e| AuthError(format!("{}: {e}", paths.ca_key.display())));
    }
    if files::read_text(&paths.ca)?.is_some() {
        return Err(AuthError(format!(
            "{} is missing; restore it from a backup, or remove {} to begin with a new authority \
             (every agent must then enrol again)",
            paths.ca_key.display(),
            paths.ca.display()
        )));
    }
    let key = KeyPair::generate().map_err(broken)?;
    files::replace(&paths.ca_key, key.serialize_pem().as_bytes(), Access::Owner)?;
    Ok(key)
}

fn make_ca(paths: &Paths, key: &KeyPair, clock: Clock) -> Result<(), AuthError> {
    let mut params = CertificateParams::default();
    let id: String = Sha256::digest(key.der_bytes()).iter().take(4).map(|b| format!("{b:02x}")).collect();
    params.distinguished_name = common_name(&format!("kinesin authority {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, clock.wall(), CA_LIFE);
    let pem = params.self_signed(key).map_err(broken)?.pem();
    Ok(files::replace(&paths.ca, pem.as_bytes(), Access::Everybody)?)
}

fn common_name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

fn client_params(client: &Principal) -> Result<CertificateParams, AuthError> {
    check_name(&client.name)?;
    let role = match client.role {
        Role::Admin => "admin",
        Role::Agent => "agent",
        Role::Anonymous => return Err(AuthError("anonymous has no certificate".to_owned())),
    };
    let uri = Ia5String::from_str(&format!("{URI_PREFIX}{role}:{}", client.name)).map_err(broken)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&client.name);
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

fn set_validity(params: &mut CertificateParams, now: UnixMs, life: Duration) {
    let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now.0 / 1000);
    params.not_before = now - BACKDATE;
    params.not_after = now + life;
}

fn identity(pem: &str, key: &KeyPair) -> Result<Identity, AuthError> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| AuthError(e.to_string()))?;
    Ok(Identity { certificate, key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() })
}

/// Names of agents: 1 to 64 of letters, digits, `_`, `.` and `-`.
///
/// # Errors
/// When it is none.
pub fn check_name(name: &str) -> Result<(), AuthError> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if (1..=64).contains(&name.len()) && name.bytes().all(good) {
        Ok(())
    } else {
        let shown: String = name.chars().take(64).collect();
        Err(AuthError(format!("{shown:?} is no agent name: 1 to 64 of letters, digits, '_', '.' and '-'")))
    }
}

/// SHA-256 of a certificate, in hexadecimal.
#[must_use]
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    Sha256::digest(certificate).iter().map(|b| format!("{b:02x}")).collect()
}

/// The names that the store's certificate must be good for, without repetition.
#[must_use]
pub fn server_names(listen: &[IpAddr], more: &[String]) -> Vec<String> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let fixed = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let bound = listen.iter().filter(|ip| !ip.is_unspecified()).map(IpAddr::to_string);
    let mut names: Vec<String> = Vec::new();
    for name in fixed.into_iter().chain([host]).chain(bound).chain(more.iter().cloned()) {
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_is_made_once_and_opened_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::open(dir.path(), Clock::start()).unwrap().fingerprint();
        let second = Authority::open(dir.path(), Clock::start()).unwrap().fingerprint();
        assert_eq!(first, second);
    }

    #[test]
    fn a_crash_between_key_and_certificate_is_repaired() {
        let dir = tempfile::tempdir().unwrap();
        Authority::open(dir.path(), Clock::start()).unwrap();
        std::fs::remove_file(dir.path().join("ca.pem")).unwrap();
        Authority::open(dir.path(), Clock::start()).unwrap();
    }

    #[test]
    fn a_lost_or_foreign_key_is_said_by_file_name() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Authority::open(dir.path(), Clock::start()).unwrap().paths().clone();
        let other = KeyPair::generate().unwrap().serialize_pem();
        files::replace(&paths.ca_key, other.as_bytes(), Access::Owner).unwrap();
        let error = Authority::open(dir.path(), Clock::start()).unwrap_err().to_string();
        assert!(error.contains("ca.key") && error.contains("ca.pem"), "{error}");
        std::fs::remove_file(&paths.ca_key).unwrap();
        let error = Authority::open(dir.path(), Clock::start()).unwrap_err().to_string();
        assert!(error.contains("ca.key is missing"), "{error}");
    }

    #[test]
    fn an_operator_s_certificate_is_kept_while_fresh_and_replaced_when_its_authority_is_another() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ca = Authority::open(one.path(), Clock::start()).unwrap();
        ca.renew_admin().unwrap();
        let before = std::fs::read(one.path().join("admin.pem")).unwrap();
        ca.renew_admin().unwrap();
        assert_eq!(std::fs::read(one.path().join("admin.pem")).unwrap(), before);
        let other = Authority::open(two.path(), Clock::start()).unwrap();
        other.renew_admin().unwrap();
        std::fs::copy(two.path().join("admin.pem"), one.path().join("admin.pem")).unwrap();
        ca.renew_admin().unwrap();
        assert!(ca.is_fresh(&std::fs::read_to_string(one.path().join("admin.pem")).unwrap()));
    }

    #[test]
    fn a_certificate_request_that_was_tampered_with_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::open(dir.path(), Clock::start()).unwrap();
        let agent = Principal { name: "truck-1".to_owned(), role: Role::Agent };
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap();
        assert!(ca.sign_request(&csr.pem().unwrap(), &agent, AGENT_LIFE).is_ok());
        let mut der = csr.der().to_vec();
        let last = der.len() - 1;
        der[last] ^= 1;
        let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &der);
        let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n");
        assert!(ca.sign_request(&pem, &agent, AGENT_LIFE).is_err());
        assert!(ca.sign_request("nonsense", &agent, AGENT_LIFE).is_err());
    }

    #[test]
    fn names_that_could_be_mistaken_for_something_else_are_refused() {
        for bad in ["", "a:b", "a/b", "a b", "\u{e9}", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        assert!(check_name("truck-1.west_2").is_ok());
    }
}
