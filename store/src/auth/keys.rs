//! Access keys: who signs requests with a shared secret. Kept in a file of the form that such clients read themselves
//! (`[profile]`, `aws_access_key_id`, `aws_secret_access_key`, `aws_account_id`). Never: how a request is signed.

use std::collections::BTreeMap;
use std::path::Path;

use super::AuthError;
use super::files::{self, Access};
use crate::principal::{Principal, Role};

/// Name of the file in the data folder.
pub const FILE: &str = "admin.credentials";
/// The account of a key that names none.
pub const ACCOUNT: &str = "000000000000";

/// One key.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessKey {
    /// What requests are signed with.
    pub secret: String,
    /// Twelve digits.
    pub account: String,
    /// Who that is.
    pub principal: Principal,
}

impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AccessKey(secret, {} of {})", self.principal, self.account)
    }
}

/// All keys that are known, by their id.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    by_id: BTreeMap<String, AccessKey>,
    home: String,
}

/// Whether the file, where there is one, says what it should; for `kinesin check`.
///
/// # Errors
/// As [`Keys::open`].
pub fn inspect(dir: &Path) -> Result<(), AuthError> {
    if dir.join(FILE).exists() { Keys::open(dir).map(drop) } else { Ok(()) }
}

impl Keys {
    /// Reads the file of a data folder; makes it, with one key, where there is none.
    ///
    /// # Errors
    /// When it can't be read or written, or says something else.
    pub fn open(dir: &Path) -> Result<Keys, AuthError> {
        let path = dir.join(FILE);
        let text = match files::read_text(&path)? {
            Some(text) => text,
            None => {
                let text = new_file()?;
                files::replace(&path, text.as_bytes(), Access::Owner)?;
                text
            }
        };
        Keys::parse(&text).map_err(|why| AuthError(format!("{}: {why}", path.display())))
    }

    /// The account of the first key in the file: the one whose streams agents write to.
    #[must_use]
    pub fn home_account(&self) -> &str {
        &self.home
    }

    /// The key with this id.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<&AccessKey> {
        self.by_id.get(id)
    }

    /// The key of agents and of `kinesin`, with its id.
    #[must_use]
    pub fn first(&self) -> Option<(&str, &AccessKey)> {
        let mut own = self.by_id.iter().filter(|(_, key)| key.account == self.home);
        own.next().map(|(id, key)| (id.as_str(), key))
    }

    fn parse(text: &str) -> Result<Keys, String> {
        let mut profiles: Vec<(String, BTreeMap<String, String>)> = Vec::new();
        for line in
            text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';']))
        {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                profiles.push((name.trim().to_owned(), BTreeMap::new()));
            } else if let (Some((name, value)), Some((_, values))) =
                (line.split_once('='), profiles.last_mut())
            {
                values.insert(name.trim().to_owned(), value.trim().to_owned());
            } else {
                // A line may hold a secret, so it is not repeated.
                return Err("a line is neither [profile] nor name = value behind one".to_owned());
            }
        }
        let mut keys = Keys::default();
        for (profile, mut values) in profiles {
            let mut take = |name: &str| {
                values
                    .remove(name)
                    .filter(|value| !value.is_empty())
                    .ok_or(format!("[{profile}] has no {name}"))
            };
            let (id, secret) = (take("aws_access_key_id")?, take("aws_secret_access_key")?);
            let account = take("aws_account_id").unwrap_or_else(|_| ACCOUNT.to_owned());
            if account.len() != 12 || !account.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(format!("[{profile}]: aws_account_id is not twelve digits"));
            }
            if keys.home.is_empty() {
                keys.home.clone_from(&account);
            }
            let principal = Principal { name: profile, role: Role::Admin };
            keys.by_id.insert(id, AccessKey { secret, account, principal });
        }
        if keys.by_id.is_empty() { Err("it has no key".to_owned()) } else { Ok(keys) }
    }
}

fn random(alphabet: &[u8], length: usize) -> Result<String, AuthError> {
    let mut bytes = vec![0; length];
    getrandom::fill(&mut bytes).map_err(|e| AuthError(format!("no randomness for an access key: {e}")))?;
    // Both alphabets have a power of two of signs, so none is likelier than another.
    Ok(bytes.iter().map(|byte| char::from(alphabet[usize::from(*byte) % alphabet.len()])).collect())
}

fn new_file() -> Result<String, AuthError> {
    const IDS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    const SECRETS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (id, secret) = (random(IDS, 16)?, random(SECRETS, 40)?);
    Ok(format!(
        "# Made by kinesin on first start. Whoever has it may do everything with this store's streams.\n\
         [default]\naws_access_key_id = KNSN{id}\naws_secret_access_key = {secret}\n\
         # The region of streams that agents write to (see serve --region).\nregion = local-1\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_and_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let made = Keys::open(dir.path()).unwrap();
        let again = Keys::open(dir.path()).unwrap();
        assert_eq!(made.by_id, again.by_id);
        let (id, key) = made.by_id.first_key_value().unwrap();
        assert_eq!((id.len(), key.secret.len(), key.account.as_str()), (20, 40, ACCOUNT));
        assert!(!format!("{made:?}").contains(&key.secret));
        let mode = std::fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn further_keys_belong_to_accounts_of_their_own_and_bad_files_are_refused() {
        let key = "aws_access_key_id=A\naws_secret_access_key = S=\n";
        let keys = Keys::parse(&format!("; x\n[default]\n{key}aws_account_id=123456789012")).unwrap();
        assert_eq!(
            (keys.find("A").unwrap().secret.as_str(), keys.find("A").unwrap().account.as_str()),
            ("S=", "123456789012")
        );
        assert_eq!(keys.home_account(), "123456789012");
        for bad in ["", "x", key, "[a]\naws_access_key_id=A", &format!("[a]\n{key}aws_account_id=1")] {
            assert!(Keys::parse(bad).is_err(), "{bad}");
        }
    }
}
