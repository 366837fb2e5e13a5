//! Who is asking, after authentication, and what that allows. Never: how it was proved (that is `auth`).

use std::fmt;

/// What a principal may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// Write to streams, and make those that are missing where the store allows it.
    Agent,
    /// Nothing but exchange an enrolment token: a connection without a certificate.
    Anonymous,
}

/// Who is asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Name in the certificate; `anonymous` without one.
    pub name: String,
    /// What it may do.
    pub role: Role,
}

impl Principal {
    /// A connection that has shown nothing yet.
    #[must_use]
    pub fn anonymous() -> Principal {
        Principal { name: "anonymous".to_owned(), role: Role::Anonymous }
    }

    /// Whether it may write records.
    #[must_use]
    pub fn may_write(&self) -> bool {
        matches!(self.role, Role::Admin | Role::Agent)
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
