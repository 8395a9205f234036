//! Users and their passwords: those of `--user`, and a file as Apache's `htpasswd`
//! writes it (bcrypt only).
//!
//! Everybody costs the same, known or not: the bcrypt rounds of the dearest hash
//! there is. The comparisons take constant time.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bcrypt::{HashParts, Version};

use super::Error;
use super::hmac::{Code, Key, random};
use super::watched::Watched;

/// What a hash costs without a file that says, and what `registry password` makes:
/// 2^10 rounds, some 50 ms.
pub const COST: u32 = 10;
/// The range that is taken: a cost of 16 holds a core for seconds.
pub const COST_MIN: u32 = 4;
pub const COST_MAX: u32 = 16;
/// Longest name of a user in bytes.
const NAME_MAX: usize = 255;
/// Longest password in bytes: bcrypt looks at no more.
const PASSWORD_MAX: usize = 72;

/// A user given to the server itself.
#[derive(Clone)]
pub struct User {
    pub name: String,
    pub password: String,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("User").field(&self.name).finish()
    }
}

#[derive(Debug)]
pub struct Users {
    key: Key,
    fixed: HashMap<Arc<str>, Fixed>,
    file: Option<Watched<File>>,
    /// A hash whose password is unknown, of the cost [`COST_MIN`].
    dummy: String,
}

/// What is kept of a password given to `--user`.
#[derive(Debug)]
struct Fixed {
    /// Under a key of this process.
    code: Code,
    /// See [`Users::stamp`].
    stamp: Code,
}

/// The hashes of a file.
#[derive(Debug)]
struct File {
    hashes: HashMap<Arc<str>, Hash>,
    /// The dearest of them.
    cost: u32,
}

#[derive(Debug)]
struct Hash {
    text: String,
    cost: u32,
}

impl Users {
    pub fn new(fixed: &[User], file: Option<&Path>) -> Result<Users, Error> {
        let key = Key::random()?;
        let mut codes = HashMap::new();
        for User { name, password } in fixed {
            let fixed = Fixed { code: key.code(&[password.as_bytes()]), stamp: stamp(password) };
            if codes.insert(Arc::from(name.as_str()), fixed).is_some() {
                return Err(Error::UserTwice(name.clone()));
            }
        }
        let file = file.map(|path| Watched::open(path, parse)).transpose()?;
        if let Some(file) = &file
            && let Some(name) = codes.keys().find(|name| file.get().hashes.contains_key(*name))
        {
            return Err(Error::UserTwice(name.to_string()));
        }
        let (mut salt, mut password) = ([0; 16], [0; PASSWORD_MAX]);
        random(&mut salt)?;
        random(&mut password)?;
        let dummy = bcrypt::hash_with_salt(password, COST_MIN, salt);
        let dummy = dummy.map_err(|cause| Error::Password(cause.to_string()))?;
        Ok(Users { key, fixed: codes, file, dummy: dummy.to_string() })
    }

    pub fn reload(&self) {
        if let Some(file) = &self.file {
            file.reload();
        }
    }

    /// Another number whenever the users have changed.
    pub fn generation(&self) -> u64 {
        self.file.as_ref().map_or(0, Watched::generation)
    }

    /// What changes with the user's password; `None`: there is no such user.
    pub fn stamp(&self, name: &str) -> Option<Code> {
        match self.fixed.get(name) {
            Some(fixed) => Some(fixed.stamp),
            None => {
                let file = self.file.as_ref()?.get();
                Some(stamp(&file.hashes.get(name)?.text))
            }
        }
    }

    /// Whether the password is the user's.
    pub fn verify(&self, name: &str, password: &str) -> bool {
        let file = self.file.as_ref().map(Watched::get);
        let dearest = file.as_ref().map_or(COST, |file| file.cost);
        let hash = file.as_ref().and_then(|file| file.hashes.get(name));
        let hashed = hash.is_some_and(|hash| verify(password, &hash.text));
        // Each cost has twice the rounds of the one below, so the rounds that
        // lack are those of the costs in between, and once more the lowest.
        match hash {
            Some(hash) => (hash.cost..dearest).for_each(|cost| self.pretend(password, cost)),
            None => self.pretend(password, dearest),
        }
        let fixed = self.fixed.get(name);
        let code = fixed.map_or(&[0; 32], |fixed| &fixed.code);
        let equal = self.key.verifies(&[password.as_bytes()], code);
        hashed | (equal & fixed.is_some())
    }

    /// Takes the time of a verification.
    fn pretend(&self, password: &str, cost: u32) {
        let low = format!("${COST_MIN:02}$");
        let dummy = self.dummy.replacen(&low, &format!("${cost:02}$"), 1);
        std::hint::black_box(verify(password, &dummy));
    }
}

fn verify(password: &str, hash: &str) -> bool {
    bcrypt::verify(password, hash).expect("a hash that was parsed, of a cost that was checked")
}

fn stamp(text: &str) -> Code {
    Key::from_bytes(b"stamp").code(&[text.as_bytes()])
}

