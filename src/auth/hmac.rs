//! Random bytes and keyed hashes.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::Error;

/// Makes authentication codes under one key.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

pub type Code = [u8; 32];

impl Key {
    /// A key of this process alone.
    pub fn random() -> Result<Key, Error> {
        let mut bytes = [0; 32];
        random(&mut bytes)?;
        Ok(Key::from_bytes(&bytes))
    }

    pub fn from_bytes(bytes: &[u8]) -> Key {
        Key(Hmac::new_from_slice(bytes).expect("HMAC takes keys of every length"))
    }

    fn over(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut hmac = self.0.clone();
        for part in parts {
            // So that no two lists of parts make the same bytes.
            hmac.update(&(part.len() as u64).to_be_bytes());
            hmac.update(part);
        }
        hmac
    }

    pub fn code(&self, parts: &[&[u8]]) -> Code {
        self.over(parts).finalize().into_bytes().into()
    }

    /// In constant time.
    pub fn verifies(&self, parts: &[&[u8]], code: &[u8]) -> bool {
        self.over(parts).verify_slice(code).is_ok()
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

pub fn random(bytes: &mut [u8]) -> Result<(), Error> {
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(bytes)
        .map_err(|_| Error::Random)
}
