//! What can go wrong between a client and a store, in sentences that say what to do next. Never: retries.

use std::io;

use protocol::native::call::{CallError, Goodbye};
use protocol::native::message::MessageError;
use rustls::{AlertDescription, CertificateError};

use super::Target;

/// Why a client could not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// A file, a URL or a certificate on this side.
    #[error("{0}")]
    Setup(String),
    /// The store can't be reached, or one side does not trust the other.
    #[error("{0}")]
    Connect(String),
    /// The connection broke.
    #[error("the connection to the store broke: {0}")]
    Broken(String),
    /// The store closed the connection and said why.
    #[error("the store closed the connection: {} ({})", .0.message, .0.code)]
    Goodbye(Goodbye),
    /// The store said something that makes no sense.
    #[error("the store is not understood: {0}; are both of about the same version?")]
    Nonsense(String),
    /// The store did not do it.
    #[error(transparent)]
    Refused(#[from] CallError),
}

impl From<MessageError> for ClientError {
    fn from(error: MessageError) -> ClientError {
        ClientError::Nonsense(error.to_string())
    }
}

impl ClientError {
    pub(super) fn file(error: io::Error) -> ClientError {
        ClientError::Setup(error.to_string())
    }

    pub(super) fn unreachable(target: &Target, error: &io::Error) -> ClientError {
        let url = &target.url;
        ClientError::Connect(match error.kind() {
            io::ErrorKind::ConnectionRefused => format!(
                "no store answers at {url} (connection refused): is it running? `kinesin serve --data DIR` starts one"
            ),
            io::ErrorKind::TimedOut => format!("no store answers at {url} in time: is the address right?"),
            _ => format!("can't reach {url}: {error}"),
        })
    }

    /// What broke during the handshake or the greeting.
    pub(super) fn handshake(target: &Target, error: &io::Error) -> ClientError {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let Some(inner) = inner else { return ClientError::before_welcome(target, error) };
        let (url, ca) = (&target.url, &target.ca_name);
        ClientError::Connect(match inner {
            rustls::Error::InvalidCertificate(why) => match why {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
                    "the store at {url} is not the one that {ca} belongs to: use the ca.pem of that store's data folder"
                ),
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    format!(
                        "the store's certificate is not for {:?}: start the store with `--san {}`, or use a name that it has",
                        target.url.host, target.url.host
                    )
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => format!(
                    "the certificate of the store at {url} has expired: restart the store, or correct this machine's clock"
                ),
                other => format!("the certificate of the store at {url} can't be trusted: {other}"),
            },
            rustls::Error::AlertReceived(alert) => target.alert_text(*alert),
            rustls::Error::InvalidMessage(_) => {
                format!("what answers at {url} does not speak TLS: is it a Kinesin store?")
            }
            other => format!("no secure connection to {url}: {other}"),
        })
    }

    fn before_welcome(target: &Target, error: &io::Error) -> ClientError {
        let url = &target.url;
        ClientError::Connect(format!("{url} broke the connection off before it said welcome: {error}"))
    }
}

impl Target {
    fn alert_text(&self, alert: AlertDescription) -> String {
        let url = &self.url;
        let Some(identity) = &self.identity else {
            return format!("the store at {url} refused the connection ({alert:?})");
        };
        let ours = &identity.name;
        match alert {
            AlertDescription::CertificateExpired => format!(
                "the store at {url} refused {ours}: it has expired (or a clock is wrong); \
                 an agent enrols again with a new token, an operator restarts the store"
            ),
            AlertDescription::UnknownCA | AlertDescription::DecryptError => format!(
                "the store at {url} refused {ours}: it is from another authority; \
                 use a certificate that this store has given"
            ),
            AlertDescription::NoApplicationProtocol => {
                format!("the store at {url} does not speak this version of the protocol")
            }
            other => format!("the store at {url} refused {ours} ({other:?})"),
        }
    }
}
