//! Content digests: `algorithm:hex` (image-spec, descriptor.md, "Digests").

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256, Sha512};

/// The registered digest algorithms that this registry stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    pub const ALL: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    pub fn hasher(self) -> Hasher {
        match self {
            Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(Sha512::new()),
        }
    }

    pub fn digest(self, bytes: &[u8]) -> Digest {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        hasher.finish()
    }
}

impl FromStr for Algorithm {
    type Err = DigestError;

    fn from_str(s: &str) -> Result<Self, DigestError> {
        Algorithm::ALL
            .into_iter()
            .find(|a| a.as_str() == s)
            .ok_or_else(|| DigestError::Unsupported(s.to_owned()))
    }
}

/// A hash under way. sha2 picks the CPU's SHA instructions at run time.
#[derive(Clone, Debug)]
pub enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Hasher::Sha256(_) => Algorithm::Sha256,
            Hasher::Sha512(_) => Algorithm::Sha512,
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(h) => h.update(bytes),
            Hasher::Sha512(h) => h.update(bytes),
        }
    }

    pub fn finish(self) -> Digest {
        match self {
            Hasher::Sha256(h) => Digest::Sha256(h.finalize().into()),
            Hasher::Sha512(h) => Digest::Sha512(h.finalize().into()),
        }
    }
}

/// A parsed digest. Its text is safe as a path component and as a database
/// key, because only [`FromStr`] and [`Hasher`] make one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Digest {
    Sha256([u8; 32]),
    Sha512([u8; 64]),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    #[error("{0:?} is not a digest: want sha256: and 64, or sha512: and 128, lowercase hex digits")]
    Malformed(String),
    #[error("digest algorithm {0:?} is not supported: use sha256 or sha512")]
    Unsupported(String),
}

impl Digest {
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Digest::Sha256(_) => Algorithm::Sha256,
            Digest::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The hash.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Digest::Sha256(b) => b,
            Digest::Sha512(b) => b,
        }
    }

    /// The beginning of the hash: enough to tell all content of a registry apart. Tables of many
    /// digests are smaller with it. Two digests that were made to look the same only harm those that
    /// pushed them.
    pub fn beginning(&self) -> u128 {
        let mut beginning = [0; 16];
        beginning.copy_from_slice(&self.as_bytes()[..16]);
        u128::from_be_bytes(beginning)
    }

    /// The lowercase hex digits, without the algorithm.
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = String::with_capacity(2 * self.as_bytes().len());
        for byte in self.as_bytes() {
            hex.push(char::from(DIGITS[usize::from(byte >> 4)]));
            hex.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        hex
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(s: &str) -> Result<Self, DigestError> {
        let malformed = || DigestError::Malformed(s.chars().take(160).collect());
        let (algorithm, hex) = s.split_once(':').ok_or_else(malformed)?;
        // Uppercase hex is another spelling of the same bytes; the spec
        // forbids it, and two paths for one blob would be two blobs.
        match algorithm {
            "sha256" => decode(hex).map(Digest::Sha256).ok_or_else(malformed),
            "sha512" => decode(hex).map(Digest::Sha512).ok_or_else(malformed),
            _ if is_algorithm(algorithm) && !hex.is_empty() => {
                Err(DigestError::Unsupported(algorithm.to_owned()))
            }
            _ => Err(malformed()),
        }
    }
}

/// `algorithm ::= component (separator component)*`, separators `+._-`.
fn is_algorithm(s: &str) -> bool {
    s.len() <= 64
        && s.split(['+', '.', '_', '-']).all(|part| {
            !part.is_empty() && part.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9'))
        })
}

fn decode<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let nibble = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else {
        return None;
    };
    if pairs.len() != N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, &[high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = nibble(high)? << 4 | nibble(low)?;
    }
    Some(bytes)
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm().as_str())?;
        f.write_str(":")?;
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn round_trip() {
        let empty: Digest = EMPTY.parse().unwrap();
        assert_eq!(empty, Algorithm::Sha256.digest(b""));
        assert_eq!(empty.to_string(), EMPTY);
        let long = Algorithm::Sha512.digest(b"x");
        assert_eq!(long.to_string().parse(), Ok(long));
        assert_eq!(long.hex().len(), 128);
    }

    #[test]
    fn refused() {
        let upper = EMPTY.to_uppercase().replace("SHA256", "sha256");
        for (text, why) in [
            ("", "empty"),
            ("sha256", "no colon"),
            ("sha256:", "no hex"),
            (&EMPTY[..70], "one digit short"),
            (&format!("{EMPTY}0"), "one digit long"),
            (&upper, "uppercase hex"),
            (&EMPTY.replace("e3", "g3"), "not hex"),
            (&EMPTY.replace("sha256", "sha512"), "sha256's length as sha512"),
            (&EMPTY.replace("sha256:", "sha256:../"), "path"),
            (&format!(" {EMPTY}"), "blank"),
            ("../../etc:passwd", "path as algorithm"),
        ] {
            assert!(matches!(text.parse::<Digest>(), Err(DigestError::Malformed(_))), "{why}");
        }
        assert_eq!("md5:abc".parse::<Digest>(), Err(DigestError::Unsupported("md5".into())));
    }
}