fn parse(path: &Path, text: &str) -> Result<File, Error> {
    let mut file = File { hashes: HashMap::new(), cost: COST_MIN };
    for (line, text) in text.lines().enumerate() {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let failed = |why: String| Error::line(path, line + 1, why);
        let (name, hash) =
            text.split_once(':').ok_or_else(|| failed("want NAME:HASH".to_owned()))?;
        check_name(name).map_err(|why| failed(why.to_owned()))?;
        let parts: HashParts = hash.parse().map_err(|_| {
            failed(format!(
                "the hash of {name:?} is not bcrypt's: only that is taken, as `htpasswd -B` and `registry password` write it"
            ))
        })?;
        let cost = parts.get_cost();
        if !(COST_MIN..=COST_MAX).contains(&cost) {
            let why =
                format!("the hash of {name:?} has the cost {cost}, want {COST_MIN} to {COST_MAX}");
            return Err(failed(why));
        }
        file.cost = file.cost.max(cost);
        let hash = Hash { text: hash.to_owned(), cost };
        if file.hashes.insert(name.into(), hash).is_some() {
            return Err(failed(format!("{name:?} is there twice")));
        }
    }
    if file.hashes.is_empty() {
        file.cost = COST;
        tracing::warn!(path = %path.display(), "there is no user in it: nobody can log in");
    }
    Ok(file)
}

pub fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty()
        || name.len() > NAME_MAX
        || name.contains([':', ','])
        || name.contains(char::is_control)
    {
        Err("a user's name has 1 to 255 bytes, without colons, commas and control characters")
    } else {
        Ok(())
    }
}

/// The line of a file that lets the user in with the password.
pub fn line(name: &str, password: &str, cost: u32) -> Result<String, Error> {
    check_name(name).map_err(|why| Error::Password(why.to_owned()))?;
    if password.is_empty() || password.len() > PASSWORD_MAX || password.contains('\0') {
        let why = format!("a password has 1 to {PASSWORD_MAX} bytes: bcrypt looks at no more");
        return Err(Error::Password(why));
    }
    let mut salt = [0; 16];
    random(&mut salt)?;
    let hash = bcrypt::hash_with_salt(password, cost, salt)
        .map_err(|cause| Error::Password(cause.to_string()))?;
    // Apache's name for the version, which every reader takes.
    Ok(format!("{name}:{}", hash.format_for_version(Version::TwoY)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn passwords() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        let lines = [("ann", "a:pässword", 4), ("bob", "b", 5)]
            .map(|(name, password, cost)| line(name, password, cost).unwrap());
        fs::write(&path, format!("# staff\n\n{}\n {} \n", lines[0], lines[1])).unwrap();
        let user = |name: &str, password: &str| User {
            name: name.to_owned(),
            password: password.to_owned(),
        };
        let fixed = [user("carl", "c,")];
        let users = Users::new(&fixed, Some(&path)).unwrap();
        for (name, password, right) in [
            ("ann", "a:pässword", true),
            ("ann", "a:passwort", false),
            ("ann", "", false),
            ("bob", "b", true),
            ("bob", "a:pässword", false),
            ("carl", "c,", true),
            ("carl", "c", false),
            ("carl", "", false),
            ("dora", "", false),
            ("dora", "\0", false),
            ("", "", false),
        ] {
            assert_eq!(users.verify(name, password), right, "{name}:{password}");
        }
        assert!(users.stamp("ann").is_some() && users.stamp("dora").is_none());
        assert_ne!(users.stamp("ann"), users.stamp("bob"));
        let twice = [user("ann", "x")];
        assert!(Users::new(&twice, Some(&path)).is_err());
    }

    /// Known answers of the algorithm, from Openwall's crypt_blowfish.
    #[test]
    fn known_hashes() {
        for (password, hash) in [
            ("U*U", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"),
            ("U*U*U", "$2a$05$XXXXXXXXXXXXXXXXXXXXXOAcXxm9kjPGEMsLznoKqmqw7tc8WCx4a"),
        ] {
            let file = parse(Path::new("x"), &format!("u:{hash}")).unwrap();
            assert!(verify(password, &file.hashes["u"].text));
        }
    }

    #[test]
    fn refused() {
        let good = line("ann", "x", 4).unwrap();
        for (text, why) in [
            ("ann".to_owned(), "NAME:HASH"),
            ("ann:".to_owned(), "not bcrypt"),
            ("ann:secret".to_owned(), "not bcrypt"),
            ("ann:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=".to_owned(), "not bcrypt"),
            ("ann:$apr1$x$abcdefghijklmnopqrstuv".to_owned(), "not bcrypt"),
            (good.replace("$04$", "$17$"), "cost 17"),
            (good.replace("$04$", "$03$"), "cost 3"),
            (format!("{good}\n{good}"), "line 2: \"ann\" is there twice"),
            (good.replace("ann:", ":"), "name"),
            (good.replace("ann:", "a\tnn:"), "name"),
        ] {
            let error = parse(Path::new("x"), &text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        for (name, password) in
            [("", "x"), ("a:b", "x"), ("a", ""), ("a", "\0"), ("a", &"x".repeat(73))]
        {
            assert!(line(name, password, 4).is_err(), "{name:?} {password:?}");
        }
    }
}
