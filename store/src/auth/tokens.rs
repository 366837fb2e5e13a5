//! Enrolment tokens: `kt1.SECRET.CA`. The secret is 32 random bytes, shown once and kept as a hash only; `CA` is
//! the start of the SHA-256 of the authority's certificate, so that an agent (or a store) notices at once when
//! token and authority do not belong together. Never: where hashes are kept (that is the service).

use std::fmt;

use sha2::{Digest, Sha256};

use super::AuthError;

const VERSION: &str = "kt1";
const SECRET_BYTES: usize = 32;
/// Hexadecimal digits of the authority's fingerprint in a token.
pub const CA_DIGITS: usize = 16;

/// A token, read or made.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    secret: [u8; SECRET_BYTES],
    ca: String,
}

impl Token {
    /// A new one for the authority with this fingerprint.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn new(ca_fingerprint: &str) -> Result<Token, AuthError> {
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret).map_err(|e| AuthError(format!("no randomness for a token: {e}")))?;
        Ok(Token { secret, ca: ca_fingerprint.chars().take(CA_DIGITS).collect() })
    }

    /// Reads what [`Token::text`] wrote.
    ///
    /// # Errors
    /// When it is none. The message does not repeat it: it may be a secret of something else.
    pub fn parse(text: &str) -> Result<Token, AuthError> {
        let none =
            || AuthError("that is no enrolment token; `kinesin agent enroll NAME` prints one".to_owned());
        let mut parts = text.trim().split('.');
        let (version, secret, ca) = (parts.next(), parts.next(), parts.next());
        let (Some(VERSION), Some(secret), Some(ca), None) = (version, secret, ca, parts.next()) else {
            return Err(none());
        };
        let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
        if secret.len() != SECRET_BYTES * 2 || ca.len() != CA_DIGITS || !is_hex(secret) || !is_hex(ca) {
            return Err(none());
        }
        let mut bytes = [0; SECRET_BYTES];
        for (byte, digits) in bytes.iter_mut().zip(secret.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| none())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| none())?;
        }
        Ok(Token { secret: bytes, ca: ca.to_ascii_lowercase() })
    }

    /// The token as it is shown once.
    #[must_use]
    pub fn text(&self) -> String {
        let secret: String = self.secret.iter().map(|b| format!("{b:02x}")).collect();
        format!("{VERSION}.{secret}.{}", self.ca)
    }

    /// What is kept of it.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.secret).into()
    }

    /// Whether it was made by the authority with this fingerprint.
    #[must_use]
    pub fn is_of(&self, ca_fingerprint: &str) -> bool {
        ca_fingerprint.get(..CA_DIGITS) == Some(self.ca.as_str())
    }

    /// Start of its authority's fingerprint.
    #[must_use]
    pub fn ca(&self) -> &str {
        &self.ca
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(secret, of {})", self.ca)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_knows_its_authority_and_hides_its_secret() {
        let ca = "0123456789abcdef0123";
        let token = Token::new(ca).unwrap();
        assert_eq!(Token::parse(&token.text()).unwrap(), token);
        assert!(token.is_of(ca) && !token.is_of("ff23456789abcdef0123"));
        assert!(!format!("{token:?}").contains(&token.text()[4..20]));
        assert_ne!(token.hash(), Token::new(ca).unwrap().hash());
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let good = Token::new("0123456789abcdef").unwrap().text();
        for bad in
            ["", "kt1", "kt1..", &good[..good.len() - 1], &good.replace("kt1", "kt2"), &format!("{good}.x")]
        {
            assert!(Token::parse(bad).is_err(), "{bad}");
        }
    }
}
