//! Who is asking, and how it is proved: the local certificate authority ([`ca`]), TLS ([`tls`]), enrolment
//! ([`tokens`]), access keys ([`keys`]). Never in here: what a principal may do to streams (that is the service), sockets.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use protocol::native::call::{CallError, CallErrorCode, Reply};
use protocol::time::UnixMs;
use rustls::ServerConfig;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::principal::{Principal, Role};
use crate::service::Service;

pub mod ca;
pub mod files;
pub mod keys;
pub mod tls;
pub mod tokens;

use ca::Authority;
use tokens::Token;

/// What is wrong with a certificate, a key, a token or their files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AuthError(pub String);

impl From<std::io::Error> for AuthError {
    fn from(error: std::io::Error) -> AuthError {
        AuthError(error.to_string())
    }
}

/// Longest time that a token may be usable.
pub const TOKEN_TTL_S_MAX: u64 = 365 * 24 * 3600;
/// Most often that a token may be used.
pub const TOKEN_USES_MAX: u32 = 100_000;

/// The authority with the TLS settings that it gives to connections.
#[derive(Debug)]
pub struct Auth {
    authority: Authority,
    keys: keys::Keys,
    names: Vec<String>,
    alpn: Vec<&'static [u8]>,
    config: watch::Sender<Arc<ServerConfig>>,
    clock: Clock,
}

impl Auth {
    /// Opens (or makes) the authority of a data folder and renews the store's and the operator's certificates.
    ///
    /// # Errors
    /// When files can't be read or written, or do not belong together.
    pub fn open(
        dir: &Path,
        names: Vec<String>,
        alpn: Vec<&'static [u8]>,
        clock: Clock,
    ) -> Result<Auth, AuthError> {
        let authority = Authority::open(dir, clock)?;
        authority.renew_admin()?;
        let keys = keys::Keys::open(dir)?;
        let config = tls::server_config(&authority, authority.renew_server(&names)?, &alpn)?;
        Ok(Auth { authority, keys, names, alpn, config: watch::channel(config).0, clock })
    }

    /// The authority.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Who may sign requests.
    #[must_use]
    pub fn keys(&self) -> &keys::Keys {
        &self.keys
    }

    /// TLS for the next connection.
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.config.borrow().clone()
    }

    /// Makes new certificates for the store and, where it is time, for the operator. Connections that are open
    /// keep theirs.
    ///
    /// # Errors
    /// When files can't be written; the old certificate stays in use.
    pub fn renew(&self) -> Result<(), AuthError> {
        self.authority.renew_admin()?;
        let identity = self.authority.renew_server(&self.names)?;
        self.config.send_replace(tls::server_config(&self.authority, identity, &self.alpn)?);
        Ok(())
    }

    /// How long the store's certificate is used before it is renewed.
    #[must_use]
    pub fn renew_every() -> Duration {
        ca::SERVER_LIFE / 3 * 2
    }

    /// Makes an enrolment token.
    pub async fn create_token(
        &self,
        service: &Service,
        asking: &Principal,
        agent: &str,
        ttl_s: u64,
        uses: u32,
    ) -> Reply {
        let made = self.try_create_token(service, asking, agent, ttl_s, uses).await;
        made.unwrap_or_else(Reply::Error)
    }

    async fn try_create_token(
        &self,
        service: &Service,
        asking: &Principal,
        agent: &str,
        ttl_s: u64,
        uses: u32,
    ) -> Result<Reply, CallError> {
        if asking.role != Role::Admin {
            return Err(error(CallErrorCode::Denied, "only an admin certificate may make enrolment tokens"));
        }
        ca::check_name(agent).map_err(|e| error(CallErrorCode::Invalid, e))?;
        if !(1..=TOKEN_TTL_S_MAX).contains(&ttl_s) {
            return Err(error(CallErrorCode::Invalid, "a token is usable for 1 second to 365 days"));
        }
        if !(1..=TOKEN_USES_MAX).contains(&uses) {
            return Err(error(CallErrorCode::Invalid, "a token may be used 1 to 100000 times"));
        }
        let token = Token::new(&self.authority.fingerprint()).map_err(internal)?;
        let expires = UnixMs(self.clock.wall().0.saturating_add(ttl_s * 1000));
        service.put_token(agent, token.hash(), expires, uses).await?;
        Ok(Reply::Token { token: token.text(), expires })
    }

    /// Turns a token and a certificate request into an agent's certificate. The request is looked at first, so
    /// that a bad one does not use the token up.
    pub async fn enroll(&self, service: &Service, token: &str, csr_pem: &str) -> Reply {
        self.try_enroll(service, token, csr_pem).await.unwrap_or_else(Reply::Error)
    }

    async fn try_enroll(&self, service: &Service, token: &str, csr_pem: &str) -> Result<Reply, CallError> {
        let token = Token::parse(token).map_err(|e| error(CallErrorCode::Invalid, e))?;
        let fingerprint = self.authority.fingerprint();
        if !token.is_of(&fingerprint) {
            let ours = &fingerprint[..tokens::CA_DIGITS];
            let text = format!(
                "this token is for the store whose CA has the fingerprint {}…; this store's is {ours}…: \
                 make a token on this store, or correct the url",
                token.ca()
            );
            return Err(error(CallErrorCode::Denied, text));
        }
        self.issue(csr_pem, &Principal { name: "check".to_owned(), role: Role::Agent })?;
        let name = service.redeem_token(token.hash()).await?;
        self.issue(csr_pem, &Principal { name, role: Role::Agent })
    }

    /// A fresh certificate for the same principal.
    #[must_use]
    pub fn renew_client(&self, asking: &Principal, csr_pem: &str) -> Reply {
        self.issue(csr_pem, asking).unwrap_or_else(Reply::Error)
    }

    fn issue(&self, csr_pem: &str, client: &Principal) -> Result<Reply, CallError> {
        let life = if client.role == Role::Admin { ca::ADMIN_LIFE } else { ca::AGENT_LIFE };
        let signed = self.authority.sign_request(csr_pem, client, life);
        let certificate_pem = signed.map_err(|e| error(CallErrorCode::Invalid, e))?;
        Ok(Reply::Certificate { certificate_pem, ca_pem: self.authority.pem().to_owned() })
    }
}

fn error(code: CallErrorCode, message: impl ToString) -> CallError {
    CallError { code, message: message.to_string() }
}

fn internal(error: AuthError) -> CallError {
    CallError { code: CallErrorCode::Internal, message: error.0 }
}
